package unlearn

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

// Examples are labelled images in memory, on the network's device and in the order that everything keeps.
type Examples struct {
	X     torch.Tensor // Float or Half [n, C, H, W] in [0, 1]
	Y     torch.Tensor // Long [n]
	Part  data.Part    // the role under which reads are counted
	Meter *data.Meter  // nil for images that are no samples, such as adversarial ones
}

// Len returns the number of images.
func (e *Examples) Len() int { return int(e.Y.Size(0)) }

// Batch returns images from to to-1 as Float and their labels, sharing memory unless they are Half.
func (e *Examples) Batch(from, to int) (x, y torch.Tensor, err error) {
	if err := e.Meter.Read(e.Part, to-from); err != nil {
		return x, y, err
	}
	return e.X.Narrow(0, int64(from), int64(to-from)).CastTo(torch.Float), e.Y.Narrow(0, int64(from), int64(to-from)), nil
}

// Trainable returns the parameters that unlearning moves, with their names, in registration order: all that require
// gradients, under BNFrozen without those of batch normalisation. The mode of the driver's forward has no say.
func Trainable(net nn.Module, mode BNMode) []nn.Named {
	frozen := map[torch.Tensor]bool{}
	if mode == BNFrozen {
		for _, m := range nn.Modules(net) {
			if bn, ok := m.(*nn.BatchNorm2dModule); ok {
				for _, p := range bn.Parameters() {
					frozen[p] = true
				}
			}
		}
	}
	var out []nn.Named
	for _, p := range net.Root().NamedParameters() {
		if !frozen[p.Tensor] && p.Tensor.RequiresGrad() {
			out = append(out, p)
		}
	}
	return out
}

// setMode puts net into training mode with batch normalisation as mode says.
func setMode(net nn.Module, mode BNMode) {
	net.Root().Train(true)
	switch mode {
	case BNTrain:
	case BNFrozenStats:
		nn.SetBatchNorm(net, nn.BatchNormFrozenStats)
	case BNEval, BNFrozen:
		nn.SetBatchNorm(net, nn.BatchNormEval)
	}
}

var _ metrics.Images = (*Examples)(nil)
