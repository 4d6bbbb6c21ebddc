package analysis

import (
	"context"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg/draw"

	"l2ul/torch"
	"l2ul/unlearn/data"
)

func init() {
	register(&Analysis{
		Name: "embedding", Summary: "a map of penultimate features: images to forget, adversarial examples, retained and test images",
		Source: "spec/l2ul.md section 8; principal components (Pearson 1901)",
		Reads:  "the images to forget, retained and test images, and the adversarial examples", Run: runEmbedding,
	})
}

// Embedding is the data of the analysis embedding.
type Embedding struct {
	Classes []string       `json:"classes"`
	Method  string         `json:"method"`
	Points  []EmbeddedItem `json:"points"`
	// Shares of the variance of features along the two axes.
	ExplainedBefore [2]float64 `json:"explained_before"`
	ExplainedAfter  [2]float64 `json:"explained_after"`
}

// EmbeddedItem is an image on both maps.
type EmbeddedItem struct {
	Kind   string     `json:"kind"`  // forget, adversarial, retain or test
	Index  int        `json:"index"` // in its split; of an adversarial example, that of its image
	Class  int        `json:"class"` // label; of an adversarial example, the target
	Before [2]float64 `json:"before"`
	After  [2]float64 `json:"after"`
}

const adversarialKind = "adversarial"

func runEmbedding(ctx context.Context, s *Subject) (*Finding, error) {
	found := &Embedding{Classes: s.Classes, Method: "PCA of the features of each network, centred, not scaled"}
	var parts []torch.Tensor
	for _, part := range []struct {
		name    data.Part
		indices []int
	}{
		{data.PartForget, spaced(s.Options.Samples, s.Forget.Indices)},
		{data.PartRetain, spaced(s.Options.Samples/2, s.Rest)},
		{data.PartTest, spaced(s.Options.Samples/2, data.All(s.TestLen))},
	} {
		if len(part.indices) == 0 {
			continue
		}
		x, y, err := s.view(part.name, part.indices).Batch(0, len(part.indices))
		if err != nil {
			return nil, err
		}
		parts = append(parts, x)
		for i, label := range torch.ToSlice[int64](y) {
			found.Points = append(found.Points, EmbeddedItem{Kind: string(part.name), Index: part.indices[i], Class: int(label)})
		}
	}
	if set := s.Examples; set != nil {
		chosen := spaced(s.Options.Samples/2, data.All(set.Done))
		at := make([]int64, len(chosen))
		for i, p := range chosen {
			at[i] = int64(p)
			found.Points = append(found.Points, EmbeddedItem{
				Kind: adversarialKind, Index: s.Forget.Indices[set.Pairs[p].Source], Class: set.Pairs[p].Target,
			})
		}
		parts = append(parts, set.X.IndexSelect(0, torch.FromSlice(at).To(s.Device, torch.Long)).CastTo(torch.Float))
	}
	if len(found.Points) < 3 {
		return nil, fmt.Errorf("embedding: %d images are too few for a map; give a larger --samples", len(found.Points))
	}
	x := torch.Cat(parts, 0).Contiguous(s.Format)
	progress, end := s.Progress("embedding", "images", 2*len(found.Points))
	defer end()
	for i, side := range []struct {
		net       Network
		explained *[2]float64
		at        func(*EmbeddedItem) *[2]float64
	}{
		{s.Before, &found.ExplainedBefore, func(e *EmbeddedItem) *[2]float64 { return &e.Before }},
		{s.After, &found.ExplainedAfter, func(e *EmbeddedItem) *[2]float64 { return &e.After }},
	} {
		var rows [][]float64
		err := s.batches(ctx, int(x.Size(0)), func(from, to int) error {
			rows = append(rows[:from], matrix(side.net.Features(x.Narrow(0, int64(from), int64(to-from))))...)
			progress(i*len(found.Points) + to)
			return nil
		})
		if err != nil {
			return nil, err
		}
		places, explained, err := principal(rows)
		if err != nil {
			return nil, err
		}
		*side.explained = explained
		for j := range places {
			*side.at(&found.Points[j]) = places[j]
		}
	}
	return presentEmbedding(found)
}

