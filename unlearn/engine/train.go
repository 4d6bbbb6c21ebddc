package engine

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/kernels"
)

// Accelerate lets the 3x3 convolutions of net go by Winograd's algorithm while it is in training mode, forward and in both
// gradients, until restore is called. The gradient by the weights gains most: on small maps libtorch takes up to five times
// as long. In evaluation mode, so in tests of a goal, and in mode Reference nothing changes. It is for float32: under
// torch.Autocast the convolutions would stay what they are.
func Accelerate(net nn.Module, mode Mode) (restore func()) {
	if mode == Reference {
		return func() {}
	}
	nn.SetConvolution(net, winograd)
	return func() { nn.SetConvolution(net, nil) }
}

// winograd computes the convolutions that gain: 3x3, stride 1, with enough channels, on the CPU in float32.
func winograd(c *nn.Conv2dModule, x torch.Tensor) (y torch.Tensor, done bool) {
	stride, padding, dilation, groups := c.Geometry()
	shape := c.Weight.Shape()
	is := func(pair []int64, v int64) bool { return pair[0] == v && pair[1] == v }
	if !is(shape[2:], 3) || !is(stride, 1) || !is(dilation, 1) || groups != 1 || c.Bias.Defined() || !is(padding, padding[0]) || padding[0] > 2 {
		return y, false
	}
	if min(shape[0], shape[1]) < fewest || shape[0]%8 != 0 || shape[1]%8 != 0 || c.Weight.Dtype() != torch.Float {
		return y, false
	}
	if x.Device() != torch.CPU || x.Dtype() != torch.Float || !x.IsContiguous(torch.ChannelsLast) {
		return y, false
	}
	images := x.Shape()
	height, width := images[2]+2*padding[0]-2, images[3]+2*padding[0]-2
	if min(height, width) < 1 {
		return y, false
	}
	tile := kernels.WinogradTile(height, width)
	if tile == 0 {
		return y, false
	}
	return kernels.WinogradConv2d(x, c.Weight, tile, padding[0]), true
}
