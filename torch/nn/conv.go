package nn

import (
	"math"

	"l2ul/torch"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// Conv2dModule is a two-dimensional convolution, made by Conv2d.
type Conv2dModule struct {
	Base
	Weight, Bias              torch.Tensor // owned by the module; Bias is undefined if there is none
	stride, padding, dilation []int64
	groups                    int64
	instead                   Convolution
}

// Convolution computes what c would for x, with a derivative, or reports that it does not do this one.
type Convolution func(c *Conv2dModule, x torch.Tensor) (y torch.Tensor, done bool)

// SetConvolution lets every Conv2d in m ask fn first while it is in training mode; nil goes back to libtorch alone.
func SetConvolution(m Module, fn Convolution) {
	for _, module := range Modules(m) {
		if c, ok := module.(*Conv2dModule); ok {
			c.instead = fn
		}
	}
}

// Conv2d makes a convolution of images [n, inChannels, h, w] with square kernels. Parameters: weight
// [outChannels, inChannels/groups, kernelSize, kernelSize], and bias [outChannels] if asked for; both are drawn as
// PyTorch draws them. paddingMode is "zeros"; gotorch knows no other either.
func Conv2d(inChannels, outChannels, kernelSize, stride, padding, dilation, groups int64, bias bool, paddingMode string) *Conv2dModule {
	switch {
	case paddingMode != "zeros":
		fail("nn.Conv2d", "padding mode %q is not supported; use zeros", paddingMode)
	case inChannels < 1 || outChannels < 1 || kernelSize < 1 || stride < 1 || padding < 0 || dilation < 1 || groups < 1:
		fail("nn.Conv2d", "channels %d to %d, kernel %d, stride %d, padding %d, dilation %d, groups %d: all but padding must be 1 or more",
			inChannels, outChannels, kernelSize, stride, padding, dilation, groups)
	case inChannels%groups != 0 || outChannels%groups != 0:
		fail("nn.Conv2d", "%d groups do not divide the channels %d and %d", groups, inChannels, outChannels)
	}
	m := &Conv2dModule{
		stride: []int64{stride, stride}, padding: []int64{padding, padding}, dilation: []int64{dilation, dilation}, groups: groups,
	}
	shape := []int64{outChannels, inChannels / groups, kernelSize, kernelSize}
	m.Weight, m.Bias = m.weightAndBias(shape, bias)
	return m
}

// Forward convolves x [n, inChannels, h, w].
func (m *Conv2dModule) Forward(x torch.Tensor) torch.Tensor {
	if m.instead != nil && m.Training() {
		if y, done := m.instead(m, x); done {
			return y
		}
	}
	return F.Conv2d(x, m.Weight, m.Bias, m.stride, m.padding, m.dilation, m.groups)
}

// Geometry returns stride, padding and dilation, each {height, width}, and the number of groups.
func (m *Conv2dModule) Geometry() (stride, padding, dilation []int64, groups int64) {
	return m.stride, m.padding, m.dilation, m.groups
}

// weightAndBias makes the parameters of a linear map with PyTorch's default initialisation: weight from
// kaiming_uniform_(a=√5), then bias from ±1/√fan_in.
func (b *Base) weightAndBias(shape []int64, withBias bool) (weight, bias torch.Tensor) {
	torch.Scope(func() {
		weight = b.Param("weight", torch.Empty(shape, false))
		initializer.KaimingUniform(weight, math.Sqrt(5), "fan_in", "leaky_relu")
		if withBias {
			bias = b.Param("bias", torch.Empty(shape[:1], false))
			in, _ := initializer.CalculateFanInAndFanOut(weight)
			bound := 1 / math.Sqrt(float64(in))
			initializer.Uniform(bias, -bound, bound)
		}
	})
	return weight, bias
}