// principal projects centred rows [n, p] on their first two principal components, and returns the shares of variance along
// them. An axis is turned so that the largest of its loadings is positive.
func principal(rows [][]float64) (places [][2]float64, explained [2]float64, err error) {
	n, p := len(rows), len(rows[0])
	m := mat.NewDense(n, p, nil)
	for j := range p {
		mean := 0.0
		for i := range rows {
			mean += rows[i][j] / float64(n)
		}
		for i := range rows {
			m.Set(i, j, rows[i][j]-mean)
		}
	}
	for _, v := range m.RawMatrix().Data {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, explained, fmt.Errorf("embedding: features are not finite; check the weights")
		}
	}
	var svd mat.SVD
	if !svd.Factorize(m, mat.SVDThin) {
		return nil, explained, fmt.Errorf("embedding: the singular values of %d x %d features do not converge", n, p)
	}
	var v mat.Dense
	svd.VTo(&v)
	values := svd.Values(nil)
	total := 0.0
	for _, s := range values {
		total += s * s
	}
	places = make([][2]float64, n)
	for axis := range min(2, len(values)) {
		if total > 0 {
			explained[axis] = values[axis] * values[axis] / total
		}
		largest := 0.0
		for j := range p {
			if l := v.At(j, axis); math.Abs(l) > math.Abs(largest) {
				largest = l
			}
		}
		for i := range n {
			places[i][axis] = math.Copysign(1, largest) * mat.Dot(m.RowView(i), v.ColView(axis))
		}
	}
	return places, explained, nil
}

func presentEmbedding(found *Embedding) (*Finding, error) {
	f := &Finding{
		Title: "Map of penultimate features, before and after", Data: found,
		Reading: "Each point is an image, at the first two principal components of the features in front of the last layer, in the colour of its label (of an adversarial " +
			"example: of its target). Each network has axes of its own, so compare how points group, not where they lie.",
		Alt: fmt.Sprintf("Principal components of features; two axes hold %s of the variance before and %s after",
			percent(found.ExplainedBefore[0]+found.ExplainedBefore[1]), percent(found.ExplainedAfter[0]+found.ExplainedAfter[1])),
	}
	weight := make([]int, len(found.Classes))
	for _, p := range found.Points {
		weight[p.Class]++
	}
	colors, keys := classColors(found.Classes, weight)
	kinds := []struct {
		kind, name string
		glyph      draw.GlyphStyle
	}{
		{string(data.PartRetain), "retained", draw.GlyphStyle{Radius: 1.6, Shape: draw.CircleGlyph{}}},
		{string(data.PartTest), "test", draw.GlyphStyle{Radius: 1.6, Shape: draw.SquareGlyph{}}},
		{adversarialKind, "adversarial", draw.GlyphStyle{Radius: 2.6, Shape: draw.CrossGlyph{}}},
		{string(data.PartForget), "to forget", draw.GlyphStyle{Radius: 5, Shape: outlined{}}},
	}
	var plots []*plot.Plot
	for _, side := range []struct {
		name      string
		explained [2]float64
		at        func(EmbeddedItem) [2]float64
	}{
		{"before", found.ExplainedBefore, func(e EmbeddedItem) [2]float64 { return e.Before }},
		{"after", found.ExplainedAfter, func(e EmbeddedItem) [2]float64 { return e.After }},
	} {
		p := newPlot(side.name, "component 1, "+percent(side.explained[0]), "component 2, "+percent(side.explained[1]))
		for _, k := range kinds {
			var points plotter.XYs
			var classes []int
			for _, e := range found.Points {
				if e.Kind == k.kind {
					points, classes = append(points, plotter.XY{X: side.at(e)[0], Y: side.at(e)[1]}), append(classes, e.Class)
				}
			}
			if len(points) == 0 {
				continue
			}
			dots, err := plotter.NewScatter(points)
			if err != nil {
				return nil, fmt.Errorf("drawing embedding: %w", err)
			}
			dots.GlyphStyleFunc = func(i int) draw.GlyphStyle {
				g := k.glyph
				g.Color = colors[classes[i]]
				return g
			}
			p.Add(dots)
		}
		plots = append(plots, p)
	}
	var shapes []key
	for _, k := range kinds {
		shapes = append(shapes, key{name: k.name, color: dark, glyph: k.glyph.Shape})
	}
	picture, err := panels(f.Title, panelSize, panelSize, plots, keys, shapes)
	if err != nil {
		return nil, err
	}
	picture.Name, picture.Alt = "embedding", f.Alt
	f.Pictures = []Picture{picture}
	return f, nil
}
