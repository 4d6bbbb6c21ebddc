package engine

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/kernels"
)

// Accelerate lets our own kernels compute the convolutions of net while it is in training mode, forward and in both
// gradients, until restore is called. The gradient by the weights gains most: on small maps libtorch takes up to five times
// as long. In evaluation mode, so in tests of a goal, and in mode Reference nothing changes. It is for float32: under
// torch.Autocast the convolutions would stay what they are.
func Accelerate(net nn.Module, mode Mode) (restore func()) {
	if mode == Reference {
		return func() {}
	}
	nn.SetConvolution(net, convolve)
	return func() { nn.SetConvolution(net, nil) }
}

// convolve computes the convolutions that gain: with enough channels, on the CPU in float32.
func convolve(c *nn.Conv2dModule, x torch.Tensor) (y torch.Tensor, done bool) {
	stride, padding, dilation, groups := c.Geometry()
	shape := c.Weight.Shape()
	is := func(pair []int64, v int64) bool { return pair[0] == v && pair[1] == v }
	if !is(dilation, 1) || groups != 1 || c.Bias.Defined() || min(shape[0], shape[1]) < fewest || c.Weight.Dtype() != torch.Float {
		return y, false
	}
	if x.Device() != torch.CPU || x.Dtype() != torch.Float || !x.IsContiguous(torch.ChannelsLast) {
		return y, false
	}
	images := x.Shape()
	out := func(i int) int64 { return (images[2+i]+2*padding[i]-shape[2+i])/stride[i] + 1 }
	if min(images[2]+2*padding[0]-shape[2], images[3]+2*padding[1]-shape[3]) < 0 {
		return y, false
	}
	by := tile(&kernels.Conv{Kernel: shape[2:], Stride: stride, Padding: padding}, shape[1], []int64{shape[0], out(0), out(1)})
	multiple := int64(16)
	if by > 0 {
		multiple = 8
	} else if out(0)*out(1) > small {
		return y, false
	}
	if shape[0]%multiple != 0 || shape[1]%multiple != 0 {
		return y, false
	}
	return kernels.Conv2d(x, c.Weight, by, stride, padding), true
}

// small is how many pixels a map has for which our sums tap by tap are faster than libtorch's.
const small = 64
