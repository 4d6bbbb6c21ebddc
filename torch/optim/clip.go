package optim

import "l2ul/torch"

var (
	opNorms      = torch.Define("aten::_foreach_norm.Scalar(Tensor[] self, Scalar ord=2, ScalarType? dtype=None) -> Tensor[]")
	opNorm       = torch.Define("aten::linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor")
	opReciprocal = torch.Define("aten::reciprocal(Tensor self) -> Tensor")
	opClampMax   = torch.Define("aten::clamp_max(Tensor self, Scalar max) -> Tensor")
	opClampMinI  = torch.Define("aten::_foreach_clamp_min_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()")
	opClampMaxI  = torch.Define("aten::_foreach_clamp_max_.Scalar(Tensor(a!)[] self, Scalar scalar) -> ()")
	opMulByI     = torch.Define("aten::_foreach_mul_.Tensor(Tensor(a!)[] self, Tensor other) -> ()")
)

// ClipGradNorm scales the gradients of parameters so that their norm, taken as one vector, is at most limit, and returns
// the norm before, a scalar of the current scope (torch.nn.utils.clip_grad_norm_; Pascanu et al., "On the difficulty of
// training recurrent neural networks", 2013). Parameters without a gradient are passed over; without any the norm is 0.
func ClipGradNorm(params []torch.Tensor, limit float64) torch.Tensor {
	if !(limit > 0) || limit-limit != 0 {
		fail("optim.ClipGradNorm", "a norm of at most %g: it must be finite and above 0", limit)
	}
	grads := gradsOf(params)
	if len(grads) == 0 {
		return torch.Zeros(nil, false)
	}
	total := torch.Tensor{}
	torch.NoGrad(func() {
		torch.Scope(func() {
			norms := opNorms.Call(grads, 2)[0].([]torch.Tensor)
			total = opNorm.One(torch.Stack(norms, 0), 2)
			factor := opClampMax.One(opReciprocal.One(total.AddScalar(1e-6)).MulScalar(limit), 1.0)
			opMulByI.Do(grads, factor)
			torch.Keep(total)
		})
	})
	return total
}

// ClipGradValue brings every element of the gradients of parameters to [-limit, limit] (torch.nn.utils.clip_grad_value_).
func ClipGradValue(params []torch.Tensor, limit float64) {
	if !(limit > 0) || limit-limit != 0 {
		fail("optim.ClipGradValue", "values of at most %g: it must be finite and above 0", limit)
	}
	if grads := gradsOf(params); len(grads) > 0 {
		torch.NoGrad(func() {
			opClampMinI.Do(grads, -limit)
			opClampMaxI.Do(grads, limit)
		})
	}
}

// gradsOf lists the gradients of parameters that have one.
func gradsOf(params []torch.Tensor) (grads []torch.Tensor) {
	for _, p := range params {
		if g := p.Grad(); g.Defined() {
			grads = append(grads, g)
		}
	}
	return grads
}
