// Package engine runs a network whose weights stay as they are, thousands of times: the attack's forward and backward
// passes, and evaluation. In mode Exact it lowers the network once into a plan: batch normalisation folded into
// convolutions, bias, residual and ReLU applied while a sum is in a register, 3x3 convolutions by Winograd's algorithm,
// an explicit backward pass for the gradient of the input alone, and buffers laid out once and used again. The algorithm
// is the same; results differ from libtorch's by rounding. In mode Reference every operator is libtorch's, called as
// PyTorch would, and bits agree with it.
//
// The plan comes from a trace of the network's own Forward, so no network describes itself twice. A network with an
// operator that is not known here, or whose plan does not reproduce the network on a probe, runs as in mode Reference,
// and [Network.Fallback] says why.
package engine

import (
	"fmt"
	"slices"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// Mode says how closely the arithmetic of a frozen network follows PyTorch's.
type Mode string

const (
	// Exact is the same algorithm in float32; sums are taken in another order, normalisation is folded.
	Exact Mode = "exact"
	// Reference is operator by operator what PyTorch computes, to the bit.
	Reference Mode = "reference"
)

// Network is a classifier that is frozen: in evaluation mode, its parameters not tracked by autograd. It is used on one
// thread. The weights must not change before [Network.Thaw].
type Network struct {
	net     nn.Module
	mode    Mode
	tracked []torch.Tensor
	plan    *plan
	why     string
	shape   []int64 // of the images that plan and why are about
}

// Freeze freezes net.
func Freeze(net nn.Module, mode Mode) *Network {
	net.Root().Eval()
	n := &Network{net: net, mode: mode}
	for _, p := range net.Root().Parameters() {
		if p.RequiresGrad() {
			n.tracked = append(n.tracked, p)
			p.SetRequiresGrad(false)
		}
	}
	return n
}

// Thaw gives the plan's memory back and tracks the parameters again that were tracked before. The network stays in
// evaluation mode.
func (n *Network) Thaw() {
	n.drop()
	for _, p := range n.tracked {
		p.SetRequiresGrad(true)
	}
	n.tracked = nil
}

// Logits computes the network's output for images x, Float [n, C, H, W], without gradients.
func (n *Network) Logits(x torch.Tensor) (logits torch.Tensor) {
	torch.NoGrad(func() {
		if p := n.planFor(x); p != nil {
			logits = p.logits(x)
		} else {
			logits = n.net.Forward(x)
		}
	})
	return logits
}

// InputGrad is the gradient by the images x, Float [n, C, H, W], of the scalar that loss makes of the logits. It may be
// overwritten by the next call.
func (n *Network) InputGrad(x torch.Tensor, loss func(logits torch.Tensor) torch.Tensor) torch.Tensor {
	if p := n.planFor(x); p != nil {
		return p.inputGrad(x, loss)
	}
	input := x.Detach().SetRequiresGrad(true)
	return torch.Grad([]torch.Tensor{loss(n.net.Forward(input))}, []torch.Tensor{input})[0]
}

// Fallback says why the network runs operator by operator though mode Exact was asked for. It is empty where a plan is
// used, in mode Reference, and before the first images came.
func (n *Network) Fallback() string { return n.why }

// Bytes is the memory of the plan: packed weights and the buffers of the batch sizes it has met last.
func (n *Network) Bytes() int64 {
	if n.plan == nil {
		return 0
	}
	return n.plan.bytes()
}

func (n *Network) drop() {
	if n.plan != nil {
		n.plan.free()
	}
	n.plan, n.why, n.shape = nil, "", nil
}

// planFor returns the plan for images like x, or nil where there is none. Images of another size need another plan.
func (n *Network) planFor(x torch.Tensor) *plan {
	if n.mode != Exact {
		return nil
	}
	shape := x.Shape()[1:]
	if n.shape != nil && slices.Equal(n.shape, shape) {
		return n.plan
	}
	n.drop()
	n.shape = shape
	torch.Scope(func() {
		torch.EnableGrad(func() {
			p, err := lower(n.net, x)
			if err == nil {
				n.plan = p // dropped with n, should the check panic
				err = p.check(n.net, x)
			}
			if err != nil {
				n.drop()
				n.shape, n.why = shape, err.Error()
			}
		})
	})
	return n.plan
}

// A plan is refused where it differs from the network by more than rounding does; measured on ResNets, logits differ by
// some 1e-5 of the largest and gradients, where a ReLU may fall the other way, by up to 1e-3 of their norm.
const (
	logitTolerance    = 1e-3
	gradientTolerance = 3e-2
)

// check compares plan and network on the first images of x.
func (p *plan) check(net nn.Module, x torch.Tensor) error {
	x = x.Narrow(0, 0, min(x.Size(0), 4))
	wave := func(logits torch.Tensor) torch.Tensor { // a loss that every logit has another part in
		weights := make([]float32, logits.Numel())
		for i := range weights {
			weights[i] = float32(i%7) - 3
		}
		return logits.Mul(torch.FromSlice(weights, logits.Shape()...)).Sum()
	}
	input := x.Detach().SetRequiresGrad(true)
	logits := net.Forward(input)
	grad := torch.Grad([]torch.Tensor{wave(logits)}, []torch.Tensor{input})[0]
	off := func(got, want torch.Tensor) float64 {
		return got.Sub(want, 1).Square().Sum().Item() / max(want.Square().Sum().Item(), 1e-30)
	}
	// Written so that NaN, which no comparison holds for, is refused too.
	if d := off(p.logits(x), logits.Detach()); !(d <= logitTolerance*logitTolerance) {
		return fmt.Errorf("the plan's logits are not the network's (relative distance² %.2g)", d)
	}
	if d := off(p.inputGrad(x, wave), grad); !(d <= gradientTolerance*gradientTolerance) {
		return fmt.Errorf("the plan's gradient is not the network's (relative distance² %.2g)", d)
	}
	return nil
}
