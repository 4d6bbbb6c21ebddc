package nn

import (
	"l2ul/torch"
	F "l2ul/torch/nn/functional"
)

// LinearModule is a fully connected layer, made by Linear.
type LinearModule struct {
	Base
	Weight, Bias torch.Tensor // owned by the module; Bias is undefined if there is none
}

// Linear makes the map x·weightᵀ + bias. Parameters: weight [out, in], and bias [out] if asked for; both are drawn as
// PyTorch draws them.
func Linear(in, out int64, bias bool) *LinearModule {
	if in < 1 || out < 1 {
		fail("nn.Linear", "sizes %d to %d: both must be 1 or more", in, out)
	}
	m := &LinearModule{}
	m.Weight, m.Bias = m.weightAndBias([]int64{out, in}, bias)
	return m
}

// Forward maps x [..., in] to [..., out].
func (m *LinearModule) Forward(x torch.Tensor) torch.Tensor { return F.Linear(x, m.Weight, m.Bias) }
