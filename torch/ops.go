package torch

// The operators with a Go method of their own, one line each: a test holds every one against the schema of the linked
// libtorch. Any other operator is one Define away.

// ---- Arithmetic. Operands broadcast as in PyTorch; the suffix I works in place and returns nothing. ----

var opAdd = Define("aten::add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor")

// Add returns t + alpha·other.
func (t Tensor) Add(other Tensor, alpha float64) Tensor { return opAdd.One(t, other, number(alpha)) }

var opAddI = Define("aten::add_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)")

// AddI adds alpha·other to t.
func (t Tensor) AddI(other Tensor, alpha float64) { opAddI.Do(t, other, number(alpha)) }

// number gives a whole multiplier as an integer: libtorch refuses a float one for tensors of integers.
func number(alpha float64) any {
	if whole := int64(alpha); float64(whole) == alpha {
		return whole
	}
	return alpha
}

var opAddScalar = Define("aten::add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor")

// AddScalar returns t + other.
func (t Tensor) AddScalar(other float64) Tensor { return opAddScalar.One(t, other) }

var opSub = Define("aten::sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor")

// Sub returns t - alpha·other.
func (t Tensor) Sub(other Tensor, alpha float64) Tensor { return opSub.One(t, other, number(alpha)) }

var opSubI = Define("aten::sub_.Tensor(Tensor(a!) self, Tensor other, *, Scalar alpha=1) -> Tensor(a!)")

// SubI subtracts alpha·other from t.
func (t Tensor) SubI(other Tensor, alpha float64) { opSubI.Do(t, other, number(alpha)) }

var opMul = Define("aten::mul.Tensor(Tensor self, Tensor other) -> Tensor")

// Mul returns t·other, element by element.
func (t Tensor) Mul(other Tensor) Tensor { return opMul.One(t, other) }

var opMulI = Define("aten::mul_.Tensor(Tensor(a!) self, Tensor other) -> Tensor(a!)")

// MulI multiplies t by other.
func (t Tensor) MulI(other Tensor) { opMulI.Do(t, other) }

var opMulScalar = Define("aten::mul.Scalar(Tensor self, Scalar other) -> Tensor")

// MulScalar returns t·other.
func (t Tensor) MulScalar(other float64) Tensor { return opMulScalar.One(t, other) }

var opMulScalarI = Define("aten::mul_.Scalar(Tensor(a!) self, Scalar other) -> Tensor(a!)")

// MulScalarI multiplies t by other.
func (t Tensor) MulScalarI(other float64) { opMulScalarI.Do(t, other) }

var opDiv = Define("aten::div.Tensor(Tensor self, Tensor other) -> Tensor")

// Div returns t / other.
func (t Tensor) Div(other Tensor) Tensor { return opDiv.One(t, other) }

var opDivI = Define("aten::div_.Tensor(Tensor(a!) self, Tensor other) -> Tensor(a!)")

// DivI divides t by other.
func (t Tensor) DivI(other Tensor) { opDivI.Do(t, other) }

var opDivScalar = Define("aten::div.Scalar(Tensor self, Scalar other) -> Tensor")

// DivScalar returns t / other.
func (t Tensor) DivScalar(other float64) Tensor { return opDivScalar.One(t, other) }

var opNeg = Define("aten::neg(Tensor self) -> Tensor")

// Neg returns -t.
func (t Tensor) Neg() Tensor { return opNeg.One(t) }

var opAbs = Define("aten::abs(Tensor self) -> Tensor")

// Abs returns |t|.
func (t Tensor) Abs() Tensor { return opAbs.One(t) }

var opSign = Define("aten::sign(Tensor self) -> Tensor")

// Sign returns -1, 0 or 1.
func (t Tensor) Sign() Tensor { return opSign.One(t) }

var opSquare = Define("aten::square(Tensor self) -> Tensor")

// Square returns t².
func (t Tensor) Square() Tensor { return opSquare.One(t) }

var opSqrt = Define("aten::sqrt(Tensor self) -> Tensor")

