package nn

import (
	"l2ul/torch"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// MultiheadAttentionModule lets all places of a sequence look at each other, made by MultiheadAttention.
type MultiheadAttentionModule struct {
	Base
	InProjWeight, InProjBias torch.Tensor // of queries, keys and values, one below the other; owned by the module
	out                      *LinearModule
	heads                    int64
}

// MultiheadAttention makes self-attention of embedDim values in so many heads (Vaswani et al., "Attention Is All You Need", 2017,
// section 3.2.2), with biases and without dropout. Parameters: in_proj_weight [3·embedDim, embedDim], in_proj_bias, out_proj.weight
// and out_proj.bias, drawn as PyTorch draws them.
func MultiheadAttention(embedDim, heads int64) *MultiheadAttentionModule {
	if embedDim < 1 || heads < 1 || embedDim%heads != 0 {
		fail("nn.MultiheadAttention", "%d values in %d heads: both must be 1 or more, and the heads share the values evenly", embedDim, heads)
	}
	m := &MultiheadAttentionModule{heads: heads, out: Linear(embedDim, embedDim, true)}
	torch.Scope(func() {
		m.InProjWeight = m.Param("in_proj_weight", torch.Empty([]int64{3 * embedDim, embedDim}, false))
		m.InProjBias = m.Param("in_proj_bias", torch.Zeros([]int64{3 * embedDim}, false))
	})
	m.Child("out_proj", m.out)
	initializer.XavierUniform(m.InProjWeight)
	initializer.Zeros(m.out.Bias)
	return m
}

// Forward maps x [n, places, embedDim] to the same shape. Operators and layouts are those of PyTorch's
// multi_head_attention_forward with batch_first and without weights: what it does in training, and in evaluation too unless gradients
// are off, where PyTorch takes a fused operator of other bits.
func (m *MultiheadAttentionModule) Forward(x torch.Tensor) torch.Tensor {
	if dim := x.Dim(); dim != 3 {
		fail("nn.MultiheadAttention", "the input must be [n, places, values], got %d dimensions", dim)
	}
	n, places, width := x.Size(0), x.Size(1), x.Size(2)
	qkv := F.Linear(x.Transpose(0, 1), m.InProjWeight, m.InProjBias).View(places, n, 3, width)
	qkv = qkv.Unsqueeze(0).Transpose(0, -2).Squeeze(-2).Contiguous(torch.Contiguous)
	head := func(i int64) torch.Tensor {
		part := qkv.Select(0, i).View(places, n*m.heads, width/m.heads)
		return part.Transpose(0, 1).View(n, m.heads, places, width/m.heads)
	}
	y := F.ScaledDotProductAttention(head(0), head(1), head(2))
	y = y.Permute(2, 0, 1, 3).Contiguous(torch.Contiguous).View(places*n, width)
	return m.out.Forward(y).View(places, n, width).Transpose(0, 1)
}
