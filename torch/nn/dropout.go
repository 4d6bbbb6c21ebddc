package nn

import "l2ul/torch"

// DropoutModule drops values at random while it trains, made by Dropout.
type DropoutModule struct {
	Base
	p float64
}

// Dropout makes the layer that in training mode sets each value to 0 with probability p, below 1, and divides the others by
// 1-p (Srivastava et al., 2014). In evaluation mode it is the identity. The draws are those of PyTorch on the CPU, from
// libtorch's default generator or that of torch.Seeded, so that a seed drops the same values on every device.
func Dropout(p float64) *DropoutModule {
	if !(p >= 0 && p < 1) {
		fail("nn.Dropout", "probability %g: it must be in [0, 1)", p)
	}
	return &DropoutModule{p: p}
}

var opEmptyLike = torch.Define("aten::empty_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// Forward drops values of x, of any shape.
func (m *DropoutModule) Forward(x torch.Tensor) torch.Tensor {
	if m.p == 0 || !m.Training() {
		return x
	}
	// What aten::dropout does on the CPU, which takes no generator.
	return keep(x, opEmptyLike.One(x, nil, nil, torch.CPU), m.p)
}

// keep multiplies x by noise, on the CPU, drawn as 0 with probability p and 1/(1-p) else.
func keep(x, noise torch.Tensor, p float64) torch.Tensor {
	noise.BernoulliI(1 - p)
	return x.Mul(noise.To(x.Device(), x.Dtype()).DivScalar(1 - p))
}

// StochasticDepthModule drops whole images at random while it trains, made by StochasticDepth.
type StochasticDepthModule struct {
	Base
	p float64
}

// StochasticDepth makes the layer that in training mode sets all values of an image to 0 with probability p, below 1, and divides
// those of the others by 1-p, so that the branch before it is left out (Huang et al., "Deep Networks with Stochastic Depth", 2016).
// In evaluation mode it is the identity. It draws as Dropout does: torchvision's "row" mode.
func StochasticDepth(p float64) *StochasticDepthModule {
	if !(p >= 0 && p < 1) {
		fail("nn.StochasticDepth", "probability %g: it must be in [0, 1)", p)
	}
	return &StochasticDepthModule{p: p}
}

// Forward drops images of x [n, ...].
func (m *StochasticDepthModule) Forward(x torch.Tensor) torch.Tensor {
	if m.p == 0 || !m.Training() {
		return x
	}
	shape := x.Shape()
	for i := range shape[1:] {
		shape[i+1] = 1
	}
	return keep(x, torch.Empty(shape, false), m.p)
}

// Drops reports whether m draws at random while it trains.
func Drops(m Module) bool {
	for _, module := range Modules(m) {
		switch d := module.(type) {
		case *DropoutModule:
			if d.p > 0 {
				return true
			}
		case *StochasticDepthModule:
			if d.p > 0 {
				return true
			}
		}
	}
	return false
}
