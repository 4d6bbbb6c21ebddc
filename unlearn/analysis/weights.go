package analysis

import (
	"cmp"
	"context"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/importance"
)

func init() {
	register(&Analysis{
		Name: "weights", Summary: "how much each parameter tensor changed, and whether where Ω̄ let it",
		Source: "spec/l2ul.md sections 4 and 8; project definition", Reads: "no image; importance.safetensors where the run has it", Run: runWeights,
	})
}

// Weights is the data of the analysis weights. Sums are in float64.
type Weights struct {
	Total   TensorChange   `json:"total"`
	Tensors []TensorChange `json:"tensors"` // parameters in the order of the network
}

// TensorChange is how far the values of a tensor moved.
type TensorChange struct {
	Name     string   `json:"name"`
	Size     int64    `json:"size"`
	Change   float64  `json:"change"`   // ‖Δθ‖
	Relative *float64 `json:"relative"` // ‖Δθ‖/‖θ⁰‖; null for a tensor that was zero
	RMS      float64  `json:"rms"`      // of Δθ

	Anchor *AnchorChange `json:"anchor"` // null where the method had no importance
}

// AnchorChange is where in a tensor the change took place. Ω̄ near 1 holds a value, near 0 lets it move.
type AnchorChange struct {
	Mean   float64 `json:"mean"`   // of Ω̄
	Median float64 `json:"median"` // the lower one of an even number
	// Shares of Σ Δθ² at values whose Ω̄ is below, at and above the median, and of the values themselves.
	Below       float64 `json:"below"`
	At          float64 `json:"at"`
	Above       float64 `json:"above"`
	BelowValues float64 `json:"below_values"`
	AtValues    float64 `json:"at_values"`
	AboveValues float64 `json:"above_values"`
}

func runWeights(ctx context.Context, s *Subject) (*Finding, error) {
	before, after := s.Before.Root().NamedParameters(), s.After.Root().NamedParameters()
	progress, end := s.Progress("weights", "tensors", len(before))
	defer end()
	omega := map[string]torch.Tensor{}
	for _, o := range s.Importance {
		omega[o.Name] = o.Tensor
	}
	found := &Weights{}
	var deltas, anchors []torch.Tensor
	var norm0 float64
	for i, p := range before {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		from := flat(p.Tensor)
		delta := flat(after[i].Tensor).Sub(from, 1)
		t := change(p.Name, from.Square().Sum().Item(), delta)
		norm0 += from.Square().Sum().Item()
		var anchor torch.Tensor
		if o, ok := omega[p.Name]; ok {
			anchor = flat(new(importance.Options).Anchors([]torch.Tensor{o.To(s.Device, torch.Float)})[0])
			t.Anchor = where(delta, anchor)
			anchors = append(anchors, anchor)
		}
		deltas = append(deltas, delta)
		found.Tensors = append(found.Tensors, t)
		progress(i + 1)
	}
	all := torch.Cat(deltas, 0)
	found.Total = change("all", norm0, all)
	if len(anchors) == len(deltas) {
		found.Total.Anchor = where(all, torch.Cat(anchors, 0))
	}
	return presentWeights(found, before)
}

func flat(t torch.Tensor) torch.Tensor { return t.Detach().CastTo(torch.Double).Reshape(-1) }

// change measures delta, Double [n], beside the sum of squares before.
func change(name string, before float64, delta torch.Tensor) TensorChange {
	sum := delta.Square().Sum().Item()
	t := TensorChange{Name: name, Size: delta.Numel(), Change: math.Sqrt(sum), RMS: math.Sqrt(sum / float64(delta.Numel()))}
	if before > 0 {
		relative := math.Sqrt(sum / before)
		t.Relative = &relative
	}
	return t
}

var opMedian = torch.Define("aten::median(Tensor self) -> Tensor")

// where splits the change of delta by anchor = Ω̄, both Double [n].
func where(delta, anchor torch.Tensor) *AnchorChange {
	a := &AnchorChange{Mean: anchor.Mean().Item(), Median: opMedian.One(anchor).Item()}
	squares, n := delta.Square(), float64(delta.Numel())
	total := squares.Sum().Item()
	part := func(mask torch.Tensor) (changed, values float64) {
		m := mask.CastTo(torch.Double)
		if total > 0 {
			changed = squares.Mul(m).Sum().Item() / total
		}
		return changed, m.Sum().Item() / n
	}
	a.Below, a.BelowValues = part(anchor.LtScalar(a.Median))
	a.Above, a.AboveValues = part(anchor.GtScalar(a.Median))
	a.At, a.AtValues = part(anchor.Eq(anchor.OnesLike().MulScalar(a.Median)))
	return a
}

