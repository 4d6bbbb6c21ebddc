// Package optim holds optimizers and learning rate schedules in the manner of gotorch and PyTorch.
//
// An optimizer updates parameters in place from the gradients that Backward left in them:
//
//	opt := optim.SGD(0.1, 0.9, 0, 5e-4, false)
//	defer opt.Free()
//	opt.AddParameters(net.Parameters())
//	for step, batch := range batches {
//		opt.SetLR(schedule(step))
//		opt.ZeroGrad()
//		loss(batch).Backward()
//		opt.Step()
//	}
//
// Its state is plain tensors, which State and SetState carry to and from a checkpoint. Schedules are pure functions of
// the step, so a resumed run needs none of their history. Between Backward and Step, ClipGradNorm or ClipGradValue bounds the gradients;
// behind Step, an Average follows the weights.
package optim

import (
	"l2ul/torch"
	"l2ul/torch/nn"
)

// Optimizer updates parameters from their gradients. It is not safe for concurrent use.
type Optimizer interface {
	// AddParameters appends tensors to the list to update. Their order identifies them in the state.
	AddParameters(params []torch.Tensor)
	// ZeroGrad drops the gradients of all parameters.
	ZeroGrad()
	// Step updates every parameter that has a gradient. It belongs inside torch.Scope or torch.Run.
	Step()
	// LR is the learning rate of the next Step.
	LR() float64
	// SetLR sets the learning rate from the next Step on.
	SetLR(lr float64)
	// SetMomentum sets from the next Step on what share of the last directions a step keeps: SGD's momentum, Adam's beta1.
	SetMomentum(momentum float64)
	// State lists the tensors that the next Step depends on, besides parameters and gradients. They stay the optimizer's.
	State() []nn.Named
	// SetState replaces the state by copies of tensors that State gave for the same parameters. It fails, and changes
	// nothing, if they do not fit. It belongs inside torch.Scope or torch.Run.
	SetState(state []nn.Named) error
	// Free gives up the state. Parameters are not the optimizer's.
	Free()
}
