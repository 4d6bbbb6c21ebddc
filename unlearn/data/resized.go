package data

import (
	"context"
	"image"

	"l2ul/unlearn/data/resample"
)

// resized are images of a set of pixels in another size, made when they are asked for: all of CIFAR at 224 x 224 would take 9 GB.
type resized struct {
	of     *Set
	plan   *resample.Plan
	source Source
}

// resize gives a set of pixels the size that source asks for, as that of image files is.
func resize(of *Set, source Source) (*Set, error) {
	p := source.Preprocess
	if of.C != 3 {
		return nil, inputf(source.Dir, "images of %d channels cannot be resized, only those of red, green and blue", of.C)
	}
	set := &Set{
		Dataset: of.Dataset, Split: of.Split, Classes: of.Classes, C: 3, H: p.Crop, W: p.Crop, Labels: of.Labels, Names: of.Names,
		lazy: &resized{of, p.plan(of.W, of.H), source},
	}
	set.once.Do(func() { set.fingerprint = set.lazyFingerprint(of.Fingerprint(), p) })
	return set, nil
}

func (*resized) decodes() bool { return true }

func (r *resized) read(dst []byte, set *Set, indices []int) error {
	size := 3 * set.H * set.W
	return r.source.each(context.Background(), len(indices), func(i int) error {
		planes := pixelBuffers.get(3 * r.of.H * r.of.W)
		defer pixelBuffers.put(planes)
		if err := r.of.Read(planes, indices[i:i+1]); err != nil {
			return err
		}
		part := r.plan.Source()
		pixels := pixelBuffers.get(4 * part.Dx() * part.Dy())
		defer pixelBuffers.put(pixels)
		interleave(pixels, planes, r.of.W, r.of.H, part)
		r.plan.Apply(dst[i*size:(i+1)*size], pixels)
		return nil
	})
}

// interleave writes the pixels of a part of three planes, four bytes each, the last of which means nothing.
func interleave(dst, planes []byte, width, height int, part image.Rectangle) {
	area := width * height
	at := 0
	for y := part.Min.Y; y < part.Max.Y; y++ {
		for x := part.Min.X; x < part.Max.X; x++ {
			from := y*width + x
			dst[at], dst[at+1], dst[at+2], dst[at+3] = planes[from], planes[area+from], planes[2*area+from], 0
			at += 4
		}
	}
}
