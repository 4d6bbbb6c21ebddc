package nn

import (
	"math"

	"l2ul/torch"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// LoRAModule is a frozen layer beside which a map of low rank is trained, made by LoRA.
type LoRAModule struct {
	Base
	layer, a, b Module
	weights     [3]torch.Tensor                           // of layer, a and b; owned by them
	apply       func(x, weight torch.Tensor) torch.Tensor // what layer does, with another weight
	scale       float64                                   // α/r
	merged      torch.Tensor                              // undefined unless merged; owned by the module
}

// LoRA adapts a Linear or a Conv2d, whose owner it becomes, by a product of two matrices (Hu et al., "LoRA: Low-Rank Adaptation of
// Large Language Models", 2022, section 4.1): W + (alpha/rank)·B·A stands for its weight W. Of a convolution, A is one with rank
// outputs and the same kernel, and B is 1x1. A is drawn as PyTorch draws a layer's weight and B is zero, so that nothing changes at
// first. Parameters are lora_A.weight and lora_B.weight alone; the layer's, under base_layer (all as in Hugging Face's peft), become
// buffers, which are saved but not trained.
func LoRA(layer Module, rank int64, alpha float64) *LoRAModule {
	if rank < 1 || math.IsNaN(alpha) || math.IsInf(alpha, 0) {
		fail("nn.LoRA", "rank %d, alpha %g: rank must be 1 or more, alpha finite", rank, alpha)
	}
	m := &LoRAModule{layer: layer, scale: alpha / float64(rank)}
	switch l := layer.(type) {
	case *LinearModule:
		shape := l.Weight.Shape()
		a, b := Linear(shape[1], rank, false), Linear(rank, shape[0], false)
		m.a, m.b, m.weights = a, b, [3]torch.Tensor{l.Weight, a.Weight, b.Weight}
		m.apply = func(x, weight torch.Tensor) torch.Tensor { return F.Linear(x, weight, l.Bias) }
	case *Conv2dModule:
		if l.groups != 1 {
			fail("nn.LoRA", "a convolution with %d groups: its weight is no matrix that a product could add to; use one with 1 group", l.groups)
		}
		shape := l.Weight.Shape()
		a := Conv2d(shape[1], rank, shape[2], l.stride[0], l.padding[0], l.dilation[0], 1, false, "zeros")
		b := Conv2d(rank, shape[0], 1, 1, 0, 1, 1, false, "zeros")
		m.a, m.b, m.weights = a, b, [3]torch.Tensor{l.Weight, a.Weight, b.Weight}
		m.apply = func(x, weight torch.Tensor) torch.Tensor {
			return F.Conv2d(x, weight, l.Bias, l.stride, l.padding, l.dilation, 1)
		}
	default:
		fail("nn.LoRA", "a %T cannot be adapted; give a *nn.LinearModule or a *nn.Conv2dModule", layer)
	}
	initializer.Zeros(m.weights[2])
	layer.Root().freeze()
	m.Child("base_layer", m.layer)
	m.Child("lora_A", m.a)
	m.Child("lora_B", m.b)
	return m
}

// freeze makes the parameters of b, not those of its children, buffers.
func (b *Base) freeze() {
	for _, p := range b.params {
		p.Tensor.SetGrad(torch.Tensor{})
		p.Tensor.SetRequiresGrad(false)
	}
	b.params, b.buffers = nil, append(b.params, b.buffers...)
}

// Forward is layer(x) + (α/r)·B(A(x)), or what one layer makes of x after Merge.
func (m *LoRAModule) Forward(x torch.Tensor) torch.Tensor {
	if m.merged.Defined() {
		return m.apply(x, m.merged)
	}
	return m.layer.Forward(x).Add(m.b.Forward(m.a.Forward(x)).MulScalar(m.scale), 1)
}

// Weight is W + (α/r)·B·A, the weight of a plain layer that does the same.
func (m *LoRAModule) Weight() torch.Tensor {
	w, a, b := m.weights[0], m.weights[1], m.weights[2]
	product := torch.MM(b.Flatten(1, -1), a.Flatten(1, -1)).View(w.Shape()...)
	return w.Add(product, m.scale)
}

// Merge makes Forward cost no more than the plain layer, with the Weight of now: what A and B become counts only after Unmerge,
// and they have no gradient until then. W and the state stay as they are, so a saved network is the same in either case.
func (m *LoRAModule) Merge() {
	m.Unmerge()
	torch.Scope(func() {
		torch.NoGrad(func() { m.merged = m.Constant("merged", m.Weight()) })
	})
}

// Unmerge undoes Merge, to the bit.
func (m *LoRAModule) Unmerge() {
	for _, c := range m.constants {
		c.Tensor.Free()
	}
	m.constants, m.merged = nil, torch.Tensor{}
}
