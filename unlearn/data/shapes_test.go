package data

import (
	"bytes"
	"slices"
	"testing"
)

// The pixels are part of the interface: results on shapes can be compared only while these stay.
func TestShapesAreFixed(t *testing.T) {
	sets, err := Open(t.Context(), "shapes", Source{}, "train", "test")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		n   int
		sum string
	}{
		{5000, "a6056679b21e3435a6ff057dfb8b3bd0ace75004d48b8832d28b9ca67f4a389c"},
		{1000, "5c404b6cbe470a6fa721d9273574c01f097ada8e35587fad563230016d5fab5a"},
	} {
		s := sets[i]
		if s.Len() != want.n || s.Fingerprint() != want.sum {
			t.Errorf("%s: %d images with fingerprint %s, want %d with %s", s.Split, s.Len(), s.Fingerprint(), want.n, want.sum)
		}
		counts := make([]int, len(s.Classes))
		for _, y := range s.Labels {
			counts[y]++
		}
		if slices.Min(counts) != want.n/10 || slices.Max(counts) != want.n/10 {
			t.Errorf("%s: images a class %v", s.Split, counts)
		}
	}
	if !slices.IsSorted(sets[0].Classes) {
		t.Errorf("classes %v are not sorted", sets[0].Classes)
	}
}

func TestShapesSeed(t *testing.T) {
	draw := func(seed int64, split string, n int) *Set {
		s, err := drawShapes(t.Context(), Source{Seed: seed, Workers: 1 + n%3}, split, n)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	few, more := draw(1, "train", 30), draw(1, "train", 250)
	if !bytes.Equal(few.Pixels, more.Pixels[:len(few.Pixels)]) {
		t.Error("an image depends on how many there are")
	}
	for _, other := range []*Set{draw(2, "train", 30), draw(1, "test", 30)} {
		for i := range few.Len() {
			if bytes.Equal(few.Image(i), other.Image(i)) {
				t.Errorf("image %d is the same under another seed or split", i)
			}
		}
	}
}

// Every figure is inside its unit circle, covers a fair part of it and overlaps no other figure wholly.
func TestFigures(t *testing.T) {
	type area map[[2]int]bool
	var areas []area
	for _, f := range figures {
		a := area{}
		for u := -1100; u <= 1100; u += 20 {
			for v := -1100; v <= 1100; v += 20 {
				if !f.inside(u, v) {
					continue
				}
				a[[2]int{u, v}] = true
				if !inDisc(u, v, 1110) {
					t.Errorf("%s reaches (%d, %d), outside the circle", f.name, u, v)
				}
			}
		}
		if share := float64(len(a)) * 400 / (3.1416 * one * one); share < 0.2 || share > 0.9 {
			t.Errorf("%s covers %.2f of the circle", f.name, share)
		}
		for i, b := range areas {
			common := 0
			for p := range a {
				if b[p] {
					common++
				}
			}
			if iou := float64(common) / float64(len(a)+len(b)-common); iou > 0.93 {
				t.Errorf("%s and %s overlap by %.2f", f.name, figures[i].name, iou)
			}
		}
		areas = append(areas, a)
	}
}

func BenchmarkShapes(b *testing.B) {
	for b.Loop() {
		if _, err := drawShapes(b.Context(), Source{}, "train", shapesTrain); err != nil {
			b.Fatal(err)
		}
	}
}
