package report

import (
	"slices"
	"testing"

	"gonum.org/v1/plot/plotter"
)

// A curve that repeats every four steps, as a loss over four slices does, keeps its lowest and highest values all along. Every
// fourth point of it would be a straight line.
func TestThinnedCurveKeepsItsRange(t *testing.T) {
	points := make(plotter.XYs, 800)
	for i := range points {
		points[i] = plotter.XY{X: float64(i), Y: []float64{0, 1, 3, 2}[i%4]}
	}
	kept := thin(points)
	if len(kept) > maxPoints || kept[0] != points[0] || kept[len(kept)-1] != points[799] {
		t.Fatalf("%d points from %v to %v", len(kept), kept[0], kept[len(kept)-1])
	}
	if !slices.IsSortedFunc(kept, func(a, b plotter.XY) int { return int(a.X - b.X) }) {
		t.Error("steps go back")
	}
	for i := 0; i+12 < len(kept); i++ {
		var values []float64
		for _, p := range kept[i : i+12] {
			values = append(values, p.Y)
		}
		if slices.Min(values) != 0 || slices.Max(values) != 3 {
			t.Fatalf("between step %v and %v it goes from %v to %v", kept[i].X, kept[i+11].X, slices.Min(values), slices.Max(values))
		}
	}
}
