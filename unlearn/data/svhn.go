package data

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

func init() {
	Register(Dataset{
		Name:    "svhn",
		Summary: "SVHN, cropped digits: train_32x32.mat and test_32x32.mat",
		Files:   true,
		Downloads: []Download{
			{"http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"},
			{"http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"},
		},
		Resembles: func(_ context.Context, l look) bool { return l.has("train_32x32.mat") },
		Open:      openSVHN,
	})
}

func openSVHN(_ context.Context, src Source, splits []string) ([]*Set, error) {
	names := map[string]string{"train": "train_32x32.mat", "test": "test_32x32.mat"}
	f := src.folder()
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		name, ok := names[split]
		if !ok {
			return nil, unknownSplit("svhn", split, names)
		}
		content, err := f.read(name)
		if err != nil {
			return nil, err
		}
		s := &Set{Dataset: "svhn", Split: split, Classes: []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, C: 3, H: svhnSize, W: svhnSize}
		if s.Pixels, s.Labels, err = parseSVHN(content); err != nil {
			return nil, &InputError{Path: f.path(name), Err: err}
		}
		sets[i] = s
	}
	return sets, nil
}

const svhnSize = 32

// parseSVHN reads the images X, uint8 [32, 32, 3, n], and the labels y, n numbers of 1 to 10, of which 10 is the digit 0
// (http://ufldl.stanford.edu/housenumbers, format 2).
func parseSVHN(content []byte) (pixels []byte, labels []int, err error) {
	var digits []float64
	err = matArrays(content, func(m matArray) (done bool, err error) {
		switch m.name {
		case "X":
			pixels, err = m.svhnImages()
		case "y":
			digits, err = m.numbers()
		}
		if err != nil {
			err = fmt.Errorf("array %s: %w", m.name, err)
		}
		return pixels != nil && digits != nil, err
	})
	if err != nil {
		return nil, nil, err
	}
	if pixels == nil || digits == nil {
		return nil, nil, errors.New("it lacks the array of images, X, or that of labels, y")
	}
	if n := len(pixels) / (3 * svhnSize * svhnSize); len(digits) != n {
		return nil, nil, fmt.Errorf("%d labels for %d images", len(digits), n)
	}
	labels = make([]int, len(digits))
	for i, y := range digits {
		if labels[i] = int(y) % 10; y != float64(int(y)) || y < 0 || y > 10 {
			return nil, nil, fmt.Errorf("image %d has label %v, which is none of 1 to 10", i, y)
		}
	}
	return pixels, labels, nil
}

// svhnImages returns the images in NCHW order.
func (m matArray) svhnImages() ([]byte, error) {
	if m.class != matUint8Array || len(m.shape) != 4 || !slices.Equal(m.shape[:3], []int{svhnSize, svhnSize, 3}) {
		return nil, fmt.Errorf("class %d of shape %d, need uint8 of [%d %d 3 n]", m.class, m.shape, svhnSize, svhnSize)
	}
	e, _, err := matElement(m.rest)
	if err != nil {
		return nil, err
	}
	if e.kind != matUint8 || len(e.data) != m.count {
		return nil, fmt.Errorf("%d bytes of kind %d for %d pixels", len(e.data), e.kind, m.count)
	}
	return byRows(e.data, svhnSize), nil
}

// byRows turns square planes that are stored column by column into such by rows.
func byRows(planes []byte, size int) []byte {
	out := make([]byte, len(planes))
	for at := 0; at < len(planes); at += size * size {
		for x := range size {
			for y := range size {
				out[at+y*size+x] = planes[at+x*size+y]
			}
		}
	}
	return out
}
