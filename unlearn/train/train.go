// Package train trains classifiers from scratch or further, for the `train` verb and for retraining without the forgotten
// images. A run is a function of its options and seed: shuffles, crops, flips and blends are drawn from streams that are named
// by epoch and step, so that a resumed run gives the bits of an uninterrupted one.
package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/optim"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

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

	Val    metrics.Images // scored after every epoch; nil for none
	AtOnce *chunk.Size    // how many of them at once

	// Observe is told every step. It may be nil.
	Observe func(Record)
	// Validated is told every score of Val, while the network holds the weights that were scored. It may be nil.
	Validated func(Validation) error
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

// Validation is the score of an epoch.
type Validation struct {
	Step, Epoch int // as in Record
	Score       metrics.Score
	Best        bool // more hits than any epoch before
}

// Best is the epoch that scored best, the first of equals.
type Best struct {
	Epoch int   `json:"epoch"` // from 1
	Hits  int64 `json:"hits"`
	N     int64 `json:"n"`
}

// State is where a run stands, enough to go on to the same bits.
type State struct {
	Step      int     `json:"step"`                // steps done
	Validated int     `json:"validated,omitempty"` // epochs scored
	Best      *Best   `json:"best,omitempty"`      // nil before the first score
	Seconds   float64 `json:"seconds"`
	// Tensors are parameters and buffers under their names, the optimizer's as "optimizer." + name, and those of the average
	// as "average." + name.
	Tensors []nn.Named `json:"-"`
}

const (
	optimizerPrefix = "optimizer."
	averagePrefix   = "average."
)

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

// trainer is a job at work.
type trainer struct {
	*Job
	perEpoch int
	params   []torch.Tensor
	opt      optim.Optimizer
	average  *optim.Average // nil without one
	rate     optim.Schedule
	momentum optim.Schedule // nil where it stays
	state    State
	began    time.Time
	order    []int // of the epoch; nil before its first step
}

func (j *Job) run(ctx context.Context) error {
	t := &trainer{Job: j, perEpoch: j.perEpoch(), params: j.Net.Root().Parameters(), opt: j.Options.optimizer()}
	defer t.opt.Free()
	if t.perEpoch == 0 {
		return fmt.Errorf("train: %d images are too few to train on", len(j.Indices))
	}
	t.rate, t.momentum = j.Options.schedule(t.perEpoch), j.Options.momentum(t.perEpoch)
	t.opt.AddParameters(t.params)
	if j.Options.EMA > 0 {
		t.average = optim.NewAverage(j.Options.EMA, j.Net.Root().StateDict())
		defer t.average.Free()
	}
	if j.Resume != nil {
		if err := t.restore(j.Resume); err != nil {
			return err
		}
	}
	t.began = time.Now().Add(-time.Duration(t.state.Seconds * float64(time.Second)))
	for t.state.Step < j.Steps() || t.unscored() {
		err := context.Cause(ctx)
		switch {
		case err != nil:
		case t.unscored():
			err = t.validate(ctx)
		default:
			err = t.next()
		}
		switch {
		case err != nil && errors.Is(err, context.Cause(ctx)):
			return cmp.Or(t.save(true), err)
		case err != nil:
			return err
		}
		// Between an epoch and its score a run may end, but does not save: it would score it twice.
		if !t.unscored() {
			if err := t.save(false); err != nil {
				return err
			}
		}
	}
	if t.average != nil {
		t.average.Swap()
	}
	j.Net.Root().Eval()
	for _, p := range j.Net.Root().NamedParameters() { // no loss has seen what the last step did
		if p.Tensor.Detach().IsFinite().All().ItemInt() == 0 {
			return fmt.Errorf("train: %s is not finite after the last step: training diverged; lower --lr (%g)", p.Name, j.Options.LR)
		}
	}
	return nil
}

// unscored reports whether an epoch has ended that is yet to be scored.
func (t *trainer) unscored() bool {
	return t.Val != nil && t.state.Step%t.perEpoch == 0 && t.state.Validated < t.state.Step/t.perEpoch
}

func (t *trainer) save(force bool) error {
	if t.Save == nil {
		return nil
	}
	t.state.Seconds = time.Since(t.began).Seconds()
	t.state.Tensors = t.Net.Root().StateDict()
	add := func(prefix string, tensors []nn.Named) {
		for _, n := range tensors {
			t.state.Tensors = append(t.state.Tensors, nn.Named{Name: prefix + n.Name, Tensor: n.Tensor})
		}
	}
	add(optimizerPrefix, t.opt.State())
	if t.average != nil {
		add(averagePrefix, t.average.State())
	}
	return t.Save(&t.state, force)
}

