package optim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// SGDOptimizer is stochastic gradient descent with momentum, made by SGD.
type SGDOptimizer struct {
	lr, momentum, dampening, weightDecay float64
	nesterov                             bool
	params                               []torch.Tensor
	buffers                              []torch.Tensor // velocity of each parameter; undefined before its first step
}

var _ Optimizer = (*SGDOptimizer)(nil)

// SGD makes the optimizer torch.optim.SGD, equal to it bit for bit (Sutskever et al., "On the importance of
// initialization and momentum in deep learning", 2013, in PyTorch's form). Per parameter p with gradient g:
//
//	d = g + weightDecay·p
//	v = d at the first step, else momentum·v + (1-dampening)·d
//	p = p - lr·v, with nesterov p - lr·(d + momentum·v), without momentum p - lr·d
//
// gotorch has it as torch.SGD, with the same arguments. It panics if a number is negative or not finite, or if nesterov
// comes without momentum or with dampening.
func SGD(lr, momentum, dampening, weightDecay float64, nesterov bool) *SGDOptimizer {
	for _, v := range []float64{lr, momentum, weightDecay} {
		if !(v >= 0) || v-v != 0 {
			fail("optim.SGD", "learning rate %g, momentum %g, weight decay %g: all must be finite, 0 or more", lr, momentum, weightDecay)
		}
	}
	if dampening-dampening != 0 {
		fail("optim.SGD", "dampening %g is not finite", dampening)
	}
	if nesterov && (momentum == 0 || dampening != 0) {
		fail("optim.SGD", "nesterov needs momentum above 0 and dampening 0, got %g and %g", momentum, dampening)
	}
	return &SGDOptimizer{lr: lr, momentum: momentum, dampening: dampening, weightDecay: weightDecay, nesterov: nesterov}
}

// AddParameters implements Optimizer.
func (o *SGDOptimizer) AddParameters(params []torch.Tensor) {
	o.params = append(o.params, params...)
	o.buffers = append(o.buffers, make([]torch.Tensor, len(params))...)
}

// ZeroGrad implements Optimizer.
func (o *SGDOptimizer) ZeroGrad() {
	for _, p := range o.params {
		p.SetGrad(torch.Tensor{})
	}
}

// LR implements Optimizer.
func (o *SGDOptimizer) LR() float64 { return o.lr }

// SetLR implements Optimizer.
func (o *SGDOptimizer) SetLR(lr float64) { o.lr = lr }

// Operators over lists: one call for all parameters. Their CPU kernels apply the operators of PyTorch's loop over
// parameters one by one, so the results have the same bits.
var (
	opAdd  = torch.Define("aten::_foreach_add.List(Tensor[] self, Tensor[] other, *, Scalar alpha=1) -> Tensor[]")
	opAddI = torch.Define("aten::_foreach_add_.List(Tensor(a!)[] self, Tensor[] other, *, Scalar alpha=1) -> ()")
	opMulI = torch.Define("aten::_foreach_mul_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()")
)

// Step implements Optimizer.
func (o *SGDOptimizer) Step() {
	torch.NoGrad(func() { torch.Scope(o.step) })
}

func (o *SGDOptimizer) step() {
	var params, direction []torch.Tensor
	var index []int
	for i, p := range o.params {
		if g := p.Grad(); g.Defined() {
			params, direction, index = append(params, p), append(direction, g), append(index, i)
		}
	}
	if len(params) == 0 {
		return
	}
	if o.weightDecay != 0 {
		direction = addLists(direction, params, o.weightDecay)
	}
	if o.momentum != 0 {
		velocity := o.velocity(index, direction)
		if o.nesterov {
			direction = addLists(direction, velocity, o.momentum)
		} else {
			direction = velocity
		}
	}
	opAddI.Do(params, direction, -o.lr)
}

// velocity brings the buffers of the indexed parameters up to date with the direction of this step.
func (o *SGDOptimizer) velocity(index []int, direction []torch.Tensor) []torch.Tensor {
	velocity := make([]torch.Tensor, len(index))
	var moving, change []torch.Tensor // those that have a velocity already
	for k, i := range index {
		if !o.buffers[i].Defined() {
			o.buffers[i] = direction[k].Clone()
			torch.Own(o.buffers[i])
		} else {
			moving, change = append(moving, o.buffers[i]), append(change, direction[k])
		}
		velocity[k] = o.buffers[i]
	}
	if len(moving) > 0 {
		opMulI.Do(moving, o.momentum)
		opAddI.Do(moving, change, 1-o.dampening)
	}
	return velocity
}

// addLists is a + alpha·b for every pair.
func addLists(a, b []torch.Tensor, alpha float64) []torch.Tensor {
	return opAdd.Call(a, b, alpha)[0].([]torch.Tensor)
}

const momentumKey = ".momentum_buffer"

// State implements Optimizer. The names are "N.momentum_buffer" for parameter N, counted from 0.
func (o *SGDOptimizer) State() []nn.Named {
	var state []nn.Named
	for i, b := range o.buffers {
		if b.Defined() {
			state = append(state, nn.Named{Name: strconv.Itoa(i) + momentumKey, Tensor: b})
		}
	}
	return state
}

// SetState implements Optimizer.
func (o *SGDOptimizer) SetState(state []nn.Named) error {
	sources := make([]torch.Tensor, len(o.params))
	for _, n := range state {
		digits, ok := strings.CutSuffix(n.Name, momentumKey)
		i, err := strconv.Atoi(digits)
		if !ok || err != nil || i < 0 || i >= len(o.params) {
			return fmt.Errorf("optimizer state %q belongs to none of the %d parameters", n.Name, len(o.params))
		}
		if got, want := n.Tensor.Shape(), o.params[i].Shape(); !slices.Equal(got, want) {
			return fmt.Errorf("optimizer state %q has shape %v, its parameter %v", n.Name, got, want)
		}
		sources[i] = n.Tensor
	}
	o.Free()
	torch.NoGrad(func() {
		for i, s := range sources {
			if s.Defined() {
				// The layout of the parameter, not that of the copy, keeps Step fast and its bits the same.
				o.buffers[i] = o.params[i].EmptyLike()
				torch.Own(o.buffers[i])
				o.buffers[i].CopyI(s)
			}
		}
	})
	return nil
}

// Free implements Optimizer.
func (o *SGDOptimizer) Free() {
	for i, b := range o.buffers {
		if b.Defined() {
			b.Free()
		}
		o.buffers[i] = torch.Tensor{}
	}
}

// fail panics as the numeric code of torch does, so that torch.Run and torch.Try turn it into an error.
func fail(op, format string, args ...any) {
	panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf(format, args...)})
}
