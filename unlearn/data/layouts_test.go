package data

import (
	"errors"
	"image/color"
	"slices"
	"strings"
	"testing"

	"l2ul/unlearn/data/resample"
)

// small is what the layouts' tests do to their images: enough to make any size one.
var small = Preprocess{Resize: 4, Crop: 4, Filter: resample.Bilinear}

// painted returns files whose images have colours by which they are told apart: the i-th is (i, i, i).
func painted(t testing.TB, names ...string) map[string]string {
	files := map[string]string{}
	for i, name := range names {
		files[name] = plainPNG(t, 5+i%3, 6, color.NRGBA{byte(i), byte(i), byte(i), 255})
	}
	return files
}

// layout is what a split of a dataset is to be.
type layout struct {
	split  string
	names  []string
	labels []int
	grey   []byte // the colour of each image
}

// checkLayout opens a dataset and compares its splits.
func checkLayout(t *testing.T, dataset string, src Source, classes []string, want ...layout) {
	t.Helper()
	src.Preprocess = small
	var splits []string
	for _, w := range want {
		splits = append(splits, w.split)
	}
	sets, err := Open(t.Context(), dataset, src, splits...)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		s := sets[i]
		if s.Dataset != dataset || s.Split != w.split || !slices.Equal(s.Classes, classes) || s.H != 4 || s.W != 4 {
			t.Errorf("%s: dataset %s, split %s, classes %q, %d x %d", w.split, s.Dataset, s.Split, s.Classes, s.W, s.H)
		}
		if !slices.Equal(s.Names, w.names) || !slices.Equal(s.Labels, w.labels) {
			t.Errorf("%s: %q with labels %v, want %q with %v", w.split, s.Names, s.Labels, w.names, w.labels)
			continue
		}
		for j := range s.Len() {
			if got := s.Image(j); got[0] != w.grey[j] || got[47] != w.grey[j] {
				t.Errorf("%s: image %d has colour %d, want %d", w.split, j, got[0], w.grey[j])
			}
		}
	}
}

// refuses opens splits that must fail with an *InputError that says all of says.
func refuses(t *testing.T, dataset string, src Source, split string, says ...string) {
	t.Helper()
	src.Preprocess = small
	_, err := Open(t.Context(), dataset, src, split)
	var input *InputError
	if !errors.As(err, &input) {
		t.Errorf("%s: error %v (%T)", dataset, err, err)
		return
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q does not say %q", dataset, err, part)
		}
	}
}

// with returns the files and others.
func with(files map[string]string, more ...string) map[string]string {
	all := map[string]string{}
	for name, content := range files {
		all[name] = content
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}
