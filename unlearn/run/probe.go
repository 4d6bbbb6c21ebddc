package run

import (
	"context"
	"slices"
	"strconv"
	"time"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/metrics"
)

// Speed is how fast this device is with a network and images, in seconds.
type Speed struct {
	Device string  `json:"device"`
	Attack float64 `json:"attack"` // of one iteration on one pair; 0 where the method has no attack
	Step   float64 `json:"step"`   // of unlearning, for one image of the step
	Spread float64 `json:"spread"` // between the fastest and the slowest step, as a share of the middle one
	Score  float64 `json:"score"`  // of scoring one image
	Start  float64 `json:"start"`  // of reading data and network
	Scored int     `json:"scored"` // images that are scored before, and again after
	Train  int     `json:"train"`  // training images
	Memory int64   `json:"memory"` // largest, in bytes: of the process, or on the GPU
}

// Probe measures the parts of a forget job for about so long, and writes nothing. The job is to be one whose method has a loop
// of gradient steps.
func Probe(ctx context.Context, inv Invocation, budget time.Duration) (*Speed, error) {
	f := &forgetting{desk: desk{Invocation: inv}, began: time.Now()}
	if err := f.decode(); err != nil {
		return nil, err
	}
	if f.method.Scratch || f.method.Ladder != nil {
		return nil, Usagef("--method %s has no gradient steps to measure", f.method.Name)
	}
	s := &Speed{}
	err := f.onDevice(f.o.ComputeOptions, func() error {
		defer f.close()
		f.o.DryRun = false
		if err := f.prepare(ctx); err != nil {
			return err
		}
		if err := f.openViews(); err != nil {
			return err
		}
		s.Device, s.Start = f.computer(), time.Since(f.began).Seconds()
		s.Train = f.train.Len()
		s.Scored = len(f.set.Indices) + len(f.limited(f.rest)) + f.test.Len()
		if err := f.probeScores(ctx, s, budget/4); err != nil {
			return err
		}
		task := &unlearn.Task{
			Net: f.net, Classes: len(f.train.Classes), Forget: f.wanted, Meter: f.meter, EvalBatch: f.batch(), Seed: f.compute.Seed, Witness: f.mode != engine.Reference,
		}
		if err := f.probeAttack(ctx, s, task, budget/4); err != nil {
			return err
		}
		f.thaw()
		if err := f.probeSteps(ctx, s, task, budget/2); err != nil {
			return err
		}
		if s.Memory = peakMemory(); f.device.Type == torch.CUDAType {
			s.Memory = cuda.MemoryOf(f.device).PeakAllocated
		}
		return nil
	})
	return s, interrupted(ctx, "", err)
}

func (f *forgetting) probeScores(ctx context.Context, s *Speed, budget time.Duration) error {
	some := f.loaders[1].View(data.PartTest, data.All(min(f.batch().N(), f.desk.test.Len())), f.meter)
	return repeat(budget, func() error {
		began := time.Now()
		_, err := metrics.Evaluate(ctx, f.frozen().Logits, some, f.batch(), nil)
		s.Score = time.Since(began).Seconds() / float64(some.Len())
		return err
	})
}

// probeAttack attacks as many pairs as are attacked at once, with few iterations, and leaves what drives the steps to the task.
func (f *forgetting) probeAttack(ctx context.Context, s *Speed, task *unlearn.Task, budget time.Duration) error {
	switch f.method.Driver {
	case unlearn.ByRetain:
		task.Driver = f.loaders[0].View(data.PartRetain, f.rest, f.meter)
	case unlearn.ByAdversarial:
		o := f.attack
		pairs, err := f.pairCount(&o, f.set)
		if err != nil {
			return err
		}
		k := len(f.set.Indices)
		atOnce := f.attackJob(o, f.loop.ForgetBatch, f.set, f.images.X, 0).Chunk.N()
		o.Num, o.Iters = strconv.Itoa(max(1, min(pairs, max(atOnce, f.loop.AdvBatch))/k)), 2
		if err := repeat(budget, func() error {
			job := f.attackJob(o, f.loop.ForgetBatch, f.set, f.images.X, 0)
			set, err := job.Plan()
			if err != nil {
				return err
			}
			began := time.Now()
			if err := job.Run(ctx, set, nil); err != nil {
				return err
			}
			s.Attack = time.Since(began).Seconds() / float64(o.Iters*len(set.Pairs))
			o.Iters = 10
			if f.crafted != nil {
				f.crafted.Free()
			}
			f.crafted = set
			task.Driver = &unlearn.Examples{X: set.X, Y: set.Targets().To(f.device, torch.Long)}
			return nil
		}); err != nil {
			return err
		}
	case unlearn.ByForget:
	}
	return nil
}

// probeSteps does steps of the method. The first allocates, and is not counted.
func (f *forgetting) probeSteps(ctx context.Context, s *Speed, task *unlearn.Task, budget time.Duration) error {
	if f.method.Anchored {
		for _, p := range unlearn.Trainable(f.net, f.loop.BN) {
			task.Anchors = append(task.Anchors, p.Tensor.Detach().OnesLike())
		}
	}
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	began := time.Now()
	var times []float64
	var last time.Time
	task.Observe = func(r unlearn.Record) {
		now := time.Now()
		if !last.IsZero() {
			times = append(times, now.Sub(last).Seconds()/float64(r.NDriver+r.NForget))
		}
		last = now
		if len(times) >= 3 && now.Sub(began) > budget {
			enough()
		}
	}
	f.loop.MaxSteps = 100
	defer engine.Accelerate(f.net, f.mode)()
	if _, err := unlearn.Forget(ctx, f.method, task, &f.loop); err != nil {
		return err
	}
	if len(times) == 0 {
		return Usagef("--method %s ends with its first step here, so that there is nothing to measure", f.method.Name)
	}
	slices.Sort(times)
	s.Step = times[len(times)/2]
	s.Spread = (times[len(times)-1] - times[0]) / s.Step
	return nil
}

// repeat calls fn at least twice, the first time being slower than the others, and until the time is over.
func repeat(budget time.Duration, fn func() error) error {
	began := time.Now()
	for n := 0; n < 2 || time.Since(began) < budget; n++ {
		if err := fn(); err != nil {
			return err
		}
	}
	return nil
}
