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
	checked bool    // the plan's gradient has been compared with the network's
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

// Logits computes the network's output for images x, Float [n, C, H, W], without gradients. The largest logit of each
// image is in both modes that of the same class: images whose two largest are so close that rounding might exchange
// them are computed again as in mode Reference.
func (n *Network) Logits(x torch.Tensor) (logits torch.Tensor) {
	torch.NoGrad(func() {
		p := n.planFor(x, false)
		if p == nil {
			logits = n.net.Forward(x)
			return
		}
		logits = p.logits(x)
		torch.Scope(func() {
			if close := closeCalls(logits); len(close) > 0 {
				rows := torch.FromSlice(close)
				opIndexCopy.Do(logits, 0, rows, n.net.Forward(x.IndexSelect(0, rows).Contiguous(formatOf(x))))
			}
		})
	})
	return logits
}

// closeMargin is the distance of the two largest logits, over the largest magnitude, that counts as close: a hundred
// times what rounding was seen to move them by.
const closeMargin = 1e-3

// closeCalls lists the rows of logits [n, C] in which the largest is not sure to be the largest.
func closeCalls(logits torch.Tensor) (rows []int64) {
	if logits.Size(1) < 2 {
		return nil
	}
	top, _ := torch.TopK(logits, 2, 1, true, true)
	scale, _ := logits.Abs().MaxDim(1, false)
	margin := torch.ToSlice[float32](top.Select(1, 0).Sub(top.Select(1, 1), 1))
	for i, s := range torch.ToSlice[float32](scale) {
		if !(margin[i] > closeMargin*s) { // NaN too
			rows = append(rows, int64(i))
		}
	}
	return rows
}

var opIndexCopy = torch.Define("aten::index_copy_(Tensor(a!) self, int dim, Tensor index, Tensor source) -> Tensor(a!)")

// formatOf is the memory format of images.
func formatOf(x torch.Tensor) torch.MemoryFormat {
	if x.IsContiguous(torch.ChannelsLast) {
		return torch.ChannelsLast
	}
	return torch.Contiguous
}

// InputGrad is the gradient by the images x, Float [n, C, H, W], of the scalar that loss makes of the logits. It may be
// overwritten by the next call.
func (n *Network) InputGrad(x torch.Tensor, loss func(logits torch.Tensor) torch.Tensor) torch.Tensor {
	if p := n.planFor(x, true); p != nil {
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
	n.plan, n.why, n.shape, n.checked = nil, "", nil, false
}

// planFor returns the plan for images like x, or nil where there is none. Images of another size need another plan.
func (n *Network) planFor(x torch.Tensor, gradient bool) *plan {
	if n.mode != Exact {
		return nil
	}
	known := n.shape != nil && slices.Equal(n.shape, x.Shape()[1:])
	if known && (n.plan == nil || n.checked || !gradient) {
		return n.plan
	}
	probe := x.Narrow(0, 0, min(x.Size(0), 4))
	var err error
	torch.Scope(func() {
		torch.EnableGrad(func() {
			if !known {
				n.drop()
				if n.plan, err = lower(n.net, probe); err == nil {
					err = n.plan.check(n.net, probe)
				}
			}
			if err == nil && gradient {
				err = n.plan.checkGradient(n.net, probe)
				n.checked = true
			}
		})
	})
	if err != nil {
		n.drop()
		n.why = err.Error()
	}
	n.shape = x.Shape()[1:]
	return n.plan
}

// A plan is refused where it differs from the network by more than rounding does; measured on ResNets, logits differ by
// some 1e-5 of their norm and gradients, where a ReLU may fall the other way, by up to 1e-2 of theirs.
const (
	logitTolerance    = 1e-3
	gradientTolerance = 3e-2
)

// check compares the logits of plan and network.
func (p *plan) check(net nn.Module, x torch.Tensor) error {
	// Written so that NaN, which no comparison holds for, is refused too.
	if d := distance(p.logits(x), net.Forward(x).Detach()); !(d <= logitTolerance) {
		return fmt.Errorf("the plan's logits are not the network's: they differ by %.2g of their norm", d)
	}
	return nil
}

// checkGradient compares the gradients of plan and network.
func (p *plan) checkGradient(net nn.Module, x torch.Tensor) error {
	wave := func(logits torch.Tensor) torch.Tensor { // a loss that every logit has another part in
		weights := make([]float32, logits.Numel())
		for i := range weights {
			weights[i] = float32(i%7) - 3
		}
		return logits.Mul(torch.FromSlice(weights, logits.Shape()...)).Sum()
	}
	input := x.Detach().SetRequiresGrad(true)
	want := torch.Grad([]torch.Tensor{wave(net.Forward(input))}, []torch.Tensor{input})[0]
	if d := distance(p.inputGrad(x, wave), want); !(d <= gradientTolerance) {
		return fmt.Errorf("the plan's gradient is not the network's: they differ by %.2g of its norm", d)
	}
	return nil
}

// distance is the norm of got - want over that of want.
func distance(got, want torch.Tensor) float64 {
	norm := func(t torch.Tensor) float64 { return t.CastTo(torch.Double).Square().Sum().Sqrt().Item() }
	return norm(got.Sub(want, 1)) / max(norm(want), 1e-30)
}
