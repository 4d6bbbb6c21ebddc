package engine

import (
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/kernels"
)

// What our own convolutions do not serve, such as CUDA and groups of channels, libtorch does: a plan is then the same layers with the same folded
// weights, and each convolution is followed by one operator of ours that does the rest while it writes the value.

// convolveByLibrary gives the plan's convolutions to libtorch: all, or those that are not ours to do.
func (p *plan) convolveByLibrary(all bool) {
	for _, n := range p.nodes {
		if c, ok := n.op.(*conv); ok && (all || c.groups != 1) {
			n.op = &libraryConv{conv: c}
		}
	}
}

// narrow lets all layers read the images in the plan's dtype, but for those that scale them: these take the pixels as they
// are, and round what comes of them.
func (p *plan) narrow() {
	rounded := &node{op: same{}, in: []*node{p.input}, shape: p.input.shape}
	for _, n := range p.nodes {
		if _, scales := n.op.(*affine); scales {
			continue
		}
		for i, in := range n.in {
			if in == p.input {
				n.in[i] = rounded
				rounded.users++
			}
		}
	}
	if rounded.users > 0 {
		p.nodes = slices.Insert(p.nodes, slices.Index(p.nodes, p.input)+1, rounded)
	}
}

// libraryConv is a conv by libtorch.
type libraryConv struct{ *conv }

func (c *libraryConv) prepare(p *plan, _ *node) {
	c.weight = p.keep(c.weight.CastTo(p.dtype).Contiguous(torch.ChannelsLast))
	if c.bias.Defined() {
		c.bias = p.keep(c.bias.CastTo(torch.Float))
	}
}

var (
	opConvolution         = torch.Define("aten::convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor")
	opConvolutionBackward = torch.Define("aten::convolution_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)")
)

func (c *libraryConv) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	e := kernels.Epilogue{Bias: c.bias, Relu: relu}
	if len(in) > 1 {
		e.Add = in[1]
	}
	return func() {
		kernels.Finish(out, opConvolution.One(in[0], c.weight, torch.Tensor{}, c.Stride, c.Padding, []int64{1, 1}, false, []int64{0, 0}, c.groups), e)
	}
}

func (c *libraryConv) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() {
		// Of the input it takes size and dtype alone, so that what will be the gradient stands in for it.
		own, _, _ := opConvolutionBackward.Three(grad, to.out, c.weight, nil, c.Stride, c.Padding, []int64{1, 1}, false, []int64{0, 0}, c.groups, []bool{true, false, false})
		kernels.Finish(to.out, own, kernels.Epilogue{Add: to.add, Gate: to.gate})
	}
}
