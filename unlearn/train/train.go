// Package train trains classifiers from scratch or further, for the `train` verb and for retraining without the forgotten
// images. A run is a function of its options and seed: shuffles, crops and flips are drawn from streams that are named by
// epoch and step, so that a resumed run gives the bits of an uninterrupted one.
package train

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/optim"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

// Options are a training recipe. The defaults are the paper's for CIFAR (spec/l2ul.md section 6.1).
type Options struct {
	Epochs      int     `flag:"epochs" default:"200" min:"1" group:"training" help:"passes over the training images"`
	LR          float64 `flag:"lr" default:"0.01" above:"0" group:"training" help:"learning rate; the highest of a schedule"`
	Momentum    float64 `flag:"momentum" default:"0.9" min:"0" max:"1" group:"training" help:"momentum of SGD"`
	Nesterov    bool    `flag:"nesterov" group:"training" help:"Nesterov's form of momentum"`
	WeightDecay float64 `flag:"weight-decay" default:"0.0005" min:"0" group:"training" help:"weight decay of SGD"`
	Schedule    string  `flag:"sched" default:"cosine" oneof:"cosine|onecycle|constant" group:"training" help:"learning rate: cosine by epoch, one cycle by step, or constant"`
	Batch       int     `flag:"train-batch" default:"128" min:"2" group:"training" help:"images of a step"`
	Augment     bool    `flag:"augment" default:"true" group:"training" help:"random crops of the image padded by 4 zero pixels, and flips"`
}

// Job is a training run.
type Job struct {
	Net     nn.Module
	Images  *data.Loader // on the network's device; only Run needs them
	Indices []int        // the images to train on, in any order
	Part    data.Part    // the role under which reads are counted
	Meter   *data.Meter  // may be nil
	Options Options
	Seed    int64
	Resume  *State // where an interrupted run of this very job stopped, or nil

	// Observe is told every step. It may be nil.
	Observe func(Record)
	// Save is offered the state after every step, and must take it when force is set. It may be nil. The tensors are
	// views, valid during the call.
	Save func(s *State, force bool) error
}

// Record is one step.
type Record struct {
	Step  int     `json:"step"`  // from 1
	Steps int     `json:"steps"` // of the whole run
	Epoch int     `json:"epoch"` // from 1
	LR    float64 `json:"lr"`
	Loss  float64 `json:"loss"` // mean cross-entropy of the batch, before the step
	Hits  int64   `json:"hits"` // images of the batch classified rightly, in training mode
	N     int     `json:"n"`    // images of the batch
}

// State is where a run stands, enough to go on to the same bits.
type State struct {
	Step    int        `json:"step"` // steps done
	Seconds float64    `json:"seconds"`
	Tensors []nn.Named `json:"-"` // parameters and buffers under their names, the optimizer's as "optimizer." + name
}

const optimizerPrefix = "optimizer."

// Run trains. The network ends in evaluation mode. When ctx ends, it saves and returns the context's cause. A loss, or at
// the end a parameter, that is not finite ends the run with an error.
func (j *Job) Run(ctx context.Context) (err error) {
	torch.Scope(func() { err = j.run(ctx) })
	return err
}

// Steps returns the number of steps of the whole run. A last batch of one image is dropped: it has no batch statistics.
func (j *Job) Steps() int { return j.Options.Epochs * j.perEpoch() }

func (j *Job) perEpoch() int {
	n, b := len(j.Indices), j.Options.Batch
	if n%b == 1 {
		return n / b
	}
	return (n + b - 1) / b
}

func (j *Job) run(ctx context.Context) error {
	perEpoch := j.perEpoch()
	if perEpoch == 0 {
		return fmt.Errorf("train: %d images are too few to train on", len(j.Indices))
	}
	o := j.Options
	opt := optim.SGD(o.LR, o.Momentum, 0, o.WeightDecay, o.Nesterov)
	defer opt.Free()
	opt.AddParameters(j.Net.Root().Parameters())
	state := State{}
	if j.Resume != nil {
		if err := j.restore(opt, j.Resume); err != nil {
			return err
		}
		state.Step, state.Seconds = j.Resume.Step, j.Resume.Seconds
	}
	began := time.Now().Add(-time.Duration(state.Seconds * float64(time.Second)))
	save := func(force bool) error {
		if j.Save == nil {
			return nil
		}
		state.Seconds = time.Since(began).Seconds()
		state.Tensors = j.Net.Root().StateDict()
		for _, t := range opt.State() {
			state.Tensors = append(state.Tensors, nn.Named{Name: optimizerPrefix + t.Name, Tensor: t.Tensor})
		}
		return j.Save(&state, force)
	}
	rate := j.schedule(perEpoch)
	var order []int
	for state.Step < j.Steps() {
		if ctx.Err() != nil {
			if err := save(true); err != nil {
				return err
			}
			return context.Cause(ctx)
		}
		epoch, i := state.Step/perEpoch, state.Step%perEpoch
		if order == nil || i == 0 {
			order = j.shuffle(epoch)
		}
		left := order[i*o.Batch:]
		batch := left[:min(o.Batch, len(left))]
		next := left[len(batch):min(2*o.Batch, len(left))]
		if err := j.Meter.Read(j.Part, len(batch)); err != nil {
			return err
		}
		rec := Record{Step: state.Step + 1, Steps: j.Steps(), Epoch: epoch + 1, LR: rate(state.Step), N: len(batch)}
		torch.Scope(func() { j.step(opt, batch, next, &rec) })
		if math.IsNaN(rec.Loss) || math.IsInf(rec.Loss, 0) {
			return fmt.Errorf("train: the loss of step %d is %g: training diverged; lower --lr (%g)", rec.Step, rec.Loss, o.LR)
		}
		state.Step++
		if j.Observe != nil {
			j.Observe(rec)
		}
		if err := save(false); err != nil {
			return err
		}
	}
	j.Net.Root().Eval()
	for _, p := range j.Net.Root().NamedParameters() { // no loss has seen what the last step did
		if p.Tensor.Detach().IsFinite().All().ItemInt() == 0 {
			return fmt.Errorf("train: %s is not finite after the last step: training diverged; lower --lr (%g)", p.Name, o.LR)
		}
	}
	return nil
}

