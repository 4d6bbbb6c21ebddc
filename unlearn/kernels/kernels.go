// Package kernels holds the project's own operators: the inner loops of attack, importance and forgetting, each one pass
// over memory where a chain of libtorch operators takes many.
//
// They form an ordinary PyTorch operator library, l2ul (ops.cc has the schemas and checks, cpu.cc the loops, cuda.cu the
// kernels), so a Python program gets them with torch.ops.load_library("libl2ul.so"), for CUDA "libl2ul_cuda.so" after
// it, as torch.ops.l2ul.*. All values are float32, in plans bfloat16 too, and every operation rounds on its own, in the
// order of the formulas below; a norm is float32(sqrt(Σ float64(v)²)). So results equal the same formulas written with
// PyTorch's operators bit for bit, on CPU and CUDA (as long as the float64 sum, taken in another order, rounds to the same
// float32, which fails about once in 1e8 sums), and depend neither on the number of threads nor on the instruction set.
//
// Inputs may have any strides, channels-last among them: results are the same up to the order of that float64 sum. What
// an operator changes keeps its own memory format.
//
// No operator has a derivative. Backward through one panics, and so does a backward pass that needs a value that one of
// them has changed. The operators that change lists refuse arguments that require gradients unless gradients are off
// ([torch.NoGrad]).
//
// A mistake in shapes, dtypes, lengths or settings panics with a [*torch.Error] that names operator, argument and value.
// Settings (eps, alpha, lr, …) are finite and not negative.
package kernels

import (
	"sync"

	"l2ul/torch"
	"l2ul/torch/cuda"
)

// The file names of the operator library and of its CUDA half, which lie beside the bridge to libtorch.
const (
	Library     = "libl2ul.so"
	LibraryCUDA = "libl2ul_cuda.so"
)

// Load loads the operator library, and its CUDA half if [cuda.Open] has succeeded, once each. The operators below load
// it themselves at their first call; a program calls Load to learn early, and as an ordinary error, that a file is
// missing or does not fit.
func Load() error {
	if err := load(); err != nil || !cuda.Opened() {
		return err
	}
	return loadCUDA()
}

var (
	load     = sync.OnceValue(func() error { return torch.LoadLibrary(Library) })
	loadCUDA = sync.OnceValue(func() error { return torch.LoadLibrary(LibraryCUDA) })
)

// ready returns the operator once the library is there.
func ready(op *torch.Op) *torch.Op {
	if err := Load(); err != nil {
		panic(err) // a *torch.Error, as for any operator that is missing
	}
	return op
}

var opGatherLUT = torch.Define("l2ul::gather_lut(Tensor pixels, Tensor index, Tensor table, Tensor? crops=None, int padding=0) -> Tensor")

// GatherLUT makes a batch from resident images:
//
//	out[i,c,h,w] = table[c, pixels[index[i],c,h,w]]
//
// pixels is uint8 [n,C,H,W], index int64 [k] with values in [0,n), table float32 [C,256]; the result is float32
// [k,C,H,W] in the memory format of pixels. A table of v/255 gives what pixels[index].float()/255 gives.
//
// On the CPU an index outside [0,n) panics. On CUDA it is met when the kernel runs, and ends this process's use of the
// device with a "device-side assert", as PyTorch's own indexing does: to look earlier would wait for the device.
func GatherLUT(pixels, index, table torch.Tensor) torch.Tensor {
	return ready(opGatherLUT).One(pixels, index, table)
}

// GatherCrops makes a batch of augmented images, as [GatherLUT] does of whole ones:
//
//	out[i,c,h,w] = table[c, P[index[i],c,topᵢ+h,leftᵢ+w']]    w' = W-1-w where flipᵢ is 1, else w
//
// P is pixels with padding bytes of 0 on every side. crops is int64 [k,3]: top and left in [0, 2·padding], and flip, 0 or 1.
// All else, and what becomes of a crop outside its range, is as there.
func GatherCrops(pixels, index, table, crops torch.Tensor, padding int) torch.Tensor {
	return ready(opGatherLUT).One(pixels, index, table, crops, padding)
}

var opPGDStart = torch.Define("l2ul::pgd_start(Tensor x, Tensor start, float eps, str norm) -> Tensor")

// PGDStart returns the perturbation an attack begins with: start, an image in [0,1), brought to the ball of radius eps
// around x and then into the box [0,1] (spec/l2ul.md section 3.1):
//
//	clampbox(v) = min(max(x + v, 0), 1) - x
//	project(v)  = v · min(eps·(1/‖v‖), 1)          "l2"; v itself where ‖v‖ = 0
//	            = min(max(v, -eps), eps)           "linf"
//	δ           = clampbox(clampbox(project(start - x)))
//
// x and start are float32 [n,…] of equal shape, an image a row; norms are per image. norm is "l2" or "linf".
func PGDStart(x, start torch.Tensor, eps float64, norm string) torch.Tensor {
	return ready(opPGDStart).One(x, start, eps, norm)
}

var opPGDL2Step = torch.Define("l2ul::pgd_l2_step_(Tensor(a!) delta, Tensor(b!) next, Tensor grad, Tensor x, float alpha, float eps) -> (Tensor(a!), Tensor(b!))")

