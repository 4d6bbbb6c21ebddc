package analysis

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"l2ul/torch"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/seed"
)

func init() {
	register(&Analysis{
		Name: "boundary", Summary: "slices through the decision boundary around images to forget, before and after",
		Source: "Cha et al. 2024; spec/l2ul.md section 8", Reads: "images to forget and their adversarial examples",
		Run: runBoundary,
	})
}

// Boundary is the data of the analysis boundary.
type Boundary struct {
	Classes []string `json:"classes"`
	Slices  []Slice  `json:"slices"`
	Skipped []Skip   `json:"skipped,omitempty"`
	// Shares of grid points with the same class before and after, over all slices.
	Inside  float64 `json:"same_inside"`
	Outside float64 `json:"same_outside"`
}

// Slice is the plane x_f + p·u + q·v through an image to forget (the origin), an adversarial example on the axis p, and a third
// anchor. Lengths are Euclidean, in pixel units. Pixels are not clipped, so that the plane is one.
type Slice struct {
	Index   int      `json:"index"` // of the image, in the training set or, of a correction, in its pool
	Label   int      `json:"label"`
	Anchors []Anchor `json:"anchors"`
	Half    float64  `json:"half_width"` // the grid goes from -half to half on both axes, rows by ascending q
	Grid    int      `json:"grid"`       // points on each side
	Radius  float64  `json:"radius"`     // of inside: the distance of the first adversarial example
	Inside  float64  `json:"same_inside"`
	Outside float64  `json:"same_outside"`
	Before  ClassMap `json:"before"`
	After   ClassMap `json:"after"`
}

// Anchor is a point that the plane goes through.
type Anchor struct {
	Kind  string  `json:"kind"` // image, adversarial, other-image or random-direction
	P     float64 `json:"p"`
	Q     float64 `json:"q"`
	Class *int    `json:"class,omitempty"` // label, or target of the attack
}

// ClassMap is what a network says on a grid.
type ClassMap struct {
	Class  [][]int     `json:"class"`
	Margin [][]float64 `json:"margin"` // largest logit less the second largest, to three decimals
}

// Skip is an image around which there is no plane.
type Skip struct {
	Index  int    `json:"index"`
	Reason string `json:"reason"`
}

// flatError says why three anchors span no plane.
type flatError string

func (e flatError) Error() string { return string(e) }

// extent is how far the grid goes, over the anchors' largest coordinate.
const extent = 1.25

// plane spans anchors b and c with a as the origin: u towards b, v at right angles to it towards c (Gram-Schmidt). It returns
// the directions and the places of b and c. The three must not lie on a line.
func plane(a, b, c []float64) (u, v []float64, pb float64, pc, qc float64, err error) {
	n := len(a)
	u, v = make([]float64, n), make([]float64, n)
	for i := range a {
		u[i] = b[i] - a[i]
		v[i] = c[i] - a[i]
	}
	pb = norm(u)
	if pb == 0 {
		return nil, nil, 0, 0, 0, flatError("its adversarial example is the image itself")
	}
	scale(u, 1/pb)
	length := norm(v)
	for i := range u {
		pc += u[i] * v[i]
	}
	for i := range v {
		v[i] -= pc * u[i]
	}
	qc = norm(v)
	if !(qc > 1e-6*length) {
		return nil, nil, 0, 0, 0, flatError("it, its adversarial example and the third anchor lie on a line")
	}
	scale(v, 1/qc)
	return u, v, pb, pc, qc, nil
}

func norm(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	return math.Sqrt(sum)
}

func scale(v []float64, by float64) {
	for i := range v {
		v[i] *= by
	}
}

// anchors are the images that a plane goes through.
type anchors struct {
	position int // in the forget set
	points   [3][]float64
	kinds    [3]string
	classes  [3]*int
}

