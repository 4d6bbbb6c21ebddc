package engine

import (
	"fmt"
	"math"
	"slices"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn/kernels"
)

// node is a layer of the plan: one value per image, and how it is made of the values of other layers.
type node struct {
	op    op
	in    []*node
	shape []int64 // without the batch: [C, H, W] or [features]
	relu  bool    // the value is max(0, what op makes)
	users int     // layers that read the value
}

// lower traces net on x, Float [n, C, H, W], and makes a plan of what it saw, on the device of x. With library, libtorch
// convolves; otherwise our own kernels do, on the CPU. dtype is Float or BFloat16: of the values between images and logits, or,
// by our own kernels, which keep those in float32, of what convolutions multiply. The error names the operator that stands in the way.
func lower(net nn.Module, x torch.Tensor, library bool, dtype torch.Dtype) (*plan, error) {
	l := &lowering{values: map[torch.Tensor]*node{}, plan: &plan{device: x.Device(), dtype: dtype, record: cuda.NewRecorder(x.Device())}}
	var out torch.Tensor
	x = x.Clone() // a handle of its own, so that no constant is taken for the images
	calls := torch.Trace(func() { out = net.Forward(x) })
	input := l.add(&node{op: source{}, shape: x.Shape()[1:]})
	l.values[x] = input
	for _, c := range calls {
		if err := l.call(c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	output := l.values[out]
	switch {
	case output == nil || output == input:
		return nil, fmt.Errorf("the result does not come from the images by operators that a plan knows")
	case len(output.shape) != 1 || output.relu:
		return nil, fmt.Errorf("the result is no vector of logits")
	}
	p := l.plan
	p.input, p.output = input, output
	p.nodes = fuse(l.nodes, output)
	if !library {
		p.dtype, p.half = torch.Float, dtype == torch.BFloat16
	} else if dtype != torch.Float {
		p.narrow()
	}
	p.convolveByLibrary(library)
	ready := false
	defer func() {
		if !ready { // memory ran out
			p.free()
		}
	}()
	for _, n := range p.nodes {
		n.op.prepare(p, n)
	}
	ready = true
	return p, nil
}

type lowering struct {
	plan   *plan
	nodes  []*node
	values map[torch.Tensor]*node // what each tensor of the trace holds now
}

func (l *lowering) add(n *node) *node {
	l.nodes = append(l.nodes, n)
	return n
}

// call adds the layer of one traced call. Calls that do not touch the images compute constants, which keep their handles.
func (l *lowering) call(c torch.Call) error {
	touches := false
	for _, a := range c.Args {
		switch t := a.(type) {
		case torch.Tensor:
			touches = touches || l.values[t] != nil
		case []torch.Tensor:
			for _, t := range t {
				touches = touches || l.values[t] != nil
			}
		}
	}
	if !touches {
		return nil
	}
	translate := translations[c.Name]
	if translate == nil {
		return fmt.Errorf("not known to plans")
	}
	args := arguments{call: c, values: l.values, device: l.plan.device}
	n := translate(&args)
	if args.err != nil {
		return args.err
	}
	l.add(n)
	for _, r := range c.Results {
		l.values[r] = n
	}
	switch c.Name {
	case "aten::relu_", "aten::relu6_", "aten::add_.Tensor":
		return l.overwrite(l.values[c.Args[0].(torch.Tensor)], n)
	}
	return nil
}

// overwrite lets every tensor that held old hold what was made of it in place. A flattened or sliced value shares its memory
// with another, which a plan does not follow.
func (l *lowering) overwrite(old, by *node) error {
	for _, n := range l.nodes {
		switch n.op.(type) {
		case flatten, sample:
			if n == old || n.in[0] == old {
				return fmt.Errorf("it overwrites a value that has been flattened or sliced")
			}
		}
	}
	for t, n := range l.values {
		if n == old {
			l.values[t] = by
		}
	}
	return nil
}

// arguments reads the arguments of a call. The first that is not as a plan needs it sets err.
type arguments struct {
	call   torch.Call
	values map[torch.Tensor]*node
	device torch.Device
	err    error
}

func (a *arguments) refuse(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

// arg is argument i, nil where the call leaves it to the schema.
func (a *arguments) arg(i int) any {
	if i >= len(a.call.Args) {
		return nil
	}
	return a.call.Args[i]
}

// value is argument i, which comes from the images.
func (a *arguments) value(i int) *node {
	t, _ := a.arg(i).(torch.Tensor)
	n := a.values[t]
	if n == nil {
		a.refuse("argument %d does not come from the images", i+1)
		return &node{shape: []int64{0, 0, 0}}
	}
	return n
}

// constant is argument i, a float32 tensor on the plan's device that does not come from the images, or undefined.
func (a *arguments) constant(i int) torch.Tensor {
	t, _ := a.arg(i).(torch.Tensor)
	switch {
	case a.values[t] != nil:
		a.refuse("argument %d comes from the images", i+1)
	case t.Defined() && (t.Dtype() != torch.Float || t.Device() != a.device):
		a.refuse("argument %d is %v on %v", i+1, t.Dtype(), t.Device())
	}
	return t
}

// number is argument i, or otherwise where the call leaves it to the schema.
func (a *arguments) number(i int, otherwise float64) float64 {
	switch v := a.arg(i).(type) {
	case nil:
		return otherwise
	case int64:
		return float64(v)
	case float64:
		return v
	case bool:
		if v {
			return 1
		}
		return 0
	}
	a.refuse("argument %d is no number", i+1)
	return 0
}

// pair is argument i, a height and a width.
func (a *arguments) pair(i int) []int64 {
	v, _ := a.arg(i).([]int64)
	if len(v) == 1 {
		v = []int64{v[0], v[0]}
	}
	if len(v) != 2 {
		a.refuse("argument %d does not give height and width", i+1)
		return []int64{1, 1}
	}
	return v
}

// image is the first argument, which has channels, height and width.
func (a *arguments) image() *node {
	n := a.value(0)
	if len(n.shape) != 3 {
		a.refuse("argument 1 is no image")
		return &node{shape: []int64{0, 0, 0}}
	}
	return n
}

// perChannel is argument i as Double [C], a constant of the shape [C, 1, 1].
func (a *arguments) perChannel(i int, channels int64) torch.Tensor {
	t := a.constant(i)
	if a.err == nil && (!t.Defined() || t.Numel() != channels || t.Dim() < 3 || t.Size(-3) != channels) {
		a.refuse("argument %d is not one number per channel", i+1)
	}
	if a.err != nil {
		return torch.Zeros([]int64{channels}, false).CastTo(torch.Double)
	}
	return t.CastTo(torch.Double).Reshape(channels)
}

// translations make a layer of a call of each operator that plans know.
var translations = map[string]func(a *arguments) *node{
	"aten::conv2d": func(a *arguments) *node {
		x, weight, bias := a.image(), a.constant(1), a.constant(2)
		stride, padding, dilation := a.pair(3), a.pair(4), a.pair(5)
		if dilation[0] != 1 || dilation[1] != 1 {
			a.refuse("dilation is not known to plans")
		}
		if a.err != nil {
			return nil
		}
		kernel := weight.Shape()[2:]
		shape := []int64{weight.Size(0), 0, 0}
		for d := range 2 {
			shape[d+1] = (x.shape[d+1]+2*padding[d]-kernel[d])/stride[d] + 1
		}
		c := &conv{
			Conv:   kernels.Conv{Kernel: kernel, Stride: stride, Padding: padding},
			groups: int64(a.number(6, 1)), weight: weight.CastTo(torch.Double),
		}
		if bias.Defined() {
			c.bias = bias.CastTo(torch.Double)
		}
		return &node{op: c, in: []*node{x}, shape: shape}
	},
	"aten::batch_norm": func(a *arguments) *node {
		x := a.image()
		weight, bias, mean, variance := a.constant(1), a.constant(2), a.constant(3), a.constant(4)
		if a.number(5, 0) != 0 || !mean.Defined() || !variance.Defined() {
			a.refuse("it normalises with the statistics of the batch")
		}
		if a.err != nil {
			return nil
		}
		scale := variance.CastTo(torch.Double).AddScalar(a.number(7, 0)).Pow(-0.5)
		if weight.Defined() {
			scale = scale.Mul(weight)
		}
		shift := scale.Mul(mean).Neg()
		if bias.Defined() {
			shift = shift.Add(bias, 1)
		}
		return &node{op: &affine{scale, shift}, in: []*node{x}, shape: x.shape}
	},
	"aten::sub.Tensor": func(a *arguments) *node {
		x := a.image()
		mean := a.perChannel(1, x.shape[0])
		return &node{op: &affine{mean.OnesLike(), mean.MulScalar(-a.number(2, 1))}, in: []*node{x}, shape: x.shape}
	},
	"aten::div.Tensor": func(a *arguments) *node {
		x := a.image()
		std := a.perChannel(1, x.shape[0])
		return &node{op: &affine{std.Pow(-1), std.ZerosLike()}, in: []*node{x}, shape: x.shape}
	},
	"aten::add.Tensor":  translateAdd,
	"aten::add_.Tensor": translateAdd,
	"aten::relu":        translateRelu,
	"aten::relu_":       translateRelu,
	"aten::max_pool2d": func(a *arguments) *node {
		x := a.image()
		pool := kernels.Pool{Kernel: a.pair(1), Stride: a.pair(2), Padding: a.pair(3)}
		if d := a.pair(4); d[0] != 1 || d[1] != 1 {
			a.refuse("dilation is not known to plans")
		}
		return &node{op: &maxPool{pool}, in: []*node{x}, shape: pooled(x.shape, pool, a.number(5, 0) != 0)}
	},
	"aten::avg_pool2d": func(a *arguments) *node {
		x := a.image()
		pool := kernels.Pool{Kernel: a.pair(1), Stride: a.pair(2), Padding: a.pair(3)}
		if a.number(4, 0) != 0 || a.number(5, 1) != 1 || a.arg(6) != nil {
			a.refuse("ceil_mode and other divisors than the window's size are not known to plans")
		}
		return &node{op: averagePool{kernel: pool.Kernel, stride: pool.Stride, padding: pool.Padding}, in: []*node{x}, shape: pooled(x.shape, pool, false)}
	},
	"aten::adaptive_avg_pool2d": func(a *arguments) *node {
		x, size := a.image(), a.pair(1)
		n := &node{op: shrink{}, in: []*node{x}, shape: []int64{x.shape[0], size[0], size[1]}}
		if size[0] == 1 && size[1] == 1 {
			n.op = average{}
		}
		return n
	},
	"aten::cat": func(a *arguments) *node {
		n, c := &node{shape: []int64{0, 0, 0}}, concat{}
		parts, _ := a.arg(0).([]torch.Tensor)
		if dim := a.number(1, 0); dim != 1 {
			a.refuse("only channels are concatenated in plans, not dimension %g", dim)
		}
		for i, t := range parts {
			x := a.values[t]
			if x == nil || len(x.shape) != 3 || i > 0 && !slices.Equal(x.shape[1:], n.shape[1:]) {
				a.refuse("part %d is no image of the size of the others that comes from the images", i+1)
				return nil
			}
			n.in, c.from = append(n.in, x), append(c.from, n.shape[0])
			n.shape = []int64{n.shape[0] + x.shape[0], x.shape[1], x.shape[2]}
		}
		n.op = c
		return n
	},
	"aten::relu6":  translateRelu6,
	"aten::relu6_": translateRelu6,
	"aten::flatten.using_ints": func(a *arguments) *node {
		x := a.image()
		if a.number(1, 0) != 1 || a.number(2, -1) != -1 {
			a.refuse("only whole images are flattened in plans")
		}
		return &node{op: flatten{}, in: []*node{x}, shape: []int64{x.shape[0] * x.shape[1] * x.shape[2]}}
	},
	"aten::slice.Tensor": func(a *arguments) *node {
		x, dim, step := a.image(), int64(a.number(1, 0)), int64(a.number(4, 1))
		if dim != 2 && dim != 3 {
			a.refuse("dimension %d is not known to plans, only 2 and 3", dim)
			return nil
		}
		if a.number(2, 0) != 0 || a.number(3, math.MaxInt64) < float64(x.shape[dim-1]) {
			a.refuse("only whole rows and columns are sampled in plans")
		}
		shape := slices.Clone(x.shape)
		shape[dim-1] = (shape[dim-1] + step - 1) / step
		return &node{op: sample{dim: dim, step: step}, in: []*node{x}, shape: shape}
	},
	"aten::constant_pad_nd": func(a *arguments) *node {
		x := a.image()
		pad, _ := a.arg(1).([]int64) // of width, height, channels: before and behind each
		if len(pad) != 6 || !slices.Equal(pad[:4], []int64{0, 0, 0, 0}) || pad[4] < 0 || pad[5] < 0 || a.number(2, 0) != 0 {
			a.refuse("padding %v with %g is not known to plans, only channels of zeros", pad, a.number(2, 0))
			return nil
		}
		return &node{op: widen{before: pad[4]}, in: []*node{x}, shape: []int64{pad[4] + x.shape[0] + pad[5], x.shape[1], x.shape[2]}}
	},
	"aten::linear": func(a *arguments) *node {
		x, weight, bias := a.value(0), a.constant(1), a.constant(2)
		if a.err == nil && len(x.shape) != 1 {
			a.refuse("its input is no vector")
		}
		if a.err != nil {
			return nil
		}
		return &node{op: &linear{weight, bias}, in: []*node{x}, shape: weight.Shape()[:1]}
	},
}

func translateAdd(a *arguments) *node {
	x, y := a.value(0), a.value(1)
	if a.number(2, 1) != 1 || fmt.Sprint(x.shape) != fmt.Sprint(y.shape) {
		a.refuse("only values of one shape are added in plans, unscaled")
	}
	return &node{op: sum{}, in: []*node{x, y}, shape: x.shape}
}

func translateRelu(a *arguments) *node {
	x := a.value(0)
	return &node{op: same{}, in: []*node{x}, shape: x.shape, relu: true}
}

func translateRelu6(a *arguments) *node {
	x := a.image()
	return &node{op: clamp{}, in: []*node{x}, shape: x.shape}
}

// pooled is the shape of what windows make of an image; with ceil, a last one that reaches beyond it counts.
func pooled(shape []int64, w kernels.Pool, ceil bool) []int64 {
	out := []int64{shape[0], 0, 0}
	for d := range 2 {
		stride, reach := max(w.Stride[d], 1), shape[d+1]+w.Padding[d]
		over := reach + w.Padding[d] - w.Kernel[d]
		out[d+1] = over/stride + 1
		if ceil && over%stride != 0 && out[d+1]*stride < reach { // it must begin before the padding behind
			out[d+1]++
		}
	}
	return out
}

// fuse folds per-channel scaling into the convolution before it, and lets the layer before a ReLU or an addition do it.
// It returns the layers that are left, each behind those it reads.
func fuse(nodes []*node, output *node) []*node {
	for _, n := range nodes {
		for _, in := range n.in {
			in.users++
		}
	}
	output.users++
	instead := map[*node]*node{} // layers that another one does now
	for _, n := range nodes {
		for i, in := range n.in {
			if by := instead[in]; by != nil {
				n.in[i] = by
			}
		}
		if n == output { // stays the node that the plan ends in
			continue
		}
		if host := absorb(n); host != nil {
			host.users = n.users
			instead[n] = host
		}
	}
	var order []*node
	placed := map[*node]bool{}
	var place func(n *node)
	place = func(n *node) {
		if placed[n] {
			return
		}
		placed[n] = true
		for _, in := range n.in {
			place(in)
		}
		order = append(order, n)
	}
	place(output)
	return order
}

// absorb lets the layer that n reads do what n does, if nobody else reads it, and returns that layer, else nil.
func absorb(n *node) *node {
	// open says that host's op has the last word on its value, and n alone hears it.
	open := func(host *node) bool { return host.users == 1 && !host.relu }
	switch op := n.op.(type) {
	case *affine:
		host := n.in[0]
		if c, ok := host.op.(*conv); ok && open(host) && len(host.in) == 1 {
			c.scale(op)
			return host
		}
		if before, ok := host.op.(*affine); ok && open(host) {
			host.op = before.then(op)
			return host
		}
	case same:
		if host := n.in[0]; open(host) && host.op.canRelu() {
			host.relu = true
			return host
		}
	case sum:
		for i, host := range n.in {
			if _, ok := host.op.(*conv); ok && open(host) && len(host.in) == 1 && n.in[1-i] != host {
				host.in = append(host.in, n.in[1-i])
				return host
			}
		}
	}
	return nil
}
