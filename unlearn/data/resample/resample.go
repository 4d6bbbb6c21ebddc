// Package resample makes images smaller or larger, bit for bit as Pillow's Image.resize does: a separable filter that
// widens with the scale (antialiasing), weights in fixed point, first along the rows, whose results are rounded to bytes, then
// along the columns. Only the part of the result that is wanted is computed.
//
// Sums are of integers, so that the bits depend on no instruction set.
package resample

// #cgo CFLAGS: -O3 -Wall -Wextra
// #include "passes.h"
import "C"

import (
	"fmt"
	"image"
	"math"
	"runtime"
	"sync"
	"unsafe"
)

// Filter is a way to weigh the pixels around a point.
type Filter string

// The filters, by their names in torchvision.
const (
	Bilinear Filter = "bilinear"
	Bicubic  Filter = "bicubic" // a = -0.5, as Pillow has it; OpenCV and tensors of torch have -0.75
)

// weight is the filter's value at x, and support the distance from which on it is 0.
func (f Filter) weight(x float64) float64 {
	x = math.Abs(x)
	if f == Bilinear {
		return max(0, 1-x)
	}
	const a = -0.5
	switch {
	case x < 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return (((x-5)*x+8)*x - 4) * a
	}
	return 0
}

func (f Filter) support() float64 {
	if f == Bilinear {
		return 1
	}
	return 2
}

// axis is the resampling along rows or columns: each result is the sum of taps pixels from some pixel on, times weights.
// Windows of the filter that are narrower than others have weights of 0 beside them.
type axis struct {
	begin, end int     // the pixels that all results are made of
	from       []int32 // the first pixel of each result, counted from begin
	weights    []int32 // taps for each result
	taps       int
}

// precision is the number of bits behind the point of a weight: eight less than 32 for the pixels, two less for sums
// that overshoot.
const precision = 32 - 8 - 2

// newAxis is the resampling of in pixels to out, of which those from first to first+n-1 are wanted.
func newAxis(in, out, first, n int, f Filter) axis {
	scale := float64(in) / float64(out)
	widening := max(scale, 1)
	support := f.support() * widening
	center := func(i int) float64 { return (float64(first+i) + 0.5) * scale }
	window := func(i int) (from, to int) {
		return max(0, int(center(i)-support+0.5)), min(in, int(center(i)+support+0.5))
	}
	a := axis{from: make([]int32, n)}
	a.begin, _ = window(0)
	_, a.end = window(n - 1)
	for i := range n {
		from, to := window(i)
		a.taps = max(a.taps, to-from)
	}
	a.weights = make([]int32, n*a.taps)
	exact := make([]float64, a.taps)
	for i := range n {
		from, to := window(i)
		sum := 0.0
		for k := range to - from {
			exact[k] = f.weight((float64(from+k) - center(i) + 0.5) * (1 / widening))
			sum += exact[k]
		}
		start := min(from, a.end-a.taps)
		a.from[i] = int32(start - a.begin)
		for k := range to - from {
			w := exact[k] / sum * (1 << precision)
			a.weights[i*a.taps+from-start+k] = int32(w + math.Copysign(0.5, w))
		}
	}
	return a
}

// Plan is the resampling of images of one size. It is safe for concurrent use.
type Plan struct {
	horizontal, vertical axis
}

// New returns the plan that resizes an image to another size with a filter and cuts out the part of that. It panics
// unless there are pixels before and after, and the part lies in the resized image.
func New(size, resized image.Point, part image.Rectangle, f Filter) *Plan {
	if size.X < 1 || size.Y < 1 || part.Empty() || !part.In(image.Rectangle{Max: resized}) {
		panic(fmt.Sprintf("resample.New: the part %v of %v pixels resized to %v", part, size, resized))
	}
	return &Plan{
		horizontal: newAxis(size.X, resized.X, part.Min.X, part.Dx(), f),
		vertical:   newAxis(size.Y, resized.Y, part.Min.Y, part.Dy(), f),
	}
}

// Source returns the part of the image that the result depends on.
func (p *Plan) Source() image.Rectangle {
	return image.Rect(p.horizontal.begin, p.vertical.begin, p.horizontal.end, p.vertical.end)
}

// Apply makes the result, three planes, from the pixels of Source, four bytes each, of which the last is ignored. It
// panics if the sizes do not fit.
func (p *Plan) Apply(dst, src []byte) {
	h, v := &p.horizontal, &p.vertical
	width, rows, height := len(h.from), v.end-v.begin, len(v.from)
	if len(dst) != 3*width*height || len(src) != 4*(h.end-h.begin)*rows {
		panic(fmt.Sprintf("resample.Plan.Apply: %d bytes of the pixels %v for %d of %d x %d", len(src), p.Source(), len(dst), width, height))
	}
	const margin = C.L2UL_RESAMPLE_MARGIN
	work, _ := spare.Get().(*[]byte)
	if size := 4*width*(rows+1) + 2*margin; work == nil || cap(*work) < size {
		work = new(make([]byte, size))
	}
	defer spare.Put(work)
	line, between := (*work)[:4*width+margin], (*work)[4*width+margin:cap(*work)]
	var pinned runtime.Pinner
	defer pinned.Unpin()
	C.l2ul_resample_rows(start(between), start(src), C.int(h.end-h.begin), C.int(rows), C.int(width), h.native(&pinned), avx2)
	C.l2ul_resample_columns(start(dst), start(between), C.int(width), C.int(height), v.native(&pinned), start(line), avx2)
}

// spare are slices of bytes that Apply needs again and again.
var spare sync.Pool

// native is the axis as the passes take it.
func (a *axis) native(pinned *runtime.Pinner) C.l2ul_resample_axis {
	from, weights := unsafe.SliceData(a.from), unsafe.SliceData(a.weights)
	pinned.Pin(from)
	pinned.Pin(weights)
	return C.l2ul_resample_axis{from: (*C.int32_t)(from), weights: (*C.int32_t)(weights), taps: C.int(a.taps)}
}

func start(b []byte) *C.uchar { return (*C.uchar)(unsafe.SliceData(b)) }

// avx2 is whether the passes use it; a test compares them without.
var avx2 = C.l2ul_resample_has_avx2()