// step trains on a batch; next is the one after it in the epoch, if any.
func (j *Job) step(opt *optim.SGDOptimizer, batch, next []int, rec *Record) {
	x, y := j.images(batch, rec.Step)
	j.Images.Expect(next)
	j.Net.Root().Train(true)
	opt.SetLR(rec.LR)
	opt.ZeroGrad()
	var logits torch.Tensor
	torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "train/dropout", rec.Step)), func() { logits = j.Net.Forward(x) })
	loss := metrics.CrossEntropy(logits, y)
	rec.Loss, rec.Hits = loss.Item(), metrics.Hits(logits.Detach(), y)
	loss.Backward()
	opt.Step()
	opt.ZeroGrad()
}

// schedule gives the learning rate of each step.
func (j *Job) schedule(perEpoch int) optim.Schedule {
	switch j.Options.Schedule {
	case "onecycle":
		return optim.OneCycleLR(j.Options.LR, j.Steps(), 0.3, 25, 1e4)
	case "constant":
		return func(int) float64 { return j.Options.LR }
	default:
		byEpoch := optim.CosineAnnealingLR(j.Options.LR, j.Options.Epochs, 0)
		return func(step int) float64 { return byEpoch(step / perEpoch) }
	}
}

// shuffle returns the order of an epoch.
func (j *Job) shuffle(epoch int) []int {
	order := make([]int, len(j.Indices))
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "train/shuffle", epoch)), func() {
			for i, p := range torch.ToSlice[int64](torch.RandPerm(int64(len(order)))) {
				order[i] = j.Indices[p]
			}
		})
	})
	return order
}

// images returns a batch, augmented if the recipe says so, as Float [n, C, H, W] in [0, 1] and its labels.
func (j *Job) images(batch []int, step int) (x, y torch.Tensor) {
	if !j.Options.Augment {
		return j.Images.Gather(batch)
	}
	return j.Images.GatherCrops(batch, j.crops(len(batch), step), padding)
}

const padding = 4

var opRandomTo = torch.Define("aten::randint.low_generator(SymInt low, SymInt high, SymInt[] size, *, Generator? generator, ScalarType? dtype=4, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// crops draws the crops of a step's n images, Long [n, 3]: top and left from 0 to 2·padding, and whether to flip. They are
// drawn on the CPU, so that a seed means the same images on every device.
func (j *Job) crops(n, step int) (crops torch.Tensor) {
	torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "train/augment", step)), func() {
		corners := opRandomTo.One(0, 2*padding+1, []int64{int64(n), 2}, nil)
		flips := opRandomTo.One(0, 2, []int64{int64(n), 1}, nil)
		crops = torch.Cat([]torch.Tensor{corners, flips}, 1)
	})
	return crops
}

// restore puts the network and the optimizer where a state was saved.
func (j *Job) restore(opt *optim.SGDOptimizer, s *State) error {
	var ofOptimizer []nn.Named
	saved := map[string]torch.Tensor{}
	for _, t := range s.Tensors {
		if name, ok := strings.CutPrefix(t.Name, optimizerPrefix); ok {
			ofOptimizer = append(ofOptimizer, nn.Named{Name: name, Tensor: t.Tensor})
		} else {
			saved[t.Name] = t.Tensor
		}
	}
	for _, t := range j.Net.Root().StateDict() {
		from, ok := saved[t.Name]
		if !ok {
			return fmt.Errorf("the checkpoint lacks %s", t.Name)
		}
		torch.NoGrad(func() { t.Tensor.CopyI(from) })
	}
	return opt.SetState(ofOptimizer)
}