// chooseAnchors takes for each of the first images two adversarial examples toward different classes, those first that reached
// theirs. Where the method's attack did not make any of each image, or of other crops, some are made here. Where all of an image are toward one class, the
// third anchor is the next image to forget or, if there is no other, a random direction.
func (s *Subject) chooseAnchors(ctx context.Context) (all []anchors, err error) {
	n := min(s.Options.Images, len(s.Forget.Indices))
	x, err := s.images(data.PartForget, s.Forget.Indices[:min(n+1, len(s.Forget.Indices))])
	if err != nil {
		return nil, err
	}
	set := s.Examples
	if s.Cropped || len(s.attacked()) < len(s.Forget.Indices) {
		if set, err = s.attackFirst(ctx, x.Narrow(0, 0, int64(n)), n); err != nil {
			return nil, err
		}
		defer set.Free()
	}
	rows := matrix(x.Contiguous(torch.Contiguous).Flatten(1, -1))
	for i := range n {
		a := anchors{position: i, kinds: [3]string{"image"}}
		a.points[0], a.classes[0] = rows[i], &s.Forget.Labels[i]
		filled := 1
		for _, wantSuccess := range []bool{true, false} {
			for p, pair := range set.Pairs {
				if filled < 3 && pair.Source == i && pair.Success == wantSuccess && (filled == 1 || pair.Target != *a.classes[1]) {
					adv := set.X.Select(0, int64(p)).Contiguous(torch.Contiguous).Reshape(1, -1)
					a.points[filled], a.kinds[filled], a.classes[filled] = matrix(adv)[0], "adversarial", &set.Pairs[p].Target
					filled++
				}
			}
		}
		if filled == 2 && len(rows) > 1 {
			other := (i + 1) % len(rows)
			a.points[2], a.kinds[2], a.classes[2] = rows[other], "other-image", &s.Forget.Labels[other]
		} else if filled == 2 {
			a.points[2], a.kinds[2] = s.randomPoint(a.points[0], a.points[1], i), "random-direction"
		}
		all = append(all, a)
	}
	return all, nil
}

// attacked are the images to forget, by their position, that the method made adversarial examples of.
func (s *Subject) attacked() map[int]bool {
	attacked := map[int]bool{}
	if s.Examples != nil {
		for _, p := range s.Examples.Pairs {
			attacked[p.Source] = true
		}
	}
	return attacked
}

// randomPoint goes from an image as far as another in a random direction.
func (s *Subject) randomPoint(from, other []float64, index int) []float64 {
	var direction []float64
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(seed.For(s.Seed, "analysis/direction", index)), func() {
			direction = matrix(torch.RandN([]int64{1, int64(len(from))}, false))[0]
		})
	})
	far := 0.0
	for i := range from {
		far += (other[i] - from[i]) * (other[i] - from[i])
	}
	scale(direction, math.Sqrt(far)/norm(direction))
	for i := range direction {
		direction[i] += from[i]
	}
	return direction
}

// attackFirst makes two adversarial examples of each of the first images, by the network before.
func (s *Subject) attackFirst(ctx context.Context, x torch.Tensor, n int) (*attack.Set, error) {
	o := s.Attack
	o.Num, o.Pairs, o.Exclude, o.Store, o.Targeted = "4", "", "", "f32", true
	job := &attack.Job{
		Net: s.Before.Frozen, X: x, Labels: s.Forget.Labels[:n], Classes: len(s.Classes), Options: o, Seed: s.Seed, Chunk: s.Pairs,
	}
	set, err := job.Plan()
	if err != nil {
		return nil, err
	}
	progress, end := s.Progress("boundary: attack", "pairs", len(set.Pairs))
	defer end()
	if err := job.Run(ctx, set, func() error { progress(set.Done); return nil }); err != nil {
		set.Free()
		return nil, err
	}
	return set, nil
}

