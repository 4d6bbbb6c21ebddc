package resample

import (
	"bytes"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"testing"
)

// cases are sizes before and after: smaller, larger, the same, narrow, by a large factor.
var cases = []struct{ size, resized image.Point }{
	{image.Pt(50, 37), image.Pt(30, 22)},
	{image.Pt(13, 9), image.Pt(70, 41)},
	{image.Pt(31, 17), image.Pt(31, 17)},
	{image.Pt(1, 40), image.Pt(5, 200)},
	{image.Pt(40, 1), image.Pt(64, 3)},
	{image.Pt(900, 3), image.Pt(7, 2)},
	{image.Pt(2, 2), image.Pt(1, 1)},
}

// each calls check for every case with both filters.
func each(t *testing.T, check func(t *testing.T, size, resized image.Point, f Filter, pixels []byte)) {
	draw := rand.New(rand.NewPCG(1, 2))
	for _, c := range cases {
		pixels := make([]byte, 4*c.size.X*c.size.Y)
		for i := range pixels { // black and white, so that sums overshoot
			pixels[i] = byte(255 * draw.IntN(2))
		}
		for _, f := range []Filter{Bilinear, Bicubic} {
			t.Run(fmt.Sprintf("%s %v to %v", f, c.size, c.resized), func(t *testing.T) { check(t, c.size, c.resized, f, pixels) })
		}
	}
}

// apply resizes an image and returns a part of the result.
func apply(t *testing.T, pixels []byte, size, resized image.Point, part image.Rectangle, f Filter) []byte {
	t.Helper()
	plan := New(size, resized, part, f)
	source := plan.Source()
	if source.Empty() || !source.In(image.Rectangle{Max: size}) {
		t.Fatalf("the pixels %v of an image of %v", source, size)
	}
	var needed []byte
	for y := source.Min.Y; y < source.Max.Y; y++ {
		needed = append(needed, pixels[4*(y*size.X+source.Min.X):4*(y*size.X+source.Max.X)]...)
	}
	planes := make([]byte, 3*part.Dx()*part.Dy())
	plan.Apply(planes, needed)
	return planes
}

// The result is that of the filter's formula in real numbers, but for the rounding of each pass.
func TestFormula(t *testing.T) {
	each(t, func(t *testing.T, size, resized image.Point, f Filter, pixels []byte) {
		// along is one pass over n pixels for the result i.
		along := func(i, in, out int, at func(k int) float64) float64 {
			scale := float64(in) / float64(out)
			wide := max(1, scale)
			center, sum, norm := (float64(i)+0.5)*scale, 0.0, 0.0
			for k := range in {
				w := f.weight((float64(k) + 0.5 - center) / wide)
				sum, norm = sum+w*at(k), norm+w
			}
			return min(max(sum/norm, 0), 255)
		}
		got := apply(t, pixels, size, resized, image.Rectangle{Max: resized}, f)
		for c := range 3 {
			for y := range resized.Y {
				for x := range resized.X {
					want := along(y, size.Y, resized.Y, func(row int) float64 {
						return along(x, size.X, resized.X, func(k int) float64 { return float64(pixels[4*(row*size.X+k)+c]) })
					})
					if v := got[(c*resized.Y+y)*resized.X+x]; math.Abs(float64(v)-want) > 1.5 {
						t.Fatalf("channel %d of (%d, %d) is %d, want %.2f", c, x, y, v, want)
					}
				}
			}
		}
	})
}

// A part of the result is that part of the whole result, with and without AVX2.
func TestParts(t *testing.T) {
	before := avx2
	defer func() { avx2 = before }()
	each(t, func(t *testing.T, size, resized image.Point, f Filter, pixels []byte) {
		avx2 = before
		whole := apply(t, pixels, size, resized, image.Rectangle{Max: resized}, f)
		for x := range resized.X {
			for _, part := range []image.Rectangle{
				image.Rect(x, 0, resized.X, resized.Y), image.Rect(0, resized.Y/2, x+1, resized.Y), image.Rect(x, resized.Y-1, x+1, resized.Y),
			} {
				var want []byte
				for c := range 3 {
					for y := part.Min.Y; y < part.Max.Y; y++ {
						row := (c*resized.Y + y) * resized.X
						want = append(want, whole[row+part.Min.X:row+part.Max.X]...)
					}
				}
				for _, on := range []bool{true, false} {
					if avx2 = before; !on {
						avx2 = 0
					}
					if got := apply(t, pixels, size, resized, part, f); !bytes.Equal(got, want) {
						t.Fatalf("the part %v is another one than in the whole (AVX2 %d)", part, avx2)
					}
				}
			}
		}
	})
}

func TestRefuses(t *testing.T) {
	ten := image.Pt(10, 10)
	for name, call := range map[string]func(){
		"an empty image":        func() { New(image.Pt(0, 10), ten, image.Rect(0, 0, 1, 1), Bilinear) },
		"a part outside":        func() { New(ten, ten, image.Rect(0, 0, 11, 10), Bilinear) },
		"an empty part":         func() { New(ten, ten, image.Rect(3, 3, 3, 4), Bilinear) },
		"pixels that are short": func() { New(ten, ten, image.Rect(0, 0, 10, 10), Bilinear).Apply(make([]byte, 300), make([]byte, 399)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			call()
		}()
	}
}