// Sqrt returns the square root.
func (t Tensor) Sqrt() Tensor { return opSqrt.One(t) }

var opPow = Define("aten::pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor")

// Pow returns t to the power exponent.
func (t Tensor) Pow(exponent float64) Tensor { return opPow.One(t, exponent) }

var opExp = Define("aten::exp(Tensor self) -> Tensor")

// Exp returns e to the power t.
func (t Tensor) Exp() Tensor { return opExp.One(t) }

var opLog = Define("aten::log(Tensor self) -> Tensor")

// Log returns the natural logarithm.
func (t Tensor) Log() Tensor { return opLog.One(t) }

var opClamp = Define("aten::clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor")

// Clamp returns t limited to [min, max]. NaN stays NaN.
func (t Tensor) Clamp(min, max float64) Tensor { return opClamp.One(t, min, max) }

var opClampI = Define("aten::clamp_(Tensor(a!) self, Scalar? min=None, Scalar? max=None) -> Tensor(a!)")

// ClampI limits t to [min, max].
func (t Tensor) ClampI(min, max float64) { opClampI.Do(t, min, max) }

var opErfInvI = Define("aten::erfinv_(Tensor(a!) self) -> Tensor(a!)")

// ErfInvI replaces t by erf⁻¹(t).
func (t Tensor) ErfInvI() { opErfInvI.Do(t) }

var opMM = Define("aten::mm(Tensor self, Tensor mat2) -> Tensor")

// MM returns the product of two matrices, [n, k] and [k, m].
func MM(a, b Tensor) Tensor { return opMM.One(a, b) }

var opMatMul = Define("aten::matmul(Tensor self, Tensor other) -> Tensor")

// MatMul returns the product of matrices or vectors, with batch dimensions broadcast.
func (t Tensor) MatMul(other Tensor) Tensor { return opMatMul.One(t, other) }

// ---- Comparison. ----

var opEq = Define("aten::eq.Tensor(Tensor self, Tensor other) -> Tensor")

// Eq returns t == other, element by element, as Bool.
func (t Tensor) Eq(other Tensor) Tensor { return opEq.One(t, other) }

var opNe = Define("aten::ne.Tensor(Tensor self, Tensor other) -> Tensor")

// Ne returns t != other as Bool.
func (t Tensor) Ne(other Tensor) Tensor { return opNe.One(t, other) }

var opLtScalar = Define("aten::lt.Scalar(Tensor self, Scalar other) -> Tensor")

// LtScalar returns t < other as Bool.
func (t Tensor) LtScalar(other float64) Tensor { return opLtScalar.One(t, other) }

var opGtScalar = Define("aten::gt.Scalar(Tensor self, Scalar other) -> Tensor")

// GtScalar returns t > other as Bool.
func (t Tensor) GtScalar(other float64) Tensor { return opGtScalar.One(t, other) }

var opIsFinite = Define("aten::isfinite(Tensor self) -> Tensor")

// IsFinite returns, as Bool, which elements are neither infinite nor NaN.
func (t Tensor) IsFinite() Tensor { return opIsFinite.One(t) }

var opAll = Define("aten::all(Tensor self) -> Tensor")

// All returns a scalar Bool: every element is true.
func (t Tensor) All() Tensor { return opAll.One(t) }

var opAny = Define("aten::any(Tensor self) -> Tensor")

// Any returns a scalar Bool: some element is true.
func (t Tensor) Any() Tensor { return opAny.One(t) }

var opWhere = Define("aten::where.self(Tensor condition, Tensor self, Tensor other) -> Tensor")

// Where returns a where condition holds and b elsewhere.
func Where(condition, a, b Tensor) Tensor { return opWhere.One(condition, a, b) }

var opEqual = Define("aten::equal(Tensor self, Tensor other) -> bool")

// Equal reports whether two tensors have the same shape and elements.
func Equal(a, b Tensor) bool { return opEqual.Call(a, b)[0].(bool) }

var opAllClose = Define("aten::allclose(Tensor self, Tensor other, float rtol=1.0000000000000001e-05, float atol=1e-08, bool equal_nan=False) -> bool")

