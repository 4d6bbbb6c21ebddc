package analysis

import (
	"context"
	"fmt"
	"math"
	"strings"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/data"
)

func init() {
	register(&Analysis{
		Name: "cka", Summary: "how similar each layer's values stayed: linear CKA of stem, blocks, features and logits",
		Source: "Kornblith et al. 2019; spec/l2ul.md section 8", Reads: "the images to forget and test images",
		Run: runCKA,
	})
}

// CKA is the data of the analysis cka.
type CKA struct {
	Splits []CKASplit `json:"splits"`
}

// CKASplit is the similarity of layers on images of one split.
type CKASplit struct {
	Split  data.Part  `json:"split"`
	N      int        `json:"n"` // images
	Layers []CKALayer `json:"layers"`
}

// CKALayer is the similarity of one layer's values before and after.
type CKALayer struct {
	Layer    string   `json:"layer"`
	CKA      *float64 `json:"cka"` // null where the values are the same for all images
	Width    int64    `json:"width"`
	Pooling  pooling  `json:"pooling"`
	GramForm bool     `json:"gram_form"` // computed by products of images, since they are fewer than values
}

// pooling says what became of the places of a layer's map.
type pooling string

const (
	flattened   pooling = "flatten"
	spatialMean pooling = "spatial-mean"
)

// widest is how many values of an image are compared one by one. Of larger maps the mean over all places is: 512 images of a
// whole map would take gigabytes.
const widest = 1 << 14

// layer is what a network made of a batch of images at one point, Float [n, width].
type layer struct {
	name    string
	values  torch.Tensor
	pooling pooling
}

// tap runs net on images x and returns what its layers made: the stem, which is what the first block reads, every block,
// pooled features and logits. Blocks are the modules with parts of their own that stand in a chain, as networks hold them; a
// network that is one chain of bare layers has its activations and poolings in their place.
func tap(net Network, x torch.Tensor) (layers []layer) {
	note := func(name string, t torch.Tensor) {
		values, how := pooled(t)
		layers = append(layers, layer{name, values.Clone(), how}) // what comes later may write over it
	}
	logits := net.Forward(x)
	whole := hasBlocks(net)
	inside, first := false, true
	defer nn.Watch(net, nil)
	nn.Watch(net, func(name string, m nn.Module, x torch.Tensor) torch.Tensor {
		_, bare := m.(*nn.FunctionalModule)
		if inside || whole && !isBlock(m) || !whole && !bare {
			return m.Forward(x)
		}
		if whole && first && x.Size(1) != channels { // else the first block reads the image
			note("stem", x)
		}
		inside, first = whole, false
		y := m.Forward(x)
		inside = false
		note(name, y)
		return y
	})
	note("features", net.Features(x))
	note("logits", logits)
	return layers
}

// channels are those of an image.
const channels = 3

// isBlock says whether m is a block: it has modules of its own, but is no chain of blocks.
func isBlock(m nn.Module) bool {
	_, chain := m.(*nn.SequentialModule)
	parts := 0
	for name, part := range nn.Modules(m) {
		if name == "" || strings.Contains(name, ".") {
			continue
		}
		parts++
		if chain && isBlock(part) {
			return false
		}
	}
	return parts > 0
}

// hasBlocks says whether a chain of net holds a block.
func hasBlocks(net nn.Module) bool {
	for _, m := range nn.Modules(net) {
		if _, chain := m.(*nn.SequentialModule); !chain {
			continue
		}
		for name, part := range nn.Modules(m) {
			if name != "" && !strings.Contains(name, ".") && isBlock(part) {
				return true
			}
		}
	}
	return false
}

// pooled makes [n, width] of what a layer made.
func pooled(t torch.Tensor) (torch.Tensor, pooling) {
	if t.Numel() <= widest*t.Size(0) || t.Dim() < 3 {
		return t.Flatten(1, -1), flattened
	}
	places := []int64{1} // [n, places, values] of a transformer
	if t.Dim() == 4 {
		places = []int64{2, 3} // [n, values, height, width]
		if t.Size(1) == t.Size(2) && t.Size(2) != t.Size(3) {
			places = []int64{1, 2} // [n, height, width, values]
		}
	}
	return t.MeanDim(places, false).Flatten(1, -1), spatialMean
}

// tapAll is tap for all images x, batch by batch. done is told of each.
func (s *Subject) tapAll(ctx context.Context, net Network, x torch.Tensor, done func(n int)) (layers []layer, err error) {
	var parts [][]torch.Tensor
	err = s.batches(ctx, int(x.Size(0)), func(from, to int) error {
		batch := tap(net, x.Narrow(0, int64(from), int64(to-from)))
		if parts == nil {
			parts, layers = make([][]torch.Tensor, len(batch)), batch
		}
		for i, l := range batch {
			torch.Keep(l.values)
			parts[i] = append(parts[i], l.values)
		}
		done(to - from)
		return nil
	})
	for i := range parts {
		layers[i].values = torch.Cat(parts[i], 0)
	}
	return layers, err
}