// mostBars is how many tensors a chart has room for; the largest changes are drawn of more.
const mostBars = 60

func presentWeights(found *Weights, params []nn.Named) (*Finding, error) {
	f := &Finding{
		Title: "Change of the weights by layer", Data: found,
		Reading: "Bars are ‖Δθ‖/‖θ⁰‖ of convolutions and linear layers, from the input down to the logits; all tensors are in the data. With importance, values that matter for " +
			"the images to forget (Ω̄ low) should have moved more than others.",
	}
	var shown []TensorChange
	for i, t := range found.Tensors {
		if params[i].Tensor.Dim() > 1 && t.Relative != nil {
			shown = append(shown, t)
		}
	}
	byChange := func(a, b TensorChange) int { return cmp.Compare(*b.Relative, *a.Relative) }
	if len(shown) > mostBars {
		least := slices.SortedFunc(slices.Values(shown), byChange)[mostBars-1]
		shown = slices.DeleteFunc(shown, func(t TensorChange) bool { return *t.Relative < *least.Relative })
	}
	var names []string
	var values plotter.Values
	for _, t := range shown {
		names, values = append(names, t.Name), append(values, *t.Relative)
	}
	f.Alt = fmt.Sprintf("All parameters moved by %.3g", found.Total.Change)
	if found.Total.Relative != nil {
		f.Alt += fmt.Sprintf(", %s of their norm", percent(*found.Total.Relative))
	}
	if a := found.Total.Anchor; a != nil {
		f.Alt += fmt.Sprintf("; %s of the change is at the %s of values whose Ω̄ is below its median", percent(a.Below), percent(a.BelowValues))
	}
	bars, err := barPicture(f.Title, "‖Δθ‖ / ‖θ before‖", names, values)
	if err != nil {
		return nil, err
	}
	bars.Name, bars.Alt = "weights", f.Alt
	f.Pictures = []Picture{bars}
	var points plotter.XYs
	for _, t := range shown {
		if t.Anchor != nil {
			points = append(points, plotter.XY{X: t.Anchor.Mean, Y: *t.Relative})
		}
	}
	if len(points) == 0 {
		return f, nil
	}
	against, err := scatterPicture("Change of the weights and what held them", "mean anchor weight of the tensor", "‖Δθ‖ / ‖θ before‖", points)
	if err != nil {
		return nil, err
	}
	against.Name, against.Alt = "weights-anchor", "A point for each tensor: its relative change over the mean of its Ω̄"
	f.Pictures = append(f.Pictures, against)
	return f, nil
}

// scatterPicture draws points.
func scatterPicture(title, x, y string, points plotter.XYs) (Picture, error) {
	p := newPlot("", x, y)
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return Picture{}, fmt.Errorf("drawing %s: %w", title, err)
	}
	dots.Color, dots.Radius, dots.Shape = okabeIto[0], 3, draw.CircleGlyph{}
	p.Add(plotter.NewGrid(), dots)
	room := 0.03 * (p.X.Max - p.X.Min)
	p.X.Min, p.X.Max = p.X.Min-room, p.X.Max+room
	p.Y.Min, p.Y.Max = 0, 1.05*p.Y.Max
	return panels(title, 400, 300, []*plot.Plot{p})
}

// barPicture draws bars with names at their left, the first on top.
func barPicture(title, x string, names []string, values plotter.Values) (Picture, error) {
	n := len(values)
	turned, upward := make(plotter.Values, n), make([]string, n)
	for i := range values {
		turned[n-1-i], upward[n-1-i] = values[i], names[i]
	}
	const row = vg.Length(14)
	p := newPlot("", x, "")
	bars, err := plotter.NewBarChart(turned, row*0.7)
	if err != nil {
		return Picture{}, fmt.Errorf("drawing %s: %w", title, err)
	}
	bars.Horizontal, bars.Color, bars.LineStyle.Width = true, color.Color(okabeIto[0]), 0
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	p.Add(grid, bars)
	p.NominalY(upward...)
	p.X.Min, p.X.Max = 0, 1.03*p.X.Max
	p.Y.Min, p.Y.Max = -0.7, float64(n)-0.3
	p.Y.Tick.Label.XAlign, p.Y.Tick.Label.YAlign = text.XRight, text.YCenter
	return panels(title, 500, 50+row*vg.Length(n), []*plot.Plot{p})
}