// AllClose reports whether |a - b| <= atol + rtol·|b| everywhere.
func AllClose(a, b Tensor, rtol, atol float64) bool {
	return opAllClose.Call(a, b, rtol, atol)[0].(bool)
}

// ---- Reductions. ----

var opSum = Define("aten::sum(Tensor self, *, ScalarType? dtype=None) -> Tensor")

// Sum returns the sum of all elements; of integers and bools as Long.
func (t Tensor) Sum() Tensor { return opSum.One(t) }

var opSumDim = Define("aten::sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor")

// SumDim returns the sum over dimensions.
func (t Tensor) SumDim(dim []int64, keepdim bool) Tensor { return opSumDim.One(t, dim, keepdim) }

var opMean = Define("aten::mean(Tensor self, *, ScalarType? dtype=None) -> Tensor")

// Mean returns the mean of all elements, of a floating dtype.
func (t Tensor) Mean() Tensor { return opMean.One(t) }

var opMeanDim = Define("aten::mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor")

// MeanDim returns the mean over dimensions.
func (t Tensor) MeanDim(dim []int64, keepdim bool) Tensor { return opMeanDim.One(t, dim, keepdim) }

var opMax = Define("aten::max(Tensor self) -> Tensor")

// Max returns the largest element.
func (t Tensor) Max() Tensor { return opMax.One(t) }

var opMin = Define("aten::min(Tensor self) -> Tensor")

// Min returns the smallest element.
func (t Tensor) Min() Tensor { return opMin.One(t) }

var opMaxDim = Define("aten::max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)")

// MaxDim returns the largest elements along a dimension and where they are.
func (t Tensor) MaxDim(dim int64, keepdim bool) (values, indices Tensor) {
	return opMaxDim.Two(t, dim, keepdim)
}

var opArgMax = Define("aten::argmax(Tensor self, int? dim=None, bool keepdim=False) -> Tensor")

// ArgMax returns where the largest element along a dimension is; the first of equals.
func (t Tensor) ArgMax(dim int64, keepdim bool) Tensor { return opArgMax.One(t, dim, keepdim) }

var opTopK = Define("aten::topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values, Tensor indices)")

// TopK returns the k largest (or smallest) elements along a dimension and where they are.
func TopK(t Tensor, k, dim int64, largest, sorted bool) (values, indices Tensor) {
	return opTopK.Two(t, k, dim, largest, sorted)
}

// ---- Shape. Results share memory with t where PyTorch's do. ----

var opView = Define("aten::view(Tensor(a) self, SymInt[] size) -> Tensor(a)")

// View returns t with another shape, sharing memory; one size may be -1.
func (t Tensor) View(size ...int64) Tensor { return opView.One(t, size) }

var opReshape = Define("aten::reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)")

// Reshape is View that copies when it must.
func (t Tensor) Reshape(shape ...int64) Tensor { return opReshape.One(t, shape) }

var opFlatten = Define("aten::flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)")

// Flatten joins dimensions startDim to endDim, inclusive.
func (t Tensor) Flatten(startDim, endDim int64) Tensor { return opFlatten.One(t, startDim, endDim) }

var opPermute = Define("aten::permute(Tensor(a) self, int[] dims) -> Tensor(a)")

// Permute reorders the dimensions.
func (t Tensor) Permute(dims ...int64) Tensor { return opPermute.One(t, dims) }

var opTranspose = Define("aten::transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)")

// Transpose swaps two dimensions.
func (t Tensor) Transpose(dim0, dim1 int64) Tensor { return opTranspose.One(t, dim0, dim1) }

var opSqueeze = Define("aten::squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)")

// Squeeze drops a dimension of size 1.
func (t Tensor) Squeeze(dim int64) Tensor { return opSqueeze.One(t, dim) }

var opUnsqueeze = Define("aten::unsqueeze(Tensor(a) self, int dim) -> Tensor(a)")

