package analysis

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"l2ul/torch"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/seed"
)

func init() {
	register(&Analysis{
		Name: "distance", Summary: "how far the nearest adversarial example is that an attack finds, before and after",
		Source: "Cha et al. 2024; spec/l2ul.md sections 3.1 and 8; ladder and attack: project definition",
		Reads:  "the images to forget and as many test images", Run: runDistance,
	})
}

// The ladder of radii, in pixel units, and the attack at each: rung i has radius firstRung·2^(i/8). A binary search over the rungs, of
// which the attack is tried at searchDepth, ends at the smallest one tried where it succeeded.
const (
	firstRung     = 1.0 / 32
	rungs         = 1<<searchDepth - 1 // the last is 6.7
	searchDepth   = 6
	distanceIters = 20
	stepOfRadius  = 2.5 / distanceIters // so that the attack can cross the ball (Madry et al. 2018)
	mostDistances = 64                  // images of each split
)

func rung(i int) float64 { return firstRung * math.Pow(2, float64(i)/8) }

// Distances is the data of the analysis distance.
type Distances struct {
	Attack string    `json:"attack"`
	Radii  []float64 `json:"radii"` // of the ladder
	Curves []Curve   `json:"curves"`
}

// Curve is the distances of one split from one network's decision boundary.
type Curve struct {
	Split   data.Part         `json:"split"`
	Network string            `json:"network"` // before or after
	Median  *float64          `json:"median"`  // the lower one of an even number; null where that image was not moved
	Images  []NearestDistance `json:"images"`
}

// NearestDistance is an upper bound of an image's distance from the decision boundary: the one that this attack found.
type NearestDistance struct {
	Index  int      `json:"index"`
	Class  int      `json:"class"`  // that the network says, and that the attack leaves
	Radius *float64 `json:"radius"` // smallest rung where the attack succeeded; null where it did at none
	Norm   *float64 `json:"norm"`   // of the perturbation it found there
	To     *int     `json:"to"`     // the class it found
}

func runDistance(ctx context.Context, s *Subject) (*Finding, error) {
	if len(s.Classes) < 2 {
		return nil, fmt.Errorf("distance: %s is the only class, so there is no boundary", s.Classes[0])
	}
	forget := spaced(mostDistances, s.Forget.Indices)
	test := spaced(len(forget), data.All(s.TestLen))
	found := &Distances{
		Attack: fmt.Sprintf("untargeted L2 PGD, %d iterations of %.3g times the radius, one random start", distanceIters, stepOfRadius),
	}
	for i := range rungs {
		found.Radii = append(found.Radii, rung(i))
	}
	progress, end := s.Progress("distance", "attacks", 2*(len(forget)+len(test))*searchDepth)
	defer end()
	done := 0
	for _, split := range []struct {
		part    data.Part
		indices []int
	}{{data.PartForget, forget}, {data.PartTest, test}} {
		for _, side := range []struct {
			name string
			net  Network
		}{{"before", s.Before}, {"after", s.After}} {
			var images []NearestDistance
			var err error
			torch.Scope(func() {
				var x torch.Tensor
				if x, err = s.images(split.part, split.indices); err == nil {
					images, err = s.nearest(ctx, side.net, x, split.indices, func(n int) { done += n; progress(done) })
				}
			})
			if err != nil {
				return nil, err
			}
			found.Curves = append(found.Curves, Curve{split.part, side.name, median(images), images})
		}
	}
	return presentDistances(found)
}

// nearest searches the ladder for each of the images x. The class to leave is the one that the network says: an image that is
// misclassified already still has a distance from the boundary.
func (s *Subject) nearest(ctx context.Context, net Network, x torch.Tensor, indices []int, done func(n int)) ([]NearestDistance, error) {
	logits, err := s.logits(ctx, net, x)
	if err != nil {
		return nil, err
	}
	found, low := make([]NearestDistance, len(indices)), make([]int, len(indices))
	for i := range found {
		class, _ := best(logits[i])
		found[i] = NearestDistance{Index: indices[i], Class: class}
	}
	for width := (rungs + 1) / 2; width >= 1; width /= 2 { // the answer, rungs for none, is in low..low+2·width-1
		byRung := map[int][]int{}
		for i, l := range low {
			byRung[l+width-1] = append(byRung[l+width-1], i)
		}
		for r := range rungs { // in order, for the same batches each time
			if len(byRung[r]) == 0 {
				continue
			}
			if err := s.tryRung(ctx, net, x, found, byRung[r], r); err != nil {
				return nil, err
			}
			for _, i := range byRung[r] {
				if found[i].Radius == nil || *found[i].Radius > rung(r) {
					low[i] += width
				}
			}
			done(len(byRung[r]))
		}
	}
	return found, nil
}