// PGDL2Step takes one step of the L2 attack in place (spec/l2ul.md section 3.1), ascending on grad, and writes the images
// that the network sees next:
//
//	δ    ← project(clampbox(δ + alpha·(g·(1/max(‖g‖, 1e-6)))))
//	next ← x + δ
//
// with clampbox and project of [PGDStart]. All are float32 [n,…] of equal shape; next shares memory with none of the
// others. A gradient that is not finite makes its image's δ NaN.
func PGDL2Step(delta, next, grad, x torch.Tensor, alpha, eps float64) {
	ready(opPGDL2Step).Do(delta, next, grad, x, alpha, eps)
}

var opPGDLinfStep = torch.Define("l2ul::pgd_linf_step_(Tensor(a!) delta, Tensor(b!) next, Tensor grad, Tensor x, float alpha, float eps) -> (Tensor(a!), Tensor(b!))")

// PGDLinfStep takes one step of the L∞ attack in place, ascending on grad, and writes the images that the network sees
// next:
//
//	δ    ← clampbox(min(max(δ + alpha·sign(g), -eps), eps))
//	next ← x + δ
//
// Shapes are those of [PGDL2Step]. A gradient that is not finite makes its element of δ NaN, where sign would hide it.
func PGDLinfStep(delta, next, grad, x torch.Tensor, alpha, eps float64) {
	ready(opPGDLinfStep).Do(delta, next, grad, x, alpha, eps)
}

var opAccumulateAbs = torch.Define("l2ul::accumulate_abs_(Tensor(a!)[] omega, Tensor[] grads, float weight, float count) -> ()")

// AccumulateAbs adds a gradient's share to a MAS importance (spec/l2ul.md section 4.1), for each tensor of the lists:
//
//	Ω ← Ω + (weight·|g|)/count
//
// The lists are of equal length, with float32 tensors of equal shape; count is greater than 0.
func AccumulateAbs(omega, grads []torch.Tensor, weight, count float64) {
	ready(opAccumulateAbs).Do(omega, grads, weight, count)
}

var opAccumulateSquare = torch.Define("l2ul::accumulate_square_(Tensor(a!)[] omega, Tensor[] grads, float weight, float count) -> ()")

// AccumulateSquare adds a gradient's share to a Fisher diagonal (spec/l2ul.md section 4.1), for each tensor of the lists:
//
//	Ω ← Ω + (weight·g²)/count
//
// The lists are those of [AccumulateAbs].
func AccumulateSquare(omega, grads []torch.Tensor, weight, count float64) {
	ready(opAccumulateSquare).Do(omega, grads, weight, count)
}

var opAnchorWeights = torch.Define("l2ul::anchor_weights(Tensor omega) -> Tensor")

// AnchorWeights turns the importance of one parameter tensor into anchor weights (spec/l2ul.md section 4.2):
//
//	Ω̄ = 1 - (Ω - min Ω)/(max Ω - min Ω)
//
// and 1 everywhere where max Ω = min Ω. omega is float32 of any shape; one NaN makes every weight NaN.
func AnchorWeights(omega torch.Tensor) torch.Tensor {
	return ready(opAnchorWeights).One(omega)
}

var opAnchoredSGD = torch.Define("l2ul::anchored_sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, " +
	"Tensor[] anchors, Tensor[] reference, float lr, float momentum, float weight_decay, float lam, bool first) -> Tensor")

// AnchoredSGD takes one step of stochastic gradient descent with the anchor penalty's gradient (spec/l2ul.md sections
// 4.3 and 5), in place and in one pass over all parameters:
//
//	g' = g + (lambda·Ω̄)·(θ - θ⁰)                   left out where anchors is empty or lambda = 0
//	d  = g' + weightDecay·θ
//	v  ← v·momentum + d                            at the first step v ← d, whatever v held
//	θ  ← θ - lr·v
//
// The lists hold float32 tensors of equal shapes, position by position; anchors may be empty, and then reference too.
// params and momenta share memory with no other list.
// The result is a bool without dimensions, on the parameters' device: every new parameter is finite.
func AnchoredSGD(params, grads, momenta, anchors, reference []torch.Tensor, lr, momentum, weightDecay, lambda float64, first bool) torch.Tensor {
	return ready(opAnchoredSGD).One(params, grads, momenta, anchors, reference, lr, momentum, weightDecay, lambda, first)
}

var opAnchorPenalty = torch.Define("l2ul::anchor_penalty(Tensor[] params, Tensor[] reference, Tensor[] anchors) -> Tensor")

// AnchorPenalty measures how far parameters have moved (spec/l2ul.md section 4.3). The result is float64 [2]:
//
//	R = ½ Σ Ω̄ (θ - θ⁰)²,  Σ (θ - θ⁰)²
//
// summed in float64 over all elements of all tensors. The lists are those of [AnchoredSGD]; without anchors Ω̄ is 1.
func AnchorPenalty(params, reference, anchors []torch.Tensor) torch.Tensor {
	return ready(opAnchorPenalty).One(params, reference, anchors)
}
