package engine

import (
	"l2ul/torch"
	"l2ul/unlearn/kernels"
)

// op is what a layer does. Implementations bind themselves to the buffers of a batch once and return the step to be
// repeated.
type op interface {
	// prepare makes what lasts as long as the plan, such as packed weights, of the layer n.
	prepare(p *plan, n *node)
	// forward returns the step that writes out, the value of the layer (with max(0, …) if relu), from the values in.
	// memo is the buffer that memo asked for.
	forward(out torch.Tensor, in []torch.Tensor, memo torch.Tensor, relu bool) func()
	// backward returns the step that brings grad, the gradient by the layer's value, to input i, which passes denies.
	backward(i int, to target, grad, memo torch.Tensor) func()
	// passes says that the gradient by input i is grad itself.
	passes(i int) bool
	// canRelu says that forward heeds relu.
	canRelu() bool
	// remembers says that forward leaves what backward needs in a uint8 buffer of the value's shape.
	remembers() bool
}

// target is where a gradient goes: out = gate(grad + add), 0 where gate, the value of a ReLU, is not positive. Undefined
// tensors are left out; add may be out.
type target struct{ out, add, gate torch.Tensor }

// put finishes a gradient that libtorch computed.
func (t target) put(grad torch.Tensor) {
	if t.add.Defined() || t.gate.Defined() {
		kernels.Finish(t.out, grad.CastTo(t.out.Dtype()), kernels.Epilogue{Add: t.add, Gate: t.gate})
	} else {
		t.out.CopyI(grad)
	}
}

// write stores a value that libtorch computed.
func write(out, v torch.Tensor, relu bool) {
	if relu {
		kernels.Finish(out, v.CastTo(out.Dtype()), kernels.Epilogue{Relu: true})
	} else {
		out.CopyI(v)
	}
}

// plain is an op without state of its own.
type plain struct{}

func (plain) prepare(*plan, *node) {}
func (plain) passes(int) bool      { return false }
func (plain) canRelu() bool        { return false }
func (plain) remembers() bool      { return false }

func (plain) backward(int, target, torch.Tensor, torch.Tensor) func() { return nil }

// source is the images.
type source struct{ plain }

func (source) forward(torch.Tensor, []torch.Tensor, torch.Tensor, bool) func() { return nil }

// conv is a convolution, with the addition of a second input if there is one.
type conv struct {
	kernels.Conv
	groups       int64        // of channels; libtorch alone convolves more than one
	weight, bias torch.Tensor // Double while the plan is made, then Float; bias may be undefined
	there, back  pass
	plan         *plan
}

// pass is a convolution or its gradient, ready to run.
type pass struct {
	kernels.Conv
	packed torch.Tensor
}

// scale folds a following scaling into the weights.
func (c *conv) scale(a *affine) {
	c.weight = c.weight.Mul(a.scale.Reshape(-1, 1, 1, 1))
	if c.bias.Defined() {
		c.bias = c.bias.Mul(a.scale).Add(a.shift, 1)
	} else {
		c.bias = a.shift
	}
}

func (c *conv) prepare(p *plan, n *node) {
	c.plan, c.weight = p, p.keep(c.weight.CastTo(torch.Float))
	if c.bias.Defined() {
		c.bias = p.keep(c.bias.CastTo(torch.Float))
	}
	c.there.Conv, c.back.Conv = c.Conv, c.Conv
	c.back.Gradient = true
	c.there.Half, c.back.Half = p.half && c.weight.Size(1)%2 == 0, p.half && c.weight.Size(0)%2 == 0
	c.there.Tile = tile(&c.there.Conv, c.weight.Size(1), n.shape)
	c.back.Tile = tile(&c.back.Conv, c.weight.Size(0), n.in[0].shape)
	c.there.packed = p.keep(c.there.Pack(c.weight))
}

// fewest is the number of channels summed over that pays for Winograd's transforms.
const fewest = 32