// tryRung attacks images, chosen by their place in x, inside one radius, and notes where that succeeds.
func (s *Subject) tryRung(ctx context.Context, net Network, x torch.Tensor, found []NearestDistance, chosen []int, r int) (err error) {
	labels, at := make([]int, len(chosen)), make([]int64, len(chosen))
	for i, c := range chosen {
		labels[i], at[i] = found[c].Class, int64(c)
	}
	torch.Scope(func() {
		job := &attack.Job{
			Net: net.Frozen, X: x.IndexSelect(0, torch.FromSlice(at).To(s.Device, torch.Long)).Contiguous(s.Format), Labels: labels, Classes: len(s.Classes),
			Options: attack.Options{Eps: rung(r), Step: stepOfRadius * rung(r), Iters: distanceIters, Num: "1", Norm: "l2", Store: "f32"},
			Seed:    seed.For(s.Seed, "analysis/distance", r), Chunk: s.Pairs,
		}
		var set *attack.Set
		if set, err = job.Plan(); err != nil {
			return
		}
		defer set.Free()
		if err = job.Run(ctx, set, nil); err != nil {
			return
		}
		for i, p := range set.Pairs {
			if p.Success {
				radius, n, to := rung(r), p.Norm, p.After
				f := &found[chosen[i]]
				f.Radius, f.Norm, f.To = &radius, &n, &to
			}
		}
	})
	return err
}

// median of the norms found, where images that were not moved are further than all others.
func median(images []NearestDistance) *float64 {
	var norms []float64
	for _, d := range images {
		if d.Norm != nil {
			norms = append(norms, *d.Norm)
		}
	}
	slices.Sort(norms)
	if middle := (len(images) - 1) / 2; middle < len(norms) {
		return &norms[middle]
	}
	return nil
}

func presentDistances(found *Distances) (*Finding, error) {
	f := &Finding{
		Title: "Distance to the nearest adversarial example found, before and after", Data: found,
		Reading: "Each curve is the share of images that an untargeted attack moves to another class within a distance; left means closer to the boundary. They are upper " +
			"bounds that this attack found, not distances: a stronger attack may come closer.",
	}
	p := newPlot("", "L2 norm of the perturbation, pixel units", "share of images")
	p.Y.Min, p.Y.Max = 0, 1
	p.Add(plotter.NewGrid())
	var keys []key
	var alt []string
	most := 0.0
	for _, c := range found.Curves {
		for _, d := range c.Images {
			if d.Norm != nil {
				most = max(most, *d.Norm)
			}
		}
	}
	if most == 0 {
		most = rung(rungs - 1)
	}
	p.X.Min, p.X.Max = 0, 1.05*most
	for i, c := range found.Curves {
		steps, err := plotter.NewLine(cumulative(c.Images, 1.05*most))
		if err != nil {
			return nil, fmt.Errorf("drawing distance: %w", err)
		}
		k := key{name: fmt.Sprintf("%s, %s", partNames[c.Split], c.Network), color: okabeIto[i/2], line: true}
		if c.Network == "before" {
			k.dashes = dashes
		}
		steps.Width, steps.Color, steps.Dashes = lineWidth, k.color, k.dashes
		p.Add(steps)
		keys = append(keys, k)
		alt = append(alt, fmt.Sprintf("%s: median %s", k.name, orNone(c.Median)))
	}
	f.Alt = strings.Join(alt, "; ")
	picture, err := panels(f.Title, 500, 320, []*plot.Plot{p}, keys)
	if err != nil {
		return nil, err
	}
	picture.Name, picture.Alt = "distance", f.Alt
	f.Pictures = []Picture{picture}
	return f, nil
}

func orNone(v *float64) string {
	if v == nil {
		return "beyond the ladder"
	}
	return fmt.Sprintf("%.3f", *v)
}

// cumulative is the share of images within each distance, as a staircase up to end.
func cumulative(images []NearestDistance, end float64) plotter.XYs {
	var norms []float64
	for _, d := range images {
		if d.Norm != nil {
			norms = append(norms, *d.Norm)
		}
	}
	slices.Sort(norms)
	points := plotter.XYs{{X: 0, Y: 0}}
	for i, n := range norms {
		points = append(points, plotter.XY{X: n, Y: share(i, len(images))}, plotter.XY{X: n, Y: share(i+1, len(images))})
	}
	return append(points, plotter.XY{X: end, Y: share(len(norms), len(images))})
}
