package torch

import "fmt"

// SetRequiresGrad makes autograd track t, or not, and returns t. Only leaf tensors of a floating dtype can be tracked.
func (t Tensor) SetRequiresGrad(on bool) Tensor {
	t.setRequiresGrad(on)
	return t
}

// RequiresGrad reports whether autograd tracks t.
func (t Tensor) RequiresGrad() bool { return t.metaOf("RequiresGrad").requiresGrad() }

// IsLeaf reports whether t was made by the user and not by a tracked operation.
func (t Tensor) IsLeaf() bool { return t.metaOf("IsLeaf").isLeaf() }

// Backward adds the gradients of t, a tensor of one element, to the Grad of every leaf it depends on, and frees the
// graph.
func (t Tensor) Backward() { t.backward() }

// Grad returns the gradient that Backward accumulated, undefined when there is none.
func (t Tensor) Grad() Tensor { return t.grad() }

// SetGrad replaces the accumulated gradient. The undefined tensor clears it.
func (t Tensor) SetGrad(g Tensor) { t.setGrad(g) }

// Grad returns the gradients of the sum of outputs, tensors of one element each, by inputs, and frees the graph. It
// accumulates nothing. An input that no output depends on has an undefined gradient.
func Grad(outputs, inputs []Tensor) []Tensor { return gradOf(outputs, inputs, nil, false, false) }

// VectorJacobian is [Grad] for outputs of any shape, each weighted by a tensor of its shape. With retain the graph
// stays for another call.
func VectorJacobian(outputs, weights, inputs []Tensor, retain bool) []Tensor {
	if len(weights) != len(outputs) {
		panic(&Error{Op: "VectorJacobian", Code: Argument, Msg: fmt.Sprintf("%d weights for %d outputs", len(weights), len(outputs))})
	}
	return gradOf(outputs, inputs, weights, retain, false)
}
