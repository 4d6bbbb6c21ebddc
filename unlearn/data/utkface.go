package data

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn/data/resample"
)

// UTKFace (Zhang, Song and Qi, "Age progression/regression by conditional adversarial autoencoder", 2017): faces whose file
// names begin with the age. Classes are groups of ages; spec/l2ul.md section 6 names five ways to group them, and the split.
var utkGroupings = []struct {
	suffix string
	edges  []int // class j is of ages from edge j to below edge j+1
}{
	{"", []int{0, 20, 41, 120}}, // MFD, the default
	{"-tnn", []int{0, 10, 15, 20, 25, 30, 40, 50, 60, 120}},
	{"-balanced", []int{0, 20, 30, 45, 120}},
	{"-groups", []int{0, 4, 13, 20, 31, 46, 61, 120}},
	{"-tens", []int{0, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 120}},
}

func init() {
	for _, g := range utkGroupings {
		name := "utkface" + g.suffix
		Register(Dataset{
			Name:    name,
			Summary: fmt.Sprintf("UTKFace from the folder of its images, AGE_…jpg; %d classes of ages from %s", len(g.edges)-1, strings.Trim(fmt.Sprint(g.edges[:len(g.edges)-1]), "[]")),
			Files:   true,
			Sized:   true,

			Preprocess: Preprocess{Resize: 128, Crop: 120, Filter: resample.Bilinear},
			Margin:     4,

			Resembles: func(_ context.Context, l look) bool { return g.suffix == "" && l.faces() },

			Open: func(ctx context.Context, src Source, splits []string) ([]*Set, error) {
				return openUTKFace(ctx, name, g.edges, src, splits)
			},
		})
	}
}

// utkName is the name of an image: age, gender, race.
var utkName = regexp.MustCompile(`^[0-9]+_[01]_[0-4]_`)

// faces reports whether the first images of a folder have UTKFace's names.
func (l look) faces() bool {
	if l.file != "" {
		return false
	}
	entries, err := l.list(".")
	return err == nil && len(entries) > 0 && !slices.ContainsFunc(entries[:min(10, len(entries))], func(e os.DirEntry) bool { return !utkName.MatchString(e.Name()) })
}

func openUTKFace(ctx context.Context, dataset string, edges []int, src Source, splits []string) ([]*Set, error) {
	f, err := src.tree(ctx, nil, func(f folder) bool { return look{folder: f}.faces() })
	if err != nil {
		return nil, err
	}
	names, err := f.images(".")
	if err != nil {
		return nil, err
	}
	if len(names) < 10 {
		return nil, inputf(f.dir, "%d images in it; the layout is AGE_GENDER_RACE_DATE.jpg, all in one folder", len(names))
	}
	// Four fifths, and the halves of the rest.
	n := len(names)
	train := n * 4 / 5
	val := train + (n-train)/2
	bounds := map[string][2]int{"train": {0, train}, "val": {train, val}, "test": {val, n}}
	order := legacyPermutation(n, 0)
	var classes []string
	for j := range len(edges) - 1 {
		classes = append(classes, fmt.Sprintf("%d-%d", edges[j], edges[j+1]-1))
	}
	for _, split := range splits {
		if _, ok := bounds[split]; !ok {
			return nil, unknownSplit(dataset, split, bounds)
		}
	}
	return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		s := &imageSplit{dataset: dataset, name: split, classes: classes, files: f}
		for _, i := range order[bounds[split][0]:bounds[split][1]] {
			label, err := ageGroup(names[i], edges)
			if err != nil {
				return nil, &InputError{Path: f.path(names[i]), Err: err}
			}
			s.names, s.labels = append(s.names, names[i]), append(s.labels, label)
		}
		return s, nil
	})
}

// ageGroup is the class of an image by its name.
func ageGroup(name string, edges []int) (int, error) {
	text, _, _ := strings.Cut(name, "_")
	age, err := strconv.Atoi(text)
	last := edges[len(edges)-1]
	if err != nil || age < 0 || age >= last {
		return 0, fmt.Errorf("the name does not begin with an age of 0 to %d and _", last-1)
	}
	at, found := slices.BinarySearch(edges, age)
	if !found {
		at--
	}
	return at, nil
}