func runBoundary(ctx context.Context, s *Subject) (*Finding, error) {
	if len(s.Classes) < 2 {
		return nil, fmt.Errorf("boundary: %s is the only class, so there is no boundary", s.Classes[0])
	}
	all, err := s.chooseAnchors(ctx)
	if err != nil {
		return nil, err
	}
	g := s.Options.Grid
	progress, end := s.Progress("boundary", "points", len(all)*2*g*g)
	defer end()
	done := 0
	found := &Boundary{Classes: s.Classes}
	f := &Finding{Title: "Decision boundary around images to forget, before and after", Data: found}
	for _, a := range all {
		slice, err := s.slice(ctx, a, func(n int) { done += n; progress(done) })
		if flat := flatError(""); errors.As(err, &flat) {
			found.Skipped = append(found.Skipped, Skip{s.Forget.Indices[a.position], err.Error()})
			done += 2 * g * g
			progress(done)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("boundary: image %d: %w", s.Forget.Indices[a.position], err)
		}
		picture, err := drawSlice(slice, s.Classes)
		if err != nil {
			return nil, err
		}
		f.Pictures = append(f.Pictures, picture)
		found.Slices = append(found.Slices, *slice)
		found.Inside += slice.Inside
		found.Outside += slice.Outside
	}
	drawn := len(found.Slices)
	if drawn == 0 {
		first := found.Skipped[0]
		return nil, fmt.Errorf("boundary: there is no plane around any of %d images; around image %d, %s", len(all), first.Index, first.Reason)
	}
	found.Inside, found.Outside = found.Inside/float64(drawn), found.Outside/float64(drawn)
	f.Alt = fmt.Sprintf("Of the points nearer than the adversarial example %s kept their class, of those further away %s, in %d slices",
		percent(found.Inside), percent(found.Outside), drawn)
	for _, skip := range found.Skipped {
		f.Alt += fmt.Sprintf("; none around image %d: %s", skip.Index, skip.Reason)
	}
	f.Reading = "Each map is a plane through an image to forget (circle) and two other points; colours are the classes that the network before (left) and after (right) " +
		"says there, paler where the two best classes are close. Forgetting should change the class near the image and keep the map elsewhere."
	return f, nil
}

// slice evaluates both networks on the plane through three anchors.
func (s *Subject) slice(ctx context.Context, a anchors, done func(n int)) (*Slice, error) {
	u, v, pb, pc, qc, err := plane(a.points[0], a.points[1], a.points[2])
	if err != nil {
		return nil, err
	}
	g := s.Options.Grid
	slice := &Slice{Index: s.Forget.Indices[a.position], Label: s.Forget.Labels[a.position], Grid: g, Radius: pb}
	for i, at := range [3][2]float64{{0, 0}, {pb, 0}, {pc, qc}} {
		slice.Anchors = append(slice.Anchors, Anchor{Kind: a.kinds[i], P: at[0], Q: at[1], Class: a.classes[i]})
	}
	slice.Half = extent * max(pb, math.Abs(pc), qc)
	for _, side := range []struct {
		net Network
		m   *ClassMap
	}{{s.Before, &slice.Before}, {s.After, &slice.After}} {
		if err := s.classMap(ctx, side.net, slice, a.points[0], u, v, side.m, done); err != nil {
			return nil, err
		}
	}
	var same, points [2]int
	for row := range g {
		for column := range g {
			where := 0
			if math.Hypot(slice.at(column), slice.at(row)) > slice.Radius {
				where = 1
			}
			points[where]++
			if slice.Before.Class[row][column] == slice.After.Class[row][column] {
				same[where]++
			}
		}
	}
	slice.Inside, slice.Outside = share(same[0], max(points[0], 1)), share(same[1], max(points[1], 1))
	return slice, nil
}

// at is the coordinate of a row or column of the grid.
func (s *Slice) at(i int) float64 { return s.Half * (2*float64(i)/float64(s.Grid-1) - 1) }

