package data

import (
	"fmt"
	"image"
	"math"

	"l2ul/unlearn/data/resample"
)

// Preprocess says what is done to images on their way to pixels, as torchvision's Resize(Resize, Filter) and
// CenterCrop(Crop) do it to images of Pillow. The zero value takes them as they are; then all must have one size.
type Preprocess struct {
	Resize int // pixels of the shorter side after resizing
	Crop   int // height and width of the middle that is cut out
	Filter resample.Filter
}

// maxResize bounds what images are enlarged to.
const maxResize = 1 << 12

// Check refuses sizes that make no sense, with a *UsageError.
func (p Preprocess) Check() error {
	switch {
	case p == Preprocess{}:
		return nil
	case p.Crop < 1 || p.Crop > p.Resize:
		return usagef("images resized to %d pixels and cropped to %d: the crop must have 1 to %d", p.Resize, p.Crop, p.Resize)
	case p.Resize > maxResize:
		return usagef("images resized to %d pixels: more than %d are not supported", p.Resize, maxResize)
	case p.Filter != resample.Bilinear && p.Filter != resample.Bicubic:
		return usagef("interpolation %q: choose %s or %s", p.Filter, resample.Bilinear, resample.Bicubic)
	}
	return nil
}

// String names what is done, for results and the cache.
func (p Preprocess) String() string {
	if p == (Preprocess{}) {
		return "native"
	}
	return fmt.Sprintf("resize %d %s, crop %d", p.Resize, p.Filter, p.Crop)
}

// plan is what to do with an image of this size, nil for nothing.
func (p Preprocess) plan(width, height int) *resample.Plan {
	if p == (Preprocess{}) {
		return nil
	}
	// torchvision rounds the longer side down and the place of the crop to the nearest even number.
	short := min(width, height)
	resized := image.Pt(int(float64(p.Resize*width)/float64(short)), int(float64(p.Resize*height)/float64(short)))
	middle := func(side int) int { return int(math.RoundToEven(float64(side-p.Crop) / 2)) }
	at := image.Pt(middle(resized.X), middle(resized.Y))
	return resample.New(image.Pt(width, height), resized, image.Rectangle{at, at.Add(image.Pt(p.Crop, p.Crop))}, p.Filter)
}