// tile chooses how a convolution to images of the shape [C, H, W] is summed.
func tile(c *kernels.Conv, depth int64, shape []int64) int64 {
	three := c.Kernel[0] == 3 && c.Kernel[1] == 3 && c.Stride[0] == 1 && c.Stride[1] == 1 && c.Padding[0] == c.Padding[1] && c.Padding[0] <= 2
	if !three || depth%8 != 0 || depth < fewest {
		return 0
	}
	padding := c.Padding[0]
	if c.Gradient {
		padding = 2 - padding
	}
	if c.Half {
		// As if no tap were outside, so that maps of 2x2 keep their transforms: of 60 attacks on the trained network none ended
		// further than 0.77 from where float32 ends with them, and 1.30 without; the median is 0.19 in both.
		padding = 0
	}
	return kernels.WinogradTile(shape[1], shape[2], padding)
}

func (c *conv) passes(i int) bool { return i == 1 }
func (c *conv) canRelu() bool     { return true }
func (c *conv) remembers() bool   { return false }

func (c *conv) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	e := kernels.Epilogue{Bias: c.bias, Relu: relu}
	if len(in) > 1 {
		e.Add = in[1]
	}
	return func() { c.there.Run(out, in[0], c.there.packed, e) }
}

func (c *conv) backward(_ int, to target, grad, _ torch.Tensor) func() {
	if !c.back.packed.Defined() { // evaluation needs none
		c.back.packed = c.plan.keep(c.back.Pack(c.weight))
		c.plan.release(c.weight) // both directions are packed
	}
	return func() { c.back.Run(to.out, grad, c.back.packed, kernels.Epilogue{Add: to.add, Gate: to.gate}) }
}

// affine is scale·x + shift per channel, Double [C] while the plan is made, then Float [C, 1, 1].
type affine struct{ scale, shift torch.Tensor }

// then is the map of a and after it b.
func (a *affine) then(b *affine) *affine {
	return &affine{a.scale.Mul(b.scale), a.shift.Mul(b.scale).Add(b.shift, 1)}
}

func (a *affine) prepare(p *plan, _ *node) {
	for _, t := range []*torch.Tensor{&a.scale, &a.shift} {
		*t = p.keep(t.CastTo(torch.Float).Reshape(-1, 1, 1))
	}
}
func (a *affine) passes(int) bool { return false }
func (a *affine) canRelu() bool   { return true }
func (a *affine) remembers() bool { return false }

func (a *affine) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	return func() { write(out, opAddcmul.One(a.shift, in[0], a.scale, 1), relu) }
}

var opAddcmul = torch.Define("aten::addcmul(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor")

func (a *affine) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() { to.put(grad.Mul(a.scale)) }
}

// sum adds two values.
type sum struct{ plain }

func (sum) passes(int) bool { return true }
func (sum) canRelu() bool   { return true }

func (sum) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	return func() { kernels.Finish(out, in[0], kernels.Epilogue{Add: in[1], Relu: relu}) }
}

// same is its input: what is left of a ReLU that no other layer does.
type same struct{ plain }

func (same) passes(int) bool { return true }
func (same) canRelu() bool   { return true }

func (same) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	return func() { write(out, in[0], relu) }
}

// clamp is min(max(x, 0), 6), the activation ReLU6.
type clamp struct{ plain }

func (clamp) remembers() bool { return true }

func (clamp) forward(out torch.Tensor, in []torch.Tensor, memo torch.Tensor, _ bool) func() {
	return func() {
		out.CopyI(in[0].Relu6())
		memo.CopyI(out.GtScalar(0).Mul(out.LtScalar(6)))
	}
}

func (clamp) backward(_ int, to target, grad, memo torch.Tensor) func() {
	return func() { to.put(grad.Mul(memo)) }
}

// concat puts the channels of its inputs one after the other.
type concat struct {
	plain
	from []int64 // the first channel of each input
}

func (c concat) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() {
		for i, x := range in {
			out.Narrow(1, c.from[i], x.Size(1)).CopyI(x)
		}
	}
}

func (c concat) backward(i int, to target, grad, _ torch.Tensor) func() {
	return func() { to.put(grad.Narrow(1, c.from[i], to.out.Size(1))) }
}

// maxPool is max pooling.
type maxPool struct{ kernels.Pool }

func (*maxPool) prepare(*plan, *node) {}
func (*maxPool) passes(int) bool      { return false }
func (*maxPool) canRelu() bool        { return false }
func (*maxPool) remembers() bool      { return true }