// Unsqueeze adds a dimension of size 1.
func (t Tensor) Unsqueeze(dim int64) Tensor { return opUnsqueeze.One(t, dim) }

var opExpand = Define("aten::expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)")

// Expand repeats dimensions of size 1 without copying.
func (t Tensor) Expand(size ...int64) Tensor { return opExpand.One(t, size) }

var opExpandAs = Define("aten::expand_as(Tensor(a) self, Tensor other) -> Tensor(a)")

// ExpandAs expands t to the shape of other.
func (t Tensor) ExpandAs(other Tensor) Tensor { return opExpandAs.One(t, other) }

var opNarrow = Define("aten::narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)")

// Narrow returns length elements of a dimension, from start on.
func (t Tensor) Narrow(dim, start, length int64) Tensor { return opNarrow.One(t, dim, start, length) }

var opSelect = Define("aten::select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)")

// Select returns one element of a dimension, which disappears.
func (t Tensor) Select(dim, index int64) Tensor { return opSelect.One(t, dim, index) }

var opIndexSelect = Define("aten::index_select(Tensor self, int dim, Tensor index) -> Tensor")

// IndexSelect returns a copy of the elements of a dimension that a Long or Int vector lists.
func (t Tensor) IndexSelect(dim int64, index Tensor) Tensor { return opIndexSelect.One(t, dim, index) }

var opIndexCopyI = Define("aten::index_copy_(Tensor(a!) self, int dim, Tensor index, Tensor source) -> Tensor(a!)")

// IndexCopyI writes source to the elements of a dimension that a Long vector lists.
func (t Tensor) IndexCopyI(dim int64, index, source Tensor) { opIndexCopyI.Do(t, dim, index, source) }

var opGather = Define("aten::gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor")

// Gather returns t[index] along a dimension, element by element.
func (t Tensor) Gather(dim int64, index Tensor) Tensor { return opGather.One(t, dim, index) }

var opCat = Define("aten::cat(Tensor[] tensors, int dim=0) -> Tensor")

// Cat joins tensors along an existing dimension.
func Cat(tensors []Tensor, dim int64) Tensor { return opCat.One(tensors, dim) }

var opStack = Define("aten::stack(Tensor[] tensors, int dim=0) -> Tensor")

// Stack joins tensors of one shape along a new dimension.
func Stack(tensors []Tensor, dim int64) Tensor { return opStack.One(tensors, dim) }

// ---- Copies and conversion. ----

var opClone = Define("aten::clone(Tensor self, *, MemoryFormat? memory_format=None) -> Tensor")

// Clone returns a copy; gradients flow through it.
func (t Tensor) Clone() Tensor { return opClone.One(t) }

var opDetach = Define("aten::detach(Tensor(a) self) -> Tensor(a)")

// Detach returns t without its history, sharing memory.
func (t Tensor) Detach() Tensor { return opDetach.One(t) }

var opContiguous = Define("aten::contiguous(Tensor(a) self, *, MemoryFormat memory_format=0) -> Tensor(a)")

// Contiguous returns t with its elements dense in that order: t itself when they are.
func (t Tensor) Contiguous(memoryFormat MemoryFormat) Tensor {
	return opContiguous.One(t, memoryFormat)
}

var opCopyI = Define("aten::copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)")

// CopyI copies src, broadcast and converted, into t.
func (t Tensor) CopyI(src Tensor) { opCopyI.Do(t, src) }

var opFillI = Define("aten::fill_.Scalar(Tensor(a!) self, Scalar value) -> Tensor(a!)")

// FillI sets every element.
func (t Tensor) FillI(value float64) { opFillI.Do(t, value) }

var opZeroI = Define("aten::zero_(Tensor(a!) self) -> Tensor(a!)")

// ZeroI sets every element to 0.
func (t Tensor) ZeroI() { opZeroI.Do(t) }

var opNormalI = Define("aten::normal_(Tensor(a!) self, float mean=0., float std=1., *, Generator? generator=None) -> Tensor(a!)")

// NormalI draws every element from a normal distribution; see Seeded.
func (t Tensor) NormalI(mean, std float64) { opNormalI.Do(t, mean, std) }

