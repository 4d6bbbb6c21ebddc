package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"l2ul/unlearn/data/resample"
)

// Sets of pixels are resized to what Pillow and torchvision make of the same images.
func TestResizedSets(t *testing.T) {
	r := readReference(t)
	compared := 0
	for _, d := range r.Drawn {
		area := d.Width * d.Height
		of := &Set{Dataset: "drawn", Split: "train", Classes: []string{"one"}, C: 3, H: d.Height, W: d.Width, Labels: []int{0, 0}, Pixels: make([]byte, 6*area)}
		for y := range d.Height {
			for x := range d.Width {
				for c := range 3 { // as preprocess.py draws
					of.Pixels[(3+c)*area+y*d.Width+x] = byte((7*x*x + 13*y*(c+1) + 5*x*y + 91*c) ^ (x * y / 4))
				}
			}
		}
		for i, p := range r.Settings {
			set, err := resize(of, Source{Preprocess: p})
			if err != nil {
				t.Fatal(err)
			}
			size := 3 * p.Crop * p.Crop
			pixels := make([]byte, 2*size)
			if err := set.Read(pixels, []int{1, 0}); err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(pixels[:size]); hex.EncodeToString(sum[:]) != d.Sums[i] {
				t.Errorf("%d x %d, %v: the pixels are not torchvision's", d.Width, d.Height, p)
			}
			for _, v := range pixels[size:] {
				if v != 0 {
					t.Fatalf("%d x %d, %v: a black image is not black", d.Width, d.Height, p)
				}
			}
			if set.Fingerprint() == of.Fingerprint() {
				t.Errorf("%v: the fingerprint is that of the images as they were", p)
			}
			compared++
		}
	}
	if compared < 40 {
		t.Errorf("%d comparisons", compared)
	}
}

// A dataset of pixels gets the size that is asked for, images of one channel get none.
func TestOpenResized(t *testing.T) {
	p := Preprocess{Resize: 40, Crop: 36, Filter: resample.Bilinear}
	sets, err := Open(t.Context(), "shapes", Source{Preprocess: p}, "test")
	if err != nil {
		t.Fatal(err)
	}
	if sets[0].H != 36 || sets[0].W != 36 || sets[0].Pixels != nil {
		t.Errorf("%d x %d pixels", sets[0].H, sets[0].W)
	}
	before, err := Open(context.Background(), "shapes", Source{}, "test")
	if err != nil {
		t.Fatal(err)
	}
	grey := &Set{C: 1, H: 2, W: 2, Pixels: make([]byte, 4), Labels: []int{0}}
	_, err = resize(grey, Source{Preprocess: p})
	if wrong := (*InputError)(nil); !errors.As(err, &wrong) {
		t.Errorf("one channel: %v", err)
	}
	if before[0].Len() != sets[0].Len() {
		t.Errorf("%d images became %d", before[0].Len(), sets[0].Len())
	}
}
