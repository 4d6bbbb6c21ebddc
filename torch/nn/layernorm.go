package nn

import (
	"l2ul/torch"
	F "l2ul/torch/nn/functional"
)

// LayerNormModule normalises each vector by itself, made by LayerNorm.
type LayerNormModule struct {
	Base
	Weight, Bias torch.Tensor // owned by the module
	eps          float64
}

// LayerNorm makes the normalisation of the last dimension, of the given size, to mean 0 and variance 1 (Ba et al., "Layer
// Normalization", 2016); eps is added to the variance. Parameters: weight (ones) and bias (zeros), [size].
func LayerNorm(size int64, eps float64) *LayerNormModule {
	if size < 1 || !(eps >= 0) {
		fail("nn.LayerNorm", "size %d, eps %g: size must be 1 or more, eps 0 or more", size, eps)
	}
	m := &LayerNormModule{eps: eps}
	torch.Scope(func() {
		m.Weight = m.Param("weight", torch.Ones([]int64{size}, false))
		m.Bias = m.Param("bias", torch.Zeros([]int64{size}, false))
	})
	return m
}

// Forward normalises x [..., size].
func (m *LayerNormModule) Forward(x torch.Tensor) torch.Tensor {
	return F.LayerNorm(x, m.Weight.Shape(), m.Weight, m.Bias, m.eps)
}
