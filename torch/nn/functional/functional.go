// Package functional holds the stateless forms of layers and losses, as torch.nn.functional does. It is imported as F:
//
//	import F "l2ul/torch/nn/functional"
//
// Names and argument order are gotorch's. An undefined tensor (torch.Tensor{}) stands for None where an argument is
// optional. Every function belongs inside torch.Scope or torch.Run, and panics with *torch.Error on wrong shapes.
package functional

import (
	"fmt"

	"l2ul/torch"
)

// Relu is max(input, 0), elementwise. With inplace it overwrites input and returns it.
func Relu(input torch.Tensor, inplace bool) torch.Tensor {
	if inplace {
		input.ReluI()
		return input
	}
	return input.Relu()
}

// Relu6 is min(max(input, 0), 6), elementwise. With inplace it overwrites input and returns it.
func Relu6(input torch.Tensor, inplace bool) torch.Tensor {
	if inplace {
		input.Relu6I()
		return input
	}
	return input.Relu6()
}

// Gelu is input·Φ(input), Φ the standard normal distribution function (Hendrycks and Gimpel, 2016).
func Gelu(input torch.Tensor) torch.Tensor {
	return input.Gelu()
}

// Conv2d correlates input [n, in, h, w] with weight [out, in/groups, kh, kw]; bias is [out] or undefined. stride,
// padding and dilation are {height, width}.
func Conv2d(input, weight, bias torch.Tensor, stride, padding, dilation []int64, groups int64) torch.Tensor {
	return input.Conv2d(weight, bias, stride, padding, dilation, groups)
}

// BatchNorm normalises every channel of input [n, c, …] and applies weight and bias ([c] or undefined). When isTraining,
// it normalises with the statistics of the batch, and updates runningMean and runningVar in place if they are defined;
// otherwise it normalises with these two. A batch with a single value per channel has no variance, so training on one
// panics.
func BatchNorm(input, runningMean, runningVar, weight, bias torch.Tensor, isTraining bool, momentum, eps float64) torch.Tensor {
	if isTraining {
		if shape := input.Shape(); len(shape) > 1 && input.Numel() == shape[1] {
			panic(&torch.Error{Op: "functional.BatchNorm", Code: torch.Argument, Shapes: [][]int64{shape}, Msg: fmt.Sprintf(
				"training needs more than one value per channel, and an input of shape %v has one; use a larger batch", shape)})
		}
	}
	return input.BatchNorm(weight, bias, runningMean, runningVar, isTraining, momentum, eps)
}

// LayerNorm normalises input over its last dimensions, of shape normalizedShape, and applies weight and bias, which have that
// shape or are undefined.
func LayerNorm(input torch.Tensor, normalizedShape []int64, weight, bias torch.Tensor, eps float64) torch.Tensor {
	return input.LayerNorm(normalizedShape, weight, bias, eps)
}

// ScaledDotProductAttention is softmax(query·keyᵀ/√width)·value (Vaswani et al., 2017, section 3.2.1); all are
// [..., places, width].
func ScaledDotProductAttention(query, key, value torch.Tensor) torch.Tensor {
	return torch.ScaledDotProductAttention(query, key, value)
}

// Linear is input·weightᵀ + bias for input [..., in], weight [out, in] and bias [out] or undefined.
func Linear(input, weight, bias torch.Tensor) torch.Tensor {
	return input.Linear(weight, bias)
}

// MaxPool2d takes the largest value of every window of input [n, c, h, w]. The lists are {height, width}; an empty
// stride is the kernel size.
func MaxPool2d(input torch.Tensor, kernelSize, stride, padding, dilation []int64, ceilMode bool) torch.Tensor {
	return input.MaxPool2d(kernelSize, stride, padding, dilation, ceilMode)
}

// AvgPool2d averages every window of input [n, c, h, w], padding included. The lists are {height, width}; an empty stride is
// the kernel size.
func AvgPool2d(input torch.Tensor, kernelSize, stride, padding []int64) torch.Tensor {
	return input.AvgPool2d(kernelSize, stride, padding)
}

// AdaptiveAvgPool2d averages input [n, c, h, w] over windows chosen so that the result is [n, c, outputSize...].
func AdaptiveAvgPool2d(input torch.Tensor, outputSize []int64) torch.Tensor {
	return input.AdaptiveAvgPool2d(outputSize)
}

// LogSoftmax is log(softmax(input)) along dim.
func LogSoftmax(input torch.Tensor, dim int64) torch.Tensor {
	return input.LogSoftmax(dim)
}

// NllLoss is the negative log likelihood of target (int64 [n]) under log-probabilities input [n, classes]. weight is a
// factor per class or undefined; targets equal to ignoreIndex do not count. reduction is "mean" (weighted), "sum" or
// "none".
func NllLoss(input, target, weight torch.Tensor, ignoreIndex int64, reduction string) torch.Tensor {
	return input.NllLoss(target, weight, reductionOf("functional.NllLoss", reduction), ignoreIndex)
}

// CrossEntropy is NllLoss of LogSoftmax: input holds logits [n, classes]. The arguments are those of NllLoss; PyTorch's
// defaults are an undefined weight, ignoreIndex -100 and "mean".
func CrossEntropy(input, target, weight torch.Tensor, ignoreIndex int64, reduction string) torch.Tensor {
	return input.CrossEntropy(target, weight, reductionOf("functional.CrossEntropy", reduction), ignoreIndex)
}

// reductionOf finds a reduction by its name in PyTorch.
func reductionOf(op, name string) torch.Reduction {
	switch name {
	case "none":
		return torch.ReduceNone
	case "mean":
		return torch.ReduceMean
	case "sum":
		return torch.ReduceSum
	}
	panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf("reduction %q is unknown; use mean, sum or none", name)})
}
