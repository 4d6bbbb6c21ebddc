package attack

import (
	"context"
	"math"
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/kernels"
)

// ascent takes the steps of attacks on one batch after another. Each batch is brought to tensors that stay where they
// are, so that all of a size share one loop, which on CUDA becomes a graph.
type ascent struct {
	net     *engine.Network
	options *Options
	batches []*batch // of the sizes met last, as many as plans keep; the one used last comes last
}

// batch is what a loop works on.
type batch struct {
	images    int64
	x, delta  torch.Tensor // the images and their perturbation
	seen      torch.Tensor // x + delta, which the network sees
	direction torch.Tensor // of the gradient, Float [n, classes]; undefined before the first logits
	y         torch.Tensor // Long [n]
	loop      *engine.Loop
}

// run takes so many steps from delta, the perturbation of the images x, in place, or stops when ctx ends. They climb on -CE
// to the classes y, Long [n]; untargeted, on CE.
func (a *ascent) run(ctx context.Context, x, delta, y torch.Tensor, steps int) (err error) {
	if steps == 0 {
		return nil
	}
	finished := false
	defer func() {
		if !finished { // memory may have run out, and fewer images want it
			a.free()
		}
	}()
	torch.Scope(func() {
		b := a.batchLike(x)
		b.x.CopyI(x)
		b.delta.CopyI(delta)
		b.y = y
		if b.direction.Defined() {
			b.direction.CopyI(a.towards(y, b.direction.Size(1)))
		}
		b.seen = a.net.Input(b.x)
		b.seen.CopyI(x.Add(delta, 1))
		for range steps {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
				return
			}
			b.loop.Next()
		}
		delta.CopyI(b.delta)
	})
	finished = true
	return err
}

// An attack in mode fast looks every few steps which pairs are done: those whose target has (untargeted: whose label has not)
// a probability of sure. They keep the perturbation that they have then, and the others go on as a smaller batch. Looking
// costs half a step.
const (
	lookEvery = 5
	sure      = 0.99
)

// hurry is run for pairs that are left alone once they are done, after steps at the most.
func (a *ascent) hurry(ctx context.Context, x, delta, y torch.Tensor, steps int) (err error) {
	for steps > 0 && x.Size(0) > 0 && err == nil {
		torch.Scope(func() {
			now := min(lookEvery, steps)
			steps -= now
			if err = a.run(ctx, x, delta, y, now); err != nil {
				return
			}
			if steps == 0 {
				return
			}
			loss := a.net.Logits(x.Add(delta, 1)).CrossEntropy(y, torch.Tensor{}, torch.ReduceNone, -100)
			var left []int64
			for i, l := range torch.ToSlice[float32](loss) {
				if p := math.Exp(-float64(l)); a.options.Targeted && !(p >= sure) || !a.options.Targeted && !(p <= 1-sure) {
					left = append(left, int64(i))
				}
			}
			if len(left) == int(x.Size(0)) {
				return
			}
			index := torch.FromSlice(left).To(x.Device(), torch.Long)
			pick := func(t torch.Tensor) torch.Tensor { return t.IndexSelect(0, index).Contiguous(formatOf(t)) }
			rest := pick(delta)
			err = a.hurry(ctx, pick(x), rest, y.IndexSelect(0, index), steps)
			delta.IndexCopyI(0, index, rest)
			steps = 0
		})
	}
	return err
}

func (a *ascent) batchLike(x torch.Tensor) *batch {
	n := x.Size(0)
	if at := slices.IndexFunc(a.batches, func(b *batch) bool { return b.images == n }); at >= 0 {
		b := a.batches[at]
		a.batches = append(slices.Delete(a.batches, at, at+1), b)
		return b
	}
	if len(a.batches) == 2 {
		a.batches[0].free()
		a.batches = slices.Delete(a.batches, 0, 1)
	}
	step := kernels.PGDL2Step
	switch {
	case a.options.Norm == "linf":
		step = kernels.PGDLinfStep
	case a.options.Arithmetic == aten:
		step = stepATen
	}
	b := &batch{images: n, x: x.EmptyLike(), delta: x.EmptyLike()}
	torch.Own(b.x, b.delta)
	gradient := func(logits torch.Tensor) torch.Tensor {
		if !b.direction.Defined() {
			b.direction = a.towards(b.y, logits.Size(1))
			torch.Own(b.direction)
		}
		return climb(logits, b.direction)
	}
	b.loop = a.net.Loop(func() {
		torch.Scope(func() { step(b.delta, b.seen, a.net.InputGrad(b.seen, gradient), b.x, a.options.Step, a.options.Eps) })
	})
	a.batches = append(a.batches, b)
	return b
}

// climb is the gradient by the logits of what the attack climbs, from that by their log softmax. Both steps are those of
// autograd, so the bits are too.
func climb(logits, direction torch.Tensor) torch.Tensor {
	return opLogSoftmaxBackward.One(direction, logits.LogSoftmax(1), 1, torch.Float)
}

// towards is the gradient by log softmax of what the attack climbs: the log probability of the classes y, or untargeted
// minus it.
func (a *ascent) towards(y torch.Tensor, classes int64) torch.Tensor {
	all := make([]int64, classes)
	for c := range all {
		all[c] = int64(c)
	}
	is := y.Reshape(-1, 1).Eq(torch.FromSlice(all).To(y.Device(), torch.Long)).CastTo(torch.Float)
	if a.options.Targeted {
		return is
	}
	return is.ZerosLike().Sub(is, 1)
}

var opLogSoftmaxBackward = torch.Define("aten::_log_softmax_backward_data(Tensor grad_output, Tensor output, int dim, ScalarType input_dtype) -> Tensor")

func (a *ascent) free() {
	for _, b := range a.batches {
		b.free()
	}
	a.batches = nil
}

func (b *batch) free() {
	b.loop.Free()
	b.x.Free()
	b.delta.Free()
	if b.direction.Defined() {
		b.direction.Free()
	}
}