var opUniformI = Define("aten::uniform_(Tensor(a!) self, float from=0., float to=1., *, Generator? generator=None) -> Tensor(a!)")

// UniformI draws every element from [from, to); see Seeded.
func (t Tensor) UniformI(from, to float64) { opUniformI.Do(t, from, to) }

var opBernoulliI = Define("aten::bernoulli_.float(Tensor(a!) self, float p=0.5, *, Generator? generator=None) -> Tensor(a!)")

// BernoulliI sets every element to 1 with probability p, else to 0; see Seeded.
func (t Tensor) BernoulliI(p float64) { opBernoulliI.Do(t, p) }

// ---- Networks. Images are [N, C, H, W]. ----

var opRelu = Define("aten::relu(Tensor self) -> Tensor")

// Relu returns max(t, 0).
func (t Tensor) Relu() Tensor { return opRelu.One(t) }

var opReluI = Define("aten::relu_(Tensor(a!) self) -> Tensor(a!)")

// ReluI sets t to max(t, 0).
func (t Tensor) ReluI() { opReluI.Do(t) }

var opRelu6 = Define("aten::relu6(Tensor self) -> Tensor")

// Relu6 returns min(max(t, 0), 6).
func (t Tensor) Relu6() Tensor { return opRelu6.One(t) }

var opRelu6I = Define("aten::relu6_(Tensor(a!) self) -> Tensor(a!)")

// Relu6I sets t to min(max(t, 0), 6).
func (t Tensor) Relu6I() { opRelu6I.Do(t) }

var opGelu = Define("aten::gelu(Tensor self, *, str approximate=\"none\") -> Tensor")

// Gelu returns t·Φ(t), Φ the standard normal distribution function.
func (t Tensor) Gelu() Tensor { return opGelu.One(t) }

var opLeakyRelu = Define("aten::leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor")

// LeakyRelu returns t where it is positive and negativeSlope·t elsewhere.
func (t Tensor) LeakyRelu(negativeSlope float64) Tensor { return opLeakyRelu.One(t, negativeSlope) }

var opSigmoid = Define("aten::sigmoid(Tensor self) -> Tensor")

// Sigmoid returns 1/(1+e^-t).
func (t Tensor) Sigmoid() Tensor { return opSigmoid.One(t) }

var opTanh = Define("aten::tanh(Tensor self) -> Tensor")

// Tanh returns the hyperbolic tangent.
func (t Tensor) Tanh() Tensor { return opTanh.One(t) }

var opSoftmax = Define("aten::softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor")

// Softmax returns e^t / Σe^t along a dimension.
func (t Tensor) Softmax(dim int64) Tensor { return opSoftmax.One(t, dim) }

var opLogSoftmax = Define("aten::log_softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor")

// LogSoftmax returns t - log Σe^t along a dimension.
func (t Tensor) LogSoftmax(dim int64) Tensor { return opLogSoftmax.One(t, dim) }

var opNllLoss = Define("aten::nll_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100) -> Tensor")

// NllLoss is the negative log-likelihood of log-probabilities t, [N, C], at Long targets [N]. weight, [C], may be undefined.
func (t Tensor) NllLoss(target, weight Tensor, reduction Reduction, ignoreIndex int64) Tensor {
	return opNllLoss.One(t, target, weight, int64(reduction), ignoreIndex)
}

var opCrossEntropy = Define("aten::cross_entropy_loss(Tensor self, Tensor target, Tensor? weight=None, int reduction=1, SymInt ignore_index=-100, float label_smoothing=0.) -> Tensor")

// CrossEntropy is NllLoss of LogSoftmax: t are logits [N, C].
func (t Tensor) CrossEntropy(target, weight Tensor, reduction Reduction, ignoreIndex int64) Tensor {
	return opCrossEntropy.One(t, target, weight, int64(reduction), ignoreIndex)
}