func (m *maxPool) forward(out torch.Tensor, in []torch.Tensor, memo torch.Tensor, _ bool) func() {
	return func() { m.Run(out, memo, in[0]) }
}

func (m *maxPool) backward(_ int, to target, grad, memo torch.Tensor) func() {
	return func() {
		if to.add.Defined() {
			own := to.out.EmptyLike()
			m.Gradient(own, grad, memo, torch.Tensor{})
			to.put(own)
		} else {
			m.Gradient(to.out, grad, memo, to.gate)
		}
	}
}

// averagePool is the mean of each window, padding included.
type averagePool struct {
	plain
	kernel, stride, padding []int64
}

func (a averagePool) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() { out.CopyI(in[0].AvgPool2d(a.kernel, a.stride, a.padding)) }
}

var opAvgPool2dBackward = torch.Define("aten::avg_pool2d_backward(Tensor grad_output, Tensor self, int[2] kernel_size, int[2] stride, int[2] padding, bool ceil_mode, bool count_include_pad, int? divisor_override) -> Tensor")

func (a averagePool) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() { // of the input it takes the size alone
		to.put(opAvgPool2dBackward.One(grad, to.out, a.kernel, a.stride, a.padding, false, true, nil))
	}
}

// shrink averages an image down to the size of the value.
type shrink struct{ plain }

func (shrink) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	size := out.Shape()[2:]
	return func() { out.CopyI(in[0].AdaptiveAvgPool2d(size)) }
}

var opShrinkBackward = torch.Define("aten::_adaptive_avg_pool2d_backward(Tensor grad_output, Tensor self) -> Tensor")

func (shrink) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() { to.put(opShrinkBackward.One(grad, to.out)) } // as above
}

// average is the mean over height and width.
type average struct{ plain }

func (average) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() { out.CopyI(in[0].MeanDim([]int64{2, 3}, true)) }
}

func (average) backward(_ int, to target, grad, _ torch.Tensor) func() {
	area := float64(to.out.Size(2) * to.out.Size(3))
	return func() { to.put(grad.DivScalar(area).ExpandAs(to.out)) }
}

// sample takes every step-th row (dim 2) or column (dim 3).
type sample struct {
	plain
	dim, step int64
}

var opSlice = torch.Define("aten::slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)")

func (s sample) of(t torch.Tensor) torch.Tensor { return opSlice.One(t, s.dim, nil, nil, s.step) }

func (s sample) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() { out.CopyI(s.of(in[0])) }
}

func (s sample) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() {
		own := to.out.ZerosLike() // to.out may be to.add
		s.of(own).CopyI(grad)
		to.put(own)
	}
}

// widen adds channels of zeros, so many of them before the image's own.
type widen struct {
	plain
	before int64
}

func (w widen) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() {
		out.FillI(0)
		out.Narrow(1, w.before, in[0].Size(1)).CopyI(in[0])
	}
}

func (w widen) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() { to.put(grad.Narrow(1, w.before, to.out.Size(1))) }
}

// flatten makes a vector of an image, channels outermost.
type flatten struct{ plain }

func (flatten) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, _ bool) func() {
	return func() { out.CopyI(in[0].Contiguous(torch.Contiguous).Flatten(1, -1)) }
}

func (flatten) backward(_ int, to target, grad, _ torch.Tensor) func() {
	shape := to.out.Shape()
	return func() { to.put(grad.Reshape(shape...)) }
}

// linear is the fully connected layer.
type linear struct{ weight, bias torch.Tensor }

func (l *linear) prepare(p *plan, _ *node) {
	l.weight = p.keep(l.weight.Clone().CastTo(p.dtype))
	if l.bias.Defined() {
		l.bias = p.keep(l.bias.Clone().CastTo(p.dtype))
	}
}
func (*linear) passes(int) bool { return false }
func (*linear) canRelu() bool   { return true }
func (*linear) remembers() bool { return false }

func (l *linear) forward(out torch.Tensor, in []torch.Tensor, _ torch.Tensor, relu bool) func() {
	return func() { write(out, in[0].Linear(l.weight, l.bias), relu) }
}

func (l *linear) backward(_ int, to target, grad, _ torch.Tensor) func() {
	return func() { to.put(torch.MM(grad, l.weight)) }
}
