package kernels

import "l2ul/torch"

// The operators below are what plans (package engine) need beside convolutions, on every device. Values are float32 or
// bfloat16, all of a call alike, and arithmetic is float32: a bfloat16 result is rounded once, when it is stored. Images
// are [n,C,H,W], channels-last; results go to tensors of the caller.

var (
	opFinish          = torch.Define("l2ul::finish_(Tensor(a!) out, Tensor sum, Tensor? bias, Tensor? add, Tensor? gate, bool relu) -> Tensor(a!)")
	opMaxPool         = torch.Define("l2ul::max_pool_(Tensor(a!) out, Tensor(b!) code, Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> (Tensor(a!), Tensor(b!))")
	opMaxPoolGradient = torch.Define("l2ul::max_pool_gradient_(Tensor(a!) out, Tensor grad, Tensor code, int[2] kernel, int[2] stride, int[2] padding, Tensor? gate) -> Tensor(a!)")
)

// Finish stores sums that another operator has left, such as libtorch's convolution, with the epilogue of [Conv.Run]: out
// and sum are of one shape, images or vectors [n,C]. Sum, Add and Gate may have any strides. Sum may be out.
func Finish(out, sum torch.Tensor, e Epilogue) {
	ready(opFinish).Do(out, sum, e.Bias, e.Add, e.Gate, e.Relu)
}

// Pool is max pooling over windows of a fixed size; places outside the image do not count, NaN is larger than any number.
type Pool struct{ Kernel, Stride, Padding []int64 }

// Run writes the largest value of each window of x to out, and its place in the window to code, uint8 like out: the
// first of equals.
func (p Pool) Run(out, code, x torch.Tensor) {
	ready(opMaxPool).Do(out, code, x, p.Kernel, p.Stride, p.Padding)
}

// Gradient adds up, for each place of x, the gradients of the windows whose largest value it was, and writes 0 where
// gate, if defined, is not positive.
func (p Pool) Gradient(out, grad, code, gate torch.Tensor) {
	ready(opMaxPoolGradient).Do(out, grad, code, p.Kernel, p.Stride, p.Padding, gate)
}
