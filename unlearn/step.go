package unlearn

import (
	"math"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/unlearn/kernels"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

// A step is a thousand small operators, which a GPU takes faster than they are queued: on CUDA it becomes a graph, one for
// each pair of batch sizes. For that it finds its images in the same place each time and leaves in another what it tells; in
// between it does not wait for the device, and nobody relies on what it does to anything but tensors.

// slot is where a step finds images of one set, the first ones of as many as a step takes.
type slot struct{ x, y torch.Tensor }

// fill brings images from to to-1 to the slot, which has room for size.
func (s *slot) fill(images metrics.Images, from, to, size int) error {
	x, y, err := images.Batch(from, to)
	if err != nil {
		return err
	}
	if !s.x.Defined() {
		s.x, s.y = roomFor(x, size), roomFor(y, size)
		torch.Keep(s.x, s.y) // in the scope of the run
	}
	atX, atY := s.first(to - from)
	atX.CopyI(x)
	atY.CopyI(y)
	return nil
}

func (s *slot) first(n int) (x, y torch.Tensor) {
	return s.x.Narrow(0, 0, int64(n)), s.y.Narrow(0, 0, int64(n))
}

var opNewEmptyStrided = torch.Define("aten::new_empty_strided(Tensor self, SymInt[] size, SymInt[] stride, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// roomFor returns a tensor for so many images in the memory format of batch.
func roomFor(batch torch.Tensor, images int) torch.Tensor {
	shape := batch.Shape()
	shape[0] = int64(images)
	return opNewEmptyStrided.One(batch, shape, batch.Strides())
}

// sizes are how many images a step sees.
type sizes struct{ driver, forget int }

// load brings the images of the next step to their slots.
func (l *loop) load() (n sizes, err error) {
	if l.task.Driver != nil {
		batch := l.o.driverBatch(l.method)
		from, to := slice(l.state.Slice, batch, l.task.Driver.Len())
		if err := l.driver.fill(l.task.Driver, from, to, min(batch, l.task.Driver.Len())); err != nil {
			return n, err
		}
		n.driver = to - from
	}
	k := l.task.Forget.Len()
	from, to := slice((l.o.CycleStart+l.state.Step)%count(k, l.o.ForgetBatch), l.o.ForgetBatch, k)
	n.forget = to - from
	return n, l.forget.fill(l.task.Forget, from, to, min(l.o.ForgetBatch, k))
}

// update is the arithmetic of a step. It reports whether loss and parameters are finite; if not, the parameters have been
// moved all the same.
func (l *loop) update(rec *Record) (finite bool, err error) {
	n, err := l.load()
	if err != nil {
		return false, err
	}
	dropped := torch.NewGenerator(seed.For(l.task.Seed, "unlearn/dropout", l.state.Step))
	torch.Seeded(dropped, func() { l.take(n) })
	told := torch.ToSlice[float64](l.told)
	rec.NDriver, rec.NForget = n.driver, n.forget
	rec.Loss, rec.DriverLoss, rec.ForgetLoss = told[0], told[1], told[2]
	if l.o.StopOnDrop {
		l.state.Right += int64(told[3])
		l.state.Seen += int64(n.driver)
	}
	return !math.IsNaN(rec.Loss) && !math.IsInf(rec.Loss, 0) && told[4] != 0, nil
}

// take takes a step on the images in the slots, by a graph where there is one or can be one.
func (l *loop) take(n sizes) {
	if l.state.Step == 0 { // momentum begins with another kernel than the one that a graph would meet
		l.compute(n, true)
		return
	}
	step := l.steps[n]
	if step == nil {
		l.free() // graphs may leave too little memory for a step by itself, and are soon captured again
		step = cuda.NewLoop(func() { l.compute(n, false) })
		l.steps[n] = step
	}
	step.Next(l.capture)
}

// free gives the graphs back.
func (l *loop) free() {
	for _, step := range l.steps {
		step.Free()
	}
}

// compute takes a step on the images in the slots, from the forwards to the update, and leaves in told: the loss, the
// driver's and the forget term of it, the driver's images classified rightly if that is asked for, and whether the
// parameters are finite.
func (l *loop) compute(n sizes, first bool) {
	torch.Scope(func() {
		step := Step{NDriver: n.driver, NForget: n.forget, Weights: l.o.LossWeights}
		var right torch.Tensor
		if l.task.Driver != nil {
			x, y := l.driver.first(n.driver)
			setMode(l.task.Net, l.o.driverBN())
			logits := l.task.Net.Forward(x)
			step.Driver = metrics.CrossEntropy(logits, y)
			if l.o.StopOnDrop {
				right = metrics.CountHits(logits.Detach(), y)
			}
		}
		x, y := l.forget.first(n.forget)
		setMode(l.task.Net, l.o.BN)
		step.Forget = metrics.CrossEntropy(l.task.Net.Forward(x), y)
		if l.o.Goal == Misclassify {
			step.Forget = step.Forget.Neg()
		}
		loss := l.method.Loss(step)
		grads := torch.Grad([]torch.Tensor{loss}, l.params)
		for i, g := range grads {
			if !g.Defined() {
				grads[i] = l.params[i].Detach().ZerosLike()
			}
		}
		torch.NoGrad(func() {
			finite := kernels.AnchoredSGD(l.params, grads, l.momenta, l.task.Anchors, l.anchorReference(),
				l.o.LR, l.o.Momentum, l.o.WeightDecay, l.o.Lambda, first)
			for i, t := range []torch.Tensor{loss, step.Driver, step.Forget, right, finite} {
				if t.Defined() {
					l.told.Select(0, int64(i)).CopyI(t)
				}
			}
		})
	})
}