func runCKA(ctx context.Context, s *Subject) (*Finding, error) {
	forget, test := spaced(s.Options.Samples, s.Forget.Indices), spaced(s.Options.Samples, data.All(s.TestLen))
	set, end := s.Progress("cka", "images", 2*(len(forget)+len(test)))
	defer end()
	done := 0
	found := &CKA{}
	for _, part := range []struct {
		name    data.Part
		indices []int
	}{{data.PartForget, forget}, {data.PartTest, test}} {
		split := CKASplit{Split: part.name, N: len(part.indices)}
		var err error
		torch.Scope(func() {
			split.Layers, err = s.compareLayers(ctx, part.name, part.indices, func(n int) { done += n; set(done) })
		})
		if err != nil {
			return nil, err
		}
		found.Splits = append(found.Splits, split)
	}
	lines, alt := make([]line, 0, 2), make([]string, 0, 2)
	var names []string
	for i, split := range found.Splits {
		l := line{key: key{name: fmt.Sprintf("%d %s", split.N, partNames[split.Split]), color: okabeIto[i], line: true}}
		if split.Split != data.PartForget {
			l.dashes = dashes
		}
		names = nil
		lowest := -1
		for j, layer := range split.Layers {
			names = append(names, layer.Layer)
			l.y = append(l.y, layer.CKA)
			if layer.CKA != nil && (lowest < 0 || *layer.CKA < *split.Layers[lowest].CKA) {
				lowest = j
			}
		}
		if lowest >= 0 {
			alt = append(alt, fmt.Sprintf("%s: lowest %.3f at %s", partNames[split.Split], *split.Layers[lowest].CKA, names[lowest]))
		}
		lines = append(lines, l)
	}
	title := "Similarity of each layer before and after"
	picture, err := categories(title, "linear CKA", names, lines)
	if err != nil {
		return nil, err
	}
	picture.Name, picture.Alt = "cka", "Linear CKA by layer. "+strings.Join(alt, "; ")
	return &Finding{
		Title: title, Alt: picture.Alt, Pictures: []Picture{picture}, Data: found,
		Reading: "1 means that a layer tells the images apart just as before, up to rotation and scale; early layers near 1 and a fall in the late ones are " +
			"expected. With fewer images than a layer has values CKA is biased towards 1, so compare curves of like numbers of images.",
	}, nil
}

func (s *Subject) compareLayers(ctx context.Context, part data.Part, indices []int, done func(n int)) ([]CKALayer, error) {
	x, err := s.images(part, indices)
	if err != nil {
		return nil, err
	}
	before, err := s.tapAll(ctx, s.Before, x, done)
	if err != nil {
		return nil, err
	}
	after, err := s.tapAll(ctx, s.After, x, done)
	if err != nil {
		return nil, err
	}
	layers := make([]CKALayer, len(before))
	for i, l := range before {
		v := CKALayer{Layer: l.name, Width: l.values.Size(1), Pooling: l.pooling}
		v.GramForm = v.Width > l.values.Size(0)
		torch.Scope(func() { v.CKA = linearCKA(l.values, after[i].values, v.GramForm) })
		layers[i] = v
	}
	return layers, nil
}

// linearCKA is ‖XᵀY‖² / (‖XᵀX‖·‖YᵀY‖) in Frobenius norms of x [n, p] and y [n, q] with centred columns, summed in float64. As
// ‖XᵀY‖² = Σ (XXᵀ)∘(YYᵀ), the form by Gram matrices [n, n] is the same. It is nil where x or y does not depend on the image.
func linearCKA(x, y torch.Tensor, gram bool) *float64 {
	var constant bool
	centred := func(t torch.Tensor) torch.Tensor {
		t = t.CastTo(torch.Double)
		c := t.Sub(t.MeanDim([]int64{0}, true), 1)
		// Centring leaves rounding of equal values behind: 1e-16 of each, squared.
		constant = constant || !(c.Square().Sum().Item() > 1e-26*t.Square().Sum().Item())
		return c
	}
	x, y = centred(x), centred(y)
	if constant {
		return nil
	}
	norm := func(a, b torch.Tensor) float64 { return torch.MM(a.Transpose(0, 1), b).Square().Sum().Item() }
	if gram {
		norm = func(a, b torch.Tensor) float64 {
			return torch.MM(a, a.Transpose(0, 1)).Mul(torch.MM(b, b.Transpose(0, 1))).Sum().Item()
		}
	}
	v := norm(x, y) / math.Sqrt(norm(x, x)*norm(y, y))
	return &v
}

// partNames are those of splits in pictures.
var partNames = map[data.Part]string{
	data.PartForget: "images to forget", data.PartRetain: "retained images", data.PartTest: "test images",
}
