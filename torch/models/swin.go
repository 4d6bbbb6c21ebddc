package models

import (
	"math"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// Swin transformers with torchvision's keys and initialisation (Liu et al., "Swin Transformer: Hierarchical Vision Transformer using
// Shifted Windows", 2021). Values lie as [n, h, w, channels] between patches and the last layer.

func init() {
	for _, v := range []struct {
		name, summary    string
		parameters, macs int64
		resize           int
		depth            int // blocks of the third stage; the others have 2
		width, heads     int64
		drop             float64
	}{
		{"swin_t", "torchvision Swin-T", 28_288_354, 4_490_566_656, 232, 6, 96, 3, 0.2},
		{"swin_s", "torchvision Swin-S", 49_606_258, 8_740_875_264, 246, 18, 96, 3, 0.3},
		{"swin_b", "torchvision Swin-B", 87_768_224, 15_430_946_816, 238, 18, 128, 4, 0.5},
	} {
		card := imagenetCard(v.name, v.summary, v.parameters, v.macs)
		card.Resize, card.Interpolation = v.resize, "bicubic"
		register(card, func(classes int64, normalise nn.Module) Classifier {
			return newSwin([]int{2, 2, v.depth, 2}, v.width, v.heads, 7, v.drop, classes, normalise)
		})
	}
}

type swin struct {
	nn.Base
	normalise, features nn.Module
	norm                *nn.LayerNormModule
	head                *nn.LinearModule
}

// newSwin makes a network on patches of 4x4 pixels, whose width and heads double from stage to stage. Its last block is left out
// in training with probability drop, and those before it less often.
func newSwin(depths []int, width, heads, window int64, drop float64, classes int64, normalise nn.Module) *swin {
	layers := []nn.Module{nn.Sequential(biasedConv(3, width, 4, 4, 0), nn.Permute(0, 2, 3, 1), nn.LayerNorm(width, 1e-5))}
	rate := dropRates(depths, drop)
	for i, depth := range depths {
		if i > 0 {
			layers = append(layers, newPatchMerging(width))
			width, heads = 2*width, 2*heads
		}
		stage := make([]nn.Module, depth)
		for j := range stage {
			stage[j] = newSwinBlock(width, heads, window, int64(j%2)*(window/2), rate())
		}
		layers = append(layers, nn.Sequential(stage...))
	}
	m := &swin{
		normalise: normalise, features: nn.Sequential(layers...),
		norm: nn.LayerNorm(width, 1e-5), head: nn.Linear(width, classes, true),
	}
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("norm", m.norm)
	m.Child("head", m.head)
	for _, module := range nn.Modules(m) {
		if l, ok := module.(*nn.LinearModule); ok {
			initializer.TruncNormal(l.Weight, 0.02)
			if l.Bias.Defined() {
				initializer.Zeros(l.Bias)
			}
		}
	}
	return m
}

func (m *swin) Forward(x torch.Tensor) torch.Tensor { return m.head.Forward(m.Features(x)) }

func (m *swin) Features(x torch.Tensor) torch.Tensor {
	x = m.norm.Forward(m.features.Forward(m.normalise.Forward(x)))
	return globalAverage(x.Permute(0, 3, 1, 2))
}

// patchMerging halves height and width, of which an odd one gets a border of zeros: each four neighbours become one place with twice
// their values.
type patchMerging struct {
	nn.Base
	reduction *nn.LinearModule
	norm      *nn.LayerNormModule
}

func newPatchMerging(width int64) *patchMerging {
	m := &patchMerging{reduction: nn.Linear(4*width, 2*width, false), norm: nn.LayerNorm(4*width, 1e-5)}
	m.Child("reduction", m.reduction)
	m.Child("norm", m.norm)
	return m
}

func (m *patchMerging) Forward(x torch.Tensor) torch.Tensor {
	x = x.Pad([]int64{0, 0, 0, x.Size(2) % 2, 0, x.Size(1) % 2}, 0)
	every := func(row, column int64) torch.Tensor { // second place from there on
		return opSlice.One(opSlice.One(x, 1, row, nil, 2), 2, column, nil, 2)
	}
	x = torch.Cat([]torch.Tensor{every(0, 0), every(1, 0), every(0, 1), every(1, 1)}, -1)
	return m.reduction.Forward(m.norm.Forward(x))
}

// swinBlock is attention within windows, then an MLP, each on normalised values and added to its input, unless it is dropped.
type swinBlock struct {
	nn.Base
	norm1, norm2         *nn.LayerNormModule
	attention, drop, mlp nn.Module
}

func newSwinBlock(width, heads, window, shift int64, drop float64) *swinBlock {
	m := &swinBlock{
		norm1: nn.LayerNorm(width, 1e-5), attention: newWindowAttention(width, heads, window, shift),
		drop:  nn.StochasticDepth(drop),
		norm2: nn.LayerNorm(width, 1e-5), mlp: transformerMLP(width),
	}
	m.Child("norm1", m.norm1)
	m.Child("attn", m.attention)
	m.Child("stochastic_depth", m.drop)
	m.Child("norm2", m.norm2)
	m.Child("mlp", m.mlp)
	return m
}

func (m *swinBlock) Forward(x torch.Tensor) torch.Tensor {
	x = x.Add(m.drop.Forward(m.attention.Forward(m.norm1.Forward(x))), 1)
	return x.Add(m.drop.Forward(m.mlp.Forward(m.norm2.Forward(x))), 1)
}

// windowAttention lets the places of each window look at each other, by what they hold and how far apart they are (section 3.2). With
// a shift, windows begin so many places further down and right, and what falls off the map comes back on the other side, but is not
// looked at from there.
type windowAttention struct {
	nn.Base
	qkv, out             *nn.LinearModule
	table, index         torch.Tensor // of biases [(2·window-1)², heads]; its row for each pair of places, int64 [window⁴]
	heads, window, shift int64
}

func newWindowAttention(width, heads, window, shift int64) *windowAttention {
	m := &windowAttention{
		qkv: nn.Linear(width, 3*width, true), out: nn.Linear(width, width, true), heads: heads, window: window, shift: shift,
	}
	side := 2*window - 1
	torch.Scope(func() {
		m.table = m.Param("relative_position_bias_table", torch.Empty([]int64{side * side, heads}, false))
		initializer.TruncNormal(m.table, 0.02)
		index := make([]int64, 0, window*window*window*window)
		for from := range window * window {
			for to := range window * window {
				down, right := from/window-to/window+window-1, from%window-to%window+window-1
				index = append(index, down*side+right)
			}
		}
		m.index = m.Buffer("relative_position_index", torch.FromSlice(index, int64(len(index))))
	})
	m.Child("qkv", m.qkv)
	m.Child("proj", m.out)
	return m
}

var (
	opIndex = torch.Define("aten::index.Tensor(Tensor self, Tensor?[] indices) -> Tensor")
	opRoll  = torch.Define("aten::roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor")
)

func (m *windowAttention) Forward(x torch.Tensor) torch.Tensor {
	n, h, w, width := x.Size(0), x.Size(1), x.Size(2), x.Size(3)
	down, right := (h+m.window-1)/m.window, (w+m.window-1)/m.window // windows
	x = x.Pad([]int64{0, 0, 0, right*m.window - w, 0, down*m.window - h}, 0)
	shift := [2]int64{m.shift, m.shift}
	for i, windows := range []int64{down, right} {
		if windows == 1 { // it holds all there is
			shift[i] = 0
		}
	}
	shifted := shift != [2]int64{}
	if shifted {
		x = opRoll.One(x, []int64{-shift[0], -shift[1]}, []int64{1, 2})
	}
	windows, places := n*down*right, m.window*m.window
	x = x.View(n, down, m.window, right, m.window, width).Permute(0, 1, 3, 2, 4, 5).Reshape(windows, places, width)

	qkv := m.qkv.Forward(x).Reshape(windows, places, 3, m.heads, width/m.heads).Permute(2, 0, 3, 1, 4)
	q := qkv.Select(0, 0).MulScalar(1 / math.Sqrt(float64(width/m.heads)))
	scores := q.MatMul(qkv.Select(0, 1).Transpose(-2, -1)).Add(m.bias(), 1)
	if shifted {
		scores = scores.View(n, down*right, m.heads, places, places).Add(m.mask(down, right, shift).Unsqueeze(1).Unsqueeze(0), 1)
		scores = scores.View(-1, m.heads, places, places)
	}
	x = scores.Softmax(-1).MatMul(qkv.Select(0, 2)).Transpose(1, 2).Reshape(windows, places, width)
	x = m.out.Forward(x)

	x = x.View(n, down, right, m.window, m.window, width).Permute(0, 1, 3, 2, 4, 5).Reshape(n, down*m.window, right*m.window, width)
	if shifted {
		x = opRoll.One(x, shift[:], []int64{1, 2})
	}
	return x.Narrow(1, 0, h).Narrow(2, 0, w).Contiguous(torch.Contiguous)
}

// bias is what each pair of places adds to its score, [1, heads, places, places].
func (m *windowAttention) bias() torch.Tensor {
	places := m.window * m.window
	rows := opIndex.One(m.table, []torch.Tensor{m.index}).View(places, places, -1)
	return rows.Permute(2, 0, 1).Contiguous(torch.Contiguous).Unsqueeze(0)
}

// mask is -100 for pairs of places that only the shift brings into one window, 0 else, [windows, places, places]. It is made on the
// device each time, so that a graph can be captured of it.
func (m *windowAttention) mask(down, right int64, shift [2]int64) torch.Tensor {
	regions := m.table.Detach().NewZeros([]int64{down * m.window, right * m.window}, m.table.Dtype())
	cuts := func(size, shift int64) [4]int64 { return [4]int64{0, size - m.window, size - shift, size} }
	rows, columns := cuts(down*m.window, shift[0]), cuts(right*m.window, shift[1])
	for i := range 3 {
		for j := range 3 {
			part := regions.Narrow(0, rows[i], rows[i+1]-rows[i]).Narrow(1, columns[j], columns[j+1]-columns[j])
			part.FillI(float64(3*i + j))
		}
	}
	regions = regions.View(down, m.window, right, m.window).Permute(0, 2, 1, 3).Reshape(down*right, m.window*m.window)
	return regions.Unsqueeze(1).Sub(regions.Unsqueeze(2), 1).Sign().Abs().MulScalar(-100)
}
