package data

import (
	"fmt"
	"slices"
	"testing"
)

func TestUTKFace(t *testing.T) {
	// numpy.random.RandomState(0).permutation(10) is 2 8 4 9 1 6 7 3 0 5.
	ages := []int{0, 100, 116, 19, 20, 40, 41, 5, 60, 9}
	var names []string
	for _, age := range ages { // sorted as texts
		names = append(names, fmt.Sprintf("%d_1_2_20170109150557335.jpg.chip.jpg", age))
	}
	if !slices.IsSorted(names) {
		t.Fatal("the names are not sorted")
	}
	dir := writeTree(t, painted(t, names...))
	at := func(indices ...int) (l layout) {
		for _, i := range indices {
			l.names, l.grey = append(l.names, names[i]), append(l.grey, byte(i))
		}
		return l
	}
	train, val, test := at(2, 8, 4, 9, 1, 6, 7, 3), at(0), at(5)
	train.split, val.split, test.split = "train", "val", "test"
	train.labels, val.labels, test.labels = []int{2, 2, 1, 0, 2, 2, 0, 0}, []int{0}, []int{1}
	checkLayout(t, "utkface", Source{Dir: dir}, []string{"0-19", "20-40", "41-119"}, train, val, test)
	train.labels = []int{3, 3, 1, 0, 3, 2, 0, 0}
	checkLayout(t, "utkface-balanced", Source{Dir: dir}, []string{"0-19", "20-29", "30-44", "45-119"}, train)

	for _, name := range []string{"120_1_2_x.jpg", "x_1.jpg", "-1_1.jpg"} {
		files := painted(t, names[1:]...)
		files[name] = files[names[2]]
		dir := writeTree(t, files)
		for _, split := range []string{"train", "val", "test"} { // whose of them has it
			if _, err := Open(t.Context(), "utkface", Source{Dir: dir, Preprocess: small}, split); err != nil {
				refuses(t, "utkface", Source{Dir: dir}, split, name, "an age of 0 to 119")
				files = nil
			}
		}
		if files != nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Every age has the class of its group, in all groupings.
func TestAgeGroups(t *testing.T) {
	for _, g := range utkGroupings {
		for age := range 120 {
			want := 0
			for ; age >= g.edges[want+1]; want++ {
			}
			if got, err := ageGroup(fmt.Sprintf("%d_0_0_1.jpg", age), g.edges); got != want || err != nil {
				t.Errorf("grouping %q, age %d: class %d, %v; want %d", g.suffix, age, got, err, want)
			}
		}
	}
}

// The orders are numpy's, printed by testdata/make.py.
func TestLegacyPermutation(t *testing.T) {
	for n, want := range map[int][]int{
		1: {0}, 2: {1, 0}, 10: {2, 8, 4, 9, 1, 6}, 23708: {15426, 14084, 22319, 19518, 2255, 18658},
	} {
		if got := legacyPermutation(n, 0); !slices.Equal(got[:len(want)], want) {
			t.Errorf("of %d: %v, want %v", n, got[:len(want)], want)
		}
	}
	if got := legacyPermutation(23708, 0); got[23706] != 10799 || got[23707] != 2732 {
		t.Errorf("the last are %v", got[23706:])
	}
}
