package optim

import (
	"math"

	"l2ul/torch"
)

// AdamOptimizer is adaptive moment estimation, made by Adam or AdamW.
type AdamOptimizer struct {
	core                           // of each parameter: steps done, m, v
	beta1, beta2, eps, weightDecay float64
	decoupled                      bool
}

var _ Optimizer = (*AdamOptimizer)(nil)

// Adam makes the optimizer torch.optim.Adam (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015). At step t of
// parameter p with gradient g:
//
//	d = g + weightDecay·p
//	m = m + (1-beta1)·(d - m), v = beta2·v + (1-beta2)·d²
//	p = p - lr/(1-beta1ᵗ) · m / (√v/√(1-beta2ᵗ) + eps)
//
// PyTorch's defaults are lr 1e-3, beta1 0.9, beta2 0.999, eps 1e-8. Step calls PyTorch's operators in its order, so float32
// has its bits: on the CPU those of foreach=False, on a GPU those of foreach=True, its defaults. The two powers are taken in float64, where Go and C may differ by the last bit; that reaches a float32 about
// once in 10⁸ steps. It panics if a number is negative or not finite, or a beta 1 or more.
func Adam(lr, beta1, beta2, eps, weightDecay float64) *AdamOptimizer {
	return newAdam("optim.Adam", lr, beta1, beta2, eps, weightDecay, false)
}

// AdamW makes the optimizer torch.optim.AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019): Adam
// without weight decay, behind p = (1 - lr·weightDecay)·p. PyTorch's default of weightDecay is 0.01.
func AdamW(lr, beta1, beta2, eps, weightDecay float64) *AdamOptimizer {
	return newAdam("optim.AdamW", lr, beta1, beta2, eps, weightDecay, true)
}

func newAdam(op string, lr, beta1, beta2, eps, weightDecay float64, decoupled bool) *AdamOptimizer {
	for _, v := range []float64{lr, eps, weightDecay} {
		if !(v >= 0) || v-v != 0 {
			fail(op, "learning rate %g, eps %g, weight decay %g: all must be finite, 0 or more", lr, eps, weightDecay)
		}
	}
	if !(beta1 >= 0 && beta1 < 1) || !(beta2 >= 0 && beta2 < 1) {
		fail(op, "betas %g and %g: both must be 0 or more and less than 1", beta1, beta2)
	}
	return &AdamOptimizer{
		core:  core{lr: lr, names: []string{stepName, "exp_avg", "exp_avg_sq"}},
		beta1: beta1, beta2: beta2, eps: eps, weightDecay: weightDecay, decoupled: decoupled,
	}
}

// SetMomentum implements Optimizer.
func (o *AdamOptimizer) SetMomentum(momentum float64) { o.beta1 = momentum }

// As SGD's: on the CPU each is PyTorch's loop over parameters.
var (
	opLerpI    = torch.Define("aten::_foreach_lerp_.Scalar(Tensor(a!)[] self, Tensor[] tensors1, Scalar weight) -> ()")
	opAddcmulI = torch.Define("aten::_foreach_addcmul_.Scalar(Tensor(a!)[] self, Tensor[] tensor1, Tensor[] tensor2, Scalar value=1) -> ()")
	opAddcdivI = torch.Define("aten::_foreach_addcdiv_.ScalarList(Tensor(a!)[] self, Tensor[] tensor1, Tensor[] tensor2, Scalar[] scalars) -> ()")
	opSqrt     = torch.Define("aten::_foreach_sqrt(Tensor[] self) -> Tensor[]")
	opDivI     = torch.Define("aten::_foreach_div_.ScalarList(Tensor(a!)[] self, Scalar[] scalars) -> ()")
	opAddAllI  = torch.Define("aten::_foreach_add_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()")
)

// Step implements Optimizer.
func (o *AdamOptimizer) Step() {
	torch.NoGrad(func() { torch.Scope(o.step) })
}

func (o *AdamOptimizer) step() {
	index, params, grads := o.withGrad()
	if len(params) == 0 {
		return
	}
	// A parameter counts its own steps: one that had no gradient at first is behind.
	means, squares := make([]torch.Tensor, len(index)), make([]torch.Tensor, len(index))
	sizes, roots := make([]float64, len(index)), make([]float64, len(index))
	for k, i := range index {
		if o.state[i] == nil {
			o.keep(i, torch.Zeros(nil, false))
			o.keep(i, o.params[i].ZerosLike())
			o.keep(i, o.params[i].ZerosLike())
		}
		step := o.state[i][0].Item() + 1
		o.state[i][0].FillI(step)
		means[k], squares[k] = o.state[i][1], o.state[i][2]
		sizes[k] = -o.lr / (1 - math.Pow(o.beta1, step))
		roots[k] = math.Sqrt(1 - math.Pow(o.beta2, step))
	}
	switch {
	case o.weightDecay != 0 && o.decoupled:
		opMulI.Do(params, 1-o.lr*o.weightDecay)
	case o.weightDecay != 0:
		grads = addLists(grads, params, o.weightDecay)
	}
	opLerpI.Do(means, grads, 1-o.beta1)
	opMulI.Do(squares, o.beta2)
	opAddcmulI.Do(squares, grads, grads, 1-o.beta2)
	below := opSqrt.Call(squares)[0].([]torch.Tensor)
	opDivI.Do(below, roots)
	opAddAllI.Do(below, o.eps)
	opAddcdivI.Do(params, means, below, sizes)
}