// restore goes back to where a state was saved.
func (t *trainer) restore(s *State) error {
	parts := map[string][]nn.Named{}
	saved := map[string]torch.Tensor{}
	for _, n := range s.Tensors {
		prefix, name, _ := strings.Cut(n.Name, ".")
		switch prefix += "."; prefix {
		case optimizerPrefix, averagePrefix:
			parts[prefix] = append(parts[prefix], nn.Named{Name: name, Tensor: n.Tensor})
		default:
			saved[n.Name] = n.Tensor
		}
	}
	for _, n := range t.Net.Root().StateDict() {
		from, ok := saved[n.Name]
		if !ok {
			return fmt.Errorf("the checkpoint lacks %s", n.Name)
		}
		torch.NoGrad(func() { n.Tensor.CopyI(from) })
	}
	if t.average != nil {
		if err := t.average.SetState(parts[averagePrefix]); err != nil {
			return err
		}
	}
	t.state = *s
	return t.opt.SetState(parts[optimizerPrefix])
}

// next trains on the next batch.
func (t *trainer) next() error {
	o, epoch, i := &t.Options, t.state.Step/t.perEpoch, t.state.Step%t.perEpoch
	if t.order == nil || i == 0 {
		t.order = t.shuffle(epoch)
	}
	left := t.order[i*o.Batch:]
	indices := left[:min(o.Batch, len(left))]
	expected := left[len(indices):min(2*o.Batch, len(left))]
	if err := t.Meter.Read(t.Part, len(indices)); err != nil {
		return err
	}
	rec := Record{Step: t.state.Step + 1, Steps: t.Steps(), Epoch: epoch + 1, LR: t.rate(t.state.Step), N: len(indices)}
	torch.Scope(func() { t.step(indices, expected, &rec) })
	if math.IsNaN(rec.Loss) || math.IsInf(rec.Loss, 0) {
		return fmt.Errorf("train: the loss of step %d is %g: training diverged; lower --lr (%g)", rec.Step, rec.Loss, o.LR)
	}
	t.state.Step++
	if t.Observe != nil {
		t.Observe(rec)
	}
	return nil
}

// step trains on images; expected are those after them in the epoch, if any.
func (t *trainer) step(indices, expected []int, rec *Record) {
	b := t.images(indices, rec.Step)
	t.Images.Expect(expected)
	t.Net.Root().Train(true)
	t.opt.SetLR(rec.LR)
	if t.momentum != nil {
		t.opt.SetMomentum(t.momentum(t.state.Step))
	}
	t.opt.ZeroGrad()
	dropout := torch.NewGenerator(seed.For(t.Seed, "train/dropout", rec.Step))
	parts := max(1, min(t.Options.Accumulate, rec.N/2)) // batch normalisation needs two images
	for part := range parts {
		from, to := rec.N*part/parts, rec.N*(part+1)/parts
		torch.Scope(func() {
			var logits torch.Tensor
			torch.Seeded(dropout, func() { logits = t.forward(b.x.Narrow(0, int64(from), int64(to-from))) })
			loss := t.loss(logits, &b, from, to)
			if parts > 1 {
				loss = loss.MulScalar(float64(to-from) / float64(rec.N))
			}
			rec.Loss += loss.Item()
			rec.Hits += metrics.Hits(logits.Detach(), b.y.Narrow(0, int64(from), int64(to-from)))
			loss.Backward()
		})
	}
	if limit := t.Options.ClipNorm; limit > 0 {
		optim.ClipGradNorm(t.params, limit)
	}
	if limit := t.Options.ClipValue; limit > 0 {
		optim.ClipGradValue(t.params, limit)
	}
	t.opt.Step()
	t.opt.ZeroGrad()
	if t.average != nil {
		t.average.Update()
	}
}

// validate scores the epoch that has ended, with the weights that would be kept.
func (t *trainer) validate(ctx context.Context) error {
	if t.average != nil {
		t.average.Swap()
		defer t.average.Swap()
	}
	t.Net.Root().Eval()
	score, err := metrics.Evaluate(ctx, t.Net.Forward, t.Val, t.AtOnce, nil)
	if err != nil {
		return err
	}
	v := Validation{Step: t.state.Step, Epoch: t.state.Step / t.perEpoch, Score: score}
	v.Best = t.state.Best == nil || score.Hits > t.state.Best.Hits
	if t.Validated != nil {
		if err := t.Validated(v); err != nil {
			return err
		}
	}
	if v.Best {
		t.state.Best = &Best{Epoch: v.Epoch, Hits: score.Hits, N: score.N}
	}
	t.state.Validated = v.Epoch
	return nil
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

// Reads is how many images the whole run hands to the network, an image counting once an epoch.
func (j *Job) Reads() int {
	return j.Options.Epochs * min(len(j.Indices), j.perEpoch()*j.Options.Batch)
}

// HoldOut returns the images that a recipe with --val keeps from training, of those with these labels, in ascending order.
// The seed alone decides, so that a network and one retrained without some of the images hold out the same.
func (o *Options) HoldOut(labels []int, s int64) []int {
	n := len(labels)
	if o.Stratified {
		return data.Stratified(labels, min(n, o.Val), s)
	}
	held := make([]int, min(n, o.Val))
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(seed.For(s, "train/val", 0)), func() {
			order := torch.ToSlice[int64](torch.RandPerm(int64(n)))
			for i := range held {
				held[i] = int(order[i])
			}
		})
	})
	slices.Sort(held)
	return held
}