// SmoothedCrossEntropy is CrossEntropy at targets of which a share, labelSmoothing, is spread evenly over all classes
// (Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7).
func (t Tensor) SmoothedCrossEntropy(target, weight Tensor, reduction Reduction, ignoreIndex int64, labelSmoothing float64) Tensor {
	return opCrossEntropy.One(t, target, weight, int64(reduction), ignoreIndex, labelSmoothing)
}

var opLinear = Define("aten::linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor")

// Linear returns t·weightᵀ + bias; t is [..., in], weight [out, in], bias [out] or undefined.
func (t Tensor) Linear(weight, bias Tensor) Tensor { return opLinear.One(t, weight, bias) }

var opConv2d = Define("aten::conv2d(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1, 1], SymInt[2] padding=[0, 0], SymInt[2] dilation=[1, 1], SymInt groups=1) -> Tensor")

// Conv2d is the cross-correlation of t with weight [out, in/groups, kh, kw]; bias [out] may be undefined.
func (t Tensor) Conv2d(weight, bias Tensor, stride, padding, dilation []int64, groups int64) Tensor {
	return opConv2d.One(t, weight, bias, stride, padding, dilation, groups)
}

var opBatchNorm = Define("aten::batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps, bool cudnn_enabled) -> Tensor")

// BatchNorm normalises each channel: with the batch's statistics when training, updating the running ones unless they are undefined, else with the running ones.
func (t Tensor) BatchNorm(weight, bias, runningMean, runningVar Tensor, training bool, momentum, eps float64) Tensor {
	return opBatchNorm.One(t, weight, bias, runningMean, runningVar, training, momentum, eps, true)
}

var opLayerNorm = Define("aten::layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1.0000000000000001e-05, bool cudnn_enable=True) -> Tensor")

// LayerNorm normalises over the last dimensions of t, whose shape is normalizedShape; weight and bias have it too, or are undefined.
func (t Tensor) LayerNorm(normalizedShape []int64, weight, bias Tensor, eps float64) Tensor {
	return opLayerNorm.One(t, normalizedShape, weight, bias, eps)
}

var opScaledDotProductAttention = Define("aten::scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor")

// ScaledDotProductAttention returns softmax(query·keyᵀ/√width)·value; all are [..., places, width].
func ScaledDotProductAttention(query, key, value Tensor) Tensor {
	return opScaledDotProductAttention.One(query, key, value)
}

var opMaxPool2d = Define("aten::max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False) -> Tensor")

// MaxPool2d returns the largest value of each window.
func (t Tensor) MaxPool2d(kernelSize, stride, padding, dilation []int64, ceilMode bool) Tensor {
	return opMaxPool2d.One(t, kernelSize, stride, padding, dilation, ceilMode)
}

var opAvgPool2d = Define("aten::avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, bool count_include_pad=True, int? divisor_override=None) -> Tensor")

// AvgPool2d returns the mean of each window, padding included.
func (t Tensor) AvgPool2d(kernelSize, stride, padding []int64) Tensor {
	return opAvgPool2d.One(t, kernelSize, stride, padding)
}

var opAdaptiveAvgPool2d = Define("aten::adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor")

// AdaptiveAvgPool2d averages each image down to outputSize [H, W].
func (t Tensor) AdaptiveAvgPool2d(outputSize []int64) Tensor {
	return opAdaptiveAvgPool2d.One(t, outputSize)
}

var opPad = Define("aten::constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor")

// Pad adds borders, listed from the last dimension: left, right, top, bottom.
func (t Tensor) Pad(pad []int64, value float64) Tensor { return opPad.One(t, pad, value) }

// ---- Making tensors: Float on the CPU, unless they take after another tensor. ----