// classMap evaluates a network on the grid of a slice, row by row.
func (s *Subject) classMap(ctx context.Context, net Network, slice *Slice, origin, u, v []float64, m *ClassMap, done func(n int)) error {
	g := slice.Grid
	m.Class, m.Margin = make([][]int, g), make([][]float64, g)
	var err error
	torch.Scope(func() {
		vector := func(values []float64) torch.Tensor { return torch.FromSlice(values, 1, int64(len(values))) }
		o, du, dv := vector(origin), vector(u), vector(v)
		err = s.batches(ctx, g*g, func(from, to int) error {
			p, q := make([]float64, to-from), make([]float64, to-from)
			for i := range p {
				p[i], q[i] = slice.at((from+i)%g), slice.at((from+i)/g)
			}
			column := func(values []float64) torch.Tensor { return torch.FromSlice(values, int64(len(values)), 1) }
			x := torch.MM(column(p), du).Add(torch.MM(column(q), dv), 1).Add(o, 1).CastTo(torch.Float)
			rows, err := net.classify(s.here(x))
			if err != nil {
				return err
			}
			for i, logits := range rows {
				first, second := best(logits)
				row := (from + i) / g
				if (from+i)%g == 0 {
					m.Class[row], m.Margin[row] = make([]int, g), make([]float64, g)
				}
				m.Class[row][(from+i)%g] = first
				m.Margin[row][(from+i)%g] = math.Round(1000*(logits[first]-logits[second])) / 1000
			}
			done(to - from)
			return nil
		})
	})
	return err
}

// drawSlice draws the maps of a slice side by side.
func drawSlice(s *Slice, classes []string) (Picture, error) {
	weight := make([]int, len(classes))
	for _, m := range []*ClassMap{&s.Before, &s.After} {
		for _, row := range m.Class {
			for _, c := range row {
				weight[c]++
			}
		}
	}
	colors, keys := classColors(classes, weight)
	var plots []*plot.Plot
	for _, side := range []struct {
		name string
		m    *ClassMap
	}{{"before", &s.Before}, {"after", &s.After}} {
		p := newPlot(side.name, "toward the adversarial example, pixel units", "")
		cell := s.Half / float64(s.Grid-1) // half of a point's square
		edge := s.Half + cell
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = -edge, edge, -edge, edge
		p.Add(raster{s.Grid, edge, func(row, column int) color.NRGBA {
			sure := 1 - math.Exp(-side.m.Margin[row][column]/2)
			return mix(color.NRGBA{255, 255, 255, 255}, colors[side.m.Class[row][column]], 0.35+0.65*sure)
		}}, marks(s.Anchors))
		plots = append(plots, p)
	}
	names := []key{{name: "image to forget", glyph: draw.RingGlyph{}}, {glyph: draw.CrossGlyph{}}, {glyph: draw.PlusGlyph{}}}
	for i := range names {
		names[i].color = dark
		if i > 0 {
			names[i].name = strings.ReplaceAll(s.Anchors[i].Kind, "-", " ")
		}
		if c := s.Anchors[i].Class; i > 0 && c != nil {
			names[i].name += ", " + classes[*c]
		}
	}
	title := fmt.Sprintf("Image %d, %s", s.Index, classes[s.Label])
	picture, err := panels(title, panelSize, panelSize+20, plots, keys, names)
	picture.Name = fmt.Sprintf("boundary-%d", s.Index)
	picture.Alt = fmt.Sprintf("Class maps before and after around image %d, labelled %s; %s of the points nearer than the adversarial example kept their class, %s of the others",
		s.Index, classes[s.Label], percent(s.Inside), percent(s.Outside))
	return picture, err
}

// marks draws anchors in black on white, to be seen on every colour.
type marks []Anchor

// Plot draws the marks.
func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	for i, a := range m {
		at := vg.Point{X: x(a.P), Y: y(a.Q)}
		c.DrawGlyph(draw.GlyphStyle{Color: color.White, Radius: 5.5, Shape: draw.CircleGlyph{}}, at)
		shape := []draw.GlyphDrawer{draw.RingGlyph{}, draw.CrossGlyph{}, draw.PlusGlyph{}}[i]
		c.DrawGlyph(draw.GlyphStyle{Color: color.Black, Radius: 4, Shape: shape}, at)
	}
}
