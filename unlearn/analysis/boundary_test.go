package analysis

import (
	"bytes"
	"encoding/base64"
	"errors"
	"image/color"
	"image/png"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gonum.org/v1/plot/vg/draw"

	"l2ul/torch"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
)

func TestPlane(t *testing.T) {
	scoped(t, func() {
		p := matrix(golden(t, "plane.points"))
		axes, places := matrix(golden(t, "plane.axes")), numbers(t, "plane.places")
		u, v, pb, pc, qc, err := plane(p[0], p[1], p[2])
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range []float64{pb, pc, qc} {
			near(t, "place of an anchor", got, places[i], 1e-12)
		}
		for i := range u {
			near(t, "u", u[i], axes[0][i], 1e-12)
			near(t, "v", v[i], axes[1][i], 1e-12)
		}
		if _, _, _, _, _, err := plane(p[0], p[0], p[2]); err == nil {
			t.Error("a plane through the same point twice")
		}
		middle := make([]float64, len(p[0]))
		for i := range middle {
			middle[i] = (p[0][i] + p[1][i]) / 2
		}
		if _, _, _, _, _, err := plane(p[0], p[1], middle); err == nil {
			t.Error("a plane through three points of a line")
		}
	})
}

// Classes and margins on a grid are PyTorch's.
func TestSlice(t *testing.T) {
	scoped(t, func() {
		s := subject(t, network(t, 0), network(t, 1))
		rows := make([][]float64, 3) // red, green and blue
		for i := range rows {
			rows[i] = slices.Repeat([]float64{0.1}, 3*1024)
			for j := range 1024 {
				rows[i][1024*i+j] = 0.9
			}
		}
		a := anchors{points: [3][]float64{rows[0], rows[1], rows[2]}}
		slice, err := s.slice(t.Context(), a, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		near(t, "half width", slice.Half, numbers(t, "slice.half")[0], 1e-9)
		classes, margins := torch.ToSlice[int64](golden(t, "slice.class")), numbers(t, "slice.margin")
		different, same := map[int]bool{}, [2]int{}
		for i := range classes {
			row, column := i/slice.Grid, i%slice.Grid
			different[int(classes[i])] = true
			if margins[i] > 1e-3 && slice.Before.Class[row][column] != int(classes[i]) {
				t.Errorf("point %d: class %d, want %d", i, slice.Before.Class[row][column], classes[i])
			}
			near(t, "margin", slice.Before.Margin[row][column], margins[i], 2e-3)
			if slice.Before.Class[row][column] == slice.After.Class[row][column] {
				same[1]++
				if math.Hypot(float64(row-3), float64(column-3))*slice.Half/3 <= slice.Radius {
					same[0]++
				}
			}
		}
		if len(different) < 2 {
			t.Error("the reference has one class only, which shows nothing")
		}
		inside := 0
		for i := range classes {
			if math.Hypot(float64(i/7-3), float64(i%7-3))*slice.Half/3 <= slice.Radius {
				inside++
			}
		}
		near(t, "share inside", slice.Inside, share(same[0], inside), 1e-12)
		near(t, "share outside", slice.Outside, share(same[1]-same[0], 49-inside), 1e-12)
	})
}

// Anchors are an image's own examples, toward different classes, those that succeeded first; without examples some are made.
func TestAnchors(t *testing.T) {
	scoped(t, func() {
		s := subject(t, network(t, 0), network(t, 1))
		x := torch.Rand([]int64{6, 3, 32, 32}, false)
		s.Examples = &attack.Set{X: x, Done: 6, Pairs: []attack.Pair{
			{Source: 0, Target: 2},
			{Source: 0, Target: 3, Log: attack.Log{Success: true}},
			{Source: 0, Target: 3, Log: attack.Log{Success: true}},
			{Source: 1, Target: 9, Log: attack.Log{Success: true}},
			{Source: 1, Target: 9, Log: attack.Log{Success: true}},
			{Source: 2, Target: 0},
		}}
		all, err := s.chooseAnchors(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rows := matrix(x.Flatten(1, -1))
		if a := all[0]; *a.classes[1] != 3 || *a.classes[2] != 2 || !slices.Equal(a.points[1], rows[1]) || !slices.Equal(a.points[2], rows[0]) {
			t.Errorf("image 0: classes %d and %d", *a.classes[1], *a.classes[2])
		}
		if a := all[1]; a.kinds != [3]string{"image", "adversarial", "other-image"} || *a.classes[2] != s.Forget.Labels[2] {
			t.Errorf("image 1: %q", all[1].kinds)
		}
		s.Cropped = true // an example of another crop is none of this image
		if all, err = s.chooseAnchors(t.Context()); err != nil || all[0].kinds[1] != "adversarial" || slices.Equal(all[0].points[1], rows[1]) {
			t.Errorf("of other crops: %v, %v", all[0].kinds, err)
		}
		s.Cropped = false
		s.Forget.Indices, s.Forget.Labels, s.Examples.Pairs = s.Forget.Indices[:1], s.Forget.Labels[:1], s.Examples.Pairs[1:3]
		if all, err = s.chooseAnchors(t.Context()); err != nil || all[0].kinds[2] != "random-direction" {
			t.Fatalf("a single image: %v, %v", all, err)
		}
		var apart [2]float64
		for i, v := range all[0].points[0] {
			apart[0] += (all[0].points[1][i] - v) * (all[0].points[1][i] - v)
			apart[1] += (all[0].points[2][i] - v) * (all[0].points[2][i] - v)
		}
		near(t, "distance of the random anchor", apart[1], apart[0], 1e-9)
	})
}

// Of equal networks all points keep their class; images are read, and their examples made, once.
func TestBoundary(t *testing.T) {
	scoped(t, func() {
		net := network(t, 0)
		s := subject(t, net, net)
		f := run(t, "boundary", s)
		b := f.Data.(*Boundary)
		if len(f.Pictures) != 2 || len(b.Slices) != 2 || b.Inside != 1 || b.Outside != 1 {
			t.Errorf("%d pictures, %d slices, the same inside %g and outside %g", len(f.Pictures), len(b.Slices), b.Inside, b.Outside)
		}
		if reads := s.Meter.Reads()[data.PhaseAfter]; reads[data.PartForget] != 3 || reads[data.PartRetain] != 0 {
			t.Errorf("reads: %v", reads)
		}
	})
}

// An image whose example is the image itself has no plane: the others are drawn, and the outcome says which is not. With none left there
// is no analysis.
func TestBoundarySkips(t *testing.T) {
	scoped(t, func() {
		s := subject(t, network(t, 0), network(t, 1))
		x, _ := s.Train.Gather(s.Forget.Indices)
		s.Examples = &attack.Set{X: torch.Cat([]torch.Tensor{x.Narrow(0, 0, 1), torch.Rand([]int64{2, 3, 32, 32}, false)}, 0), Done: 3, Pairs: []attack.Pair{
			{Source: 0, Target: 2}, {Source: 1, Target: 2}, {Source: 2, Target: 2},
		}}
		f := run(t, "boundary", s)
		b := f.Data.(*Boundary)
		if len(f.Pictures) != 1 || len(b.Slices) != 1 || b.Slices[0].Index != s.Forget.Indices[1] || b.Inside != b.Slices[0].Inside || b.Outside != b.Slices[0].Outside {
			t.Errorf("%d pictures, %d slices, inside %g, outside %g", len(f.Pictures), len(b.Slices), b.Inside, b.Outside)
		}
		if want := "none around image 4: its adversarial example is the image itself"; len(b.Skipped) != 1 || b.Skipped[0].Index != 4 || !strings.HasSuffix(f.Alt, want) {
			t.Errorf("skipped %+v; %q", b.Skipped, f.Alt)
		}
		s.Options.Images = 1
		if _, err := runBoundary(t.Context(), s); err == nil || !strings.Contains(err.Error(), "around image 4, its adversarial example") {
			t.Errorf("nothing left: %v", err)
		}
	})
}

// Every point of a map is drawn at its place in the plane, in both formats: the raster has the proportions of the axes.
func TestRaster(t *testing.T) {
	red, blue := color.NRGBA{255, 0, 0, 255}, color.NRGBA{0, 0, 255, 255}
	p := newPlot("", "", "")
	p.HideAxes()
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = -2, 2, -2, 2
	p.Add(raster{4, 2, func(row, column int) color.NRGBA {
		if row == 3 && column == 0 { // the highest, on the left
			return red
		}
		return blue
	}})
	drawn, err := picture("", 400, 200, func(c draw.Canvas) { p.Draw(c) })
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(drawn.PNG))
	if err != nil {
		t.Fatal(err)
	}
	size := img.Bounds()
	for _, at := range [][2]int{{1, 1}, {1, 6}, {6, 1}, {6, 6}} { // eighths of the picture
		want := blue
		if at == [2]int{1, 1} {
			want = red
		}
		if got := color.NRGBAModel.Convert(img.At(at[0]*size.Dx()/8, at[1]*size.Dy()/8)); got != want {
			t.Errorf("at %v eighths from the left and top: %v, want %v", at, got, want)
		}
	}
	encoded := regexp.MustCompile(`width="([0-9.]+)" height="([0-9.]+)" xlink:href="data:image/[a-z]+;base64,([^"]+)"`).FindSubmatch(drawn.SVG)
	if encoded == nil {
		t.Fatalf("no image in %s", drawn.SVG)
	}
	raw, err := base64.StdEncoding.DecodeString(string(encoded[3]))
	if err != nil {
		t.Fatal(err)
	}
	config, err := png.DecodeConfig(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	width, errW := strconv.ParseFloat(string(encoded[1]), 64)
	height, errH := strconv.ParseFloat(string(encoded[2]), 64)
	if err := errors.Join(errW, errH); err != nil {
		t.Fatal(err)
	}
	near(t, "proportions in SVG", float64(config.Width)/float64(config.Height), width/height, 0.03)
}