var opEmpty = Define("aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// Empty makes a tensor whose elements are not set.
func Empty(size []int64, requiresGrad bool) Tensor {
	return opEmpty.One(size).SetRequiresGrad(requiresGrad)
}

var opZeros = Define("aten::zeros(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Zeros makes a tensor of zeros.
func Zeros(size []int64, requiresGrad bool) Tensor {
	return opZeros.One(size).SetRequiresGrad(requiresGrad)
}

var opOnes = Define("aten::ones(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Ones makes a tensor of ones.
func Ones(size []int64, requiresGrad bool) Tensor {
	return opOnes.One(size).SetRequiresGrad(requiresGrad)
}

var opFull = Define("aten::full(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Full makes a tensor of one value.
func Full(size []int64, fillValue float64, requiresGrad bool) Tensor {
	return opFull.One(size, fillValue, Float).SetRequiresGrad(requiresGrad)
}

var opEye = Define("aten::eye(SymInt n, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Eye makes the identity matrix.
func Eye(n int64, requiresGrad bool) Tensor { return opEye.One(n).SetRequiresGrad(requiresGrad) }

var opArange = Define("aten::arange.start_step(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Arange makes the vector start, start+step, … below end.
func Arange(start, end, step float64, requiresGrad bool) Tensor {
	return opArange.One(start, end, step, Float).SetRequiresGrad(requiresGrad)
}

var opLinspace = Define("aten::linspace(Scalar start, Scalar end, int steps, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Linspace makes a vector of evenly spaced values, both ends included.
func Linspace(start, end float64, steps int64, requiresGrad bool) Tensor {
	return opLinspace.One(start, end, steps).SetRequiresGrad(requiresGrad)
}

var opRand = Define("aten::rand.generator(SymInt[] size, *, Generator? generator, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// Rand draws from [0, 1); see Seeded.
func Rand(size []int64, requiresGrad bool) Tensor {
	return opRand.One(size, nil).SetRequiresGrad(requiresGrad)
}

var opRandN = Define("aten::randn.generator(SymInt[] size, *, Generator? generator, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// RandN draws from the standard normal distribution; see Seeded.
func RandN(size []int64, requiresGrad bool) Tensor {
	return opRandN.One(size, nil).SetRequiresGrad(requiresGrad)
}

var opRandPerm = Define("aten::randperm.generator(SymInt n, *, Generator? generator, ScalarType? dtype=4, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// RandPerm makes a random permutation of 0..n-1, Long, as torch.randperm under the same seed; see Seeded.
func RandPerm(n int64) Tensor { return opRandPerm.One(n, nil) }

var opZerosLike = Define("aten::zeros_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// ZerosLike makes zeros with the shape, dtype, device and memory format of t.
func (t Tensor) ZerosLike() Tensor { return opZerosLike.One(t) }

var opOnesLike = Define("aten::ones_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// OnesLike makes ones like t.
func (t Tensor) OnesLike() Tensor { return opOnesLike.One(t) }

var opEmptyLike = Define("aten::empty_like(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// EmptyLike makes unset elements like t.
func (t Tensor) EmptyLike() Tensor { return opEmptyLike.One(t) }

var opNewZeros = Define("aten::new_zeros(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// NewZeros makes zeros of another shape and dtype on the device of t.
func (t Tensor) NewZeros(size []int64, dtype Dtype) Tensor { return opNewZeros.One(t, size, dtype) }

var opNewEmpty = Define("aten::new_empty(Tensor self, SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// NewEmpty makes unset elements of another shape and dtype on the device of t.
func (t Tensor) NewEmpty(size []int64, dtype Dtype) Tensor { return opNewEmpty.One(t, size, dtype) }

var opTo = Define("aten::to.dtype_layout(Tensor(a) self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, bool non_blocking=False, bool copy=False, MemoryFormat? memory_format=None) -> Tensor(a)")

// To returns t on a device and as a dtype: t itself when it is so already.
func (t Tensor) To(device Device, dtype Dtype) Tensor {
	return opTo.One(t, dtype, nil, device)
}

// CastTo returns t as another dtype, on its device.
func (t Tensor) CastTo(dtype Dtype) Tensor {
	return opTo.One(t, dtype)
}

// Reduction is what a loss does with the losses of the samples.
type Reduction int64

// The reductions, with libtorch's numbers.
const (
	ReduceNone Reduction = 0 // one loss a sample
	ReduceMean Reduction = 1
	ReduceSum  Reduction = 2
)
