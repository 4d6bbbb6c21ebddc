package kernels

import "l2ul/torch"

// The operators below compute on the CPU. Conv runs frozen networks: weights are packed once, and bias, residual and ReLU
// (or, going back, its mask) applied while a sum is still in a register. Every result is one chain of fused
// multiply-adds in a fixed order: unlike libtorch's, its bits depend neither on the number of threads, nor on the
// instruction set (with Half, where numbers below 2^-126 turn up, they do), nor on the other images of the batch.
//
// Images are float32 [n,C,H,W], channels-last; results go to tensors of the caller, so that nothing is allocated.

// Conv is a two-dimensional convolution with square zero padding, dilation 1 and one group. Each pair is height, width.
type Conv struct {
	Kernel, Stride, Padding []int64
	// Tile chooses the way it is summed: 0 tap by tap; 2 or 4 by Winograd's F(Tile×Tile, 3×3), with 2.25 or 4 times
	// fewer multiplications and a rounding error a few times as large (kernel 3×3, stride 1, depth a multiple of 8).
	Tile int64
	// Gradient makes it the gradient of that convolution by its input: from [n,O,…] back to [n,I,…].
	Gradient bool
	// Half multiplies bfloat16: what is multiplied, after Winograd's transforms if there are any, is rounded to it, sums and
	// everything around them stay float32. It needs an even depth, and pays where the processor has instructions for it.
	Half bool
}

// Epilogue is what happens to each sum v before it is stored: v + Bias (float32 [C]) + Add, then max(v, 0) if Relu, or 0
// where Gate is not positive. Undefined tensors are left out; Add and Gate have the shape of the output, and Add may be
// the output itself.
type Epilogue struct {
	Bias, Add, Gate torch.Tensor
	Relu            bool
}

var (
	opConvPack = torch.Define("l2ul::conv_pack(Tensor weight, int tile, bool gradient, bool half) -> Tensor")
	opConv     = torch.Define("l2ul::conv_(Tensor(a!) out, Tensor x, Tensor packed, int tile, int[2] kernel, int[2] stride, int[2] padding, " +
		"bool gradient, Tensor? bias, Tensor? add, Tensor? gate, bool relu) -> Tensor(a!)")
	opConv2d = torch.Define("l2ul::conv2d(Tensor x, Tensor weight, int tile, int[2] stride, int[2] padding) -> Tensor")
)

// Pack arranges weights, float32 [O,I,h,w], for [Conv.Run]. What it returns is good for this tile, direction and Half only.
func (c Conv) Pack(weight torch.Tensor) torch.Tensor {
	return ready(opConvPack).One(weight, c.Tile, c.Gradient, c.Half)
}

// Run convolves x into out, with weights that [Conv.Pack] has packed.
func (c Conv) Run(out, x, packed torch.Tensor, e Epilogue) {
	ready(opConv).Do(out, x, packed, c.Tile, c.Kernel, c.Stride, c.Padding, c.Gradient, e.Bias, e.Add, e.Gate, e.Relu)
}

// Conv2d is a convolution that can be trained: of x, Float [n,I,H,W], channels-last, with weight, Float [O,I,h,w], each pair
// height, width, without bias, dilation or groups. Tile is that of [Conv], for forward and both gradients: with 0 I and O are
// multiples of 16; with 2 or 4 of 8, the kernel is 3×3, stride 1 and padding at most 2. Images without pixels are refused.
func Conv2d(x, weight torch.Tensor, tile int64, stride, padding []int64) torch.Tensor {
	return ready(opConv2d).One(x, weight, tile, stride, padding)
}

// WinogradTile returns the tile, 2 or 4, that takes fewest multiplications for a 3×3 convolution at stride 1, with square
// padding 0, 1 or 2, to images of height×width, or 0 where direct sums take no more: they leave out what is outside.
func WinogradTile(height, width, padding int64) int64 {
	// Along an axis three taps read each pixel, but at either end 1 less for the first pixel of padding, 2 for the second.
	inside := func(v int64) int64 { return 3*v - padding*(padding+1) }
	best, least := int64(0), inside(height)*inside(width)
	for _, tile := range []int64{2, 4} {
		up := func(v int64) int64 { return (v + tile - 1) / tile }
		if cost := up(height) * up(width) * (tile + 2) * (tile + 2); cost < least {
			best, least = tile, cost
		}
	}
	return best
}
