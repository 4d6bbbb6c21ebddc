package optim

import "l2ul/torch"

// SGDOptimizer is stochastic gradient descent with momentum, made by SGD.
type SGDOptimizer struct {
	core                             // the velocity of each parameter
	momentum, dampening, weightDecay float64
	nesterov                         bool
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
	return &SGDOptimizer{
		core: core{lr: lr, names: []string{"momentum_buffer"}}, momentum: momentum, dampening: dampening, weightDecay: weightDecay, nesterov: nesterov,
	}
}

// SetMomentum implements Optimizer.
func (o *SGDOptimizer) SetMomentum(momentum float64) { o.momentum = momentum }

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
	index, params, direction := o.withGrad()
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

// velocity brings the velocities of the indexed parameters up to date with the direction of this step.
func (o *SGDOptimizer) velocity(index []int, direction []torch.Tensor) []torch.Tensor {
	velocity := make([]torch.Tensor, len(index))
	var moving, change []torch.Tensor // those that have a velocity already
	for k, i := range index {
		if o.state[i] == nil {
			o.keep(i, direction[k].Clone())
		} else {
			moving, change = append(moving, o.state[i][0]), append(change, direction[k])
		}
		velocity[k] = o.state[i][0]
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
