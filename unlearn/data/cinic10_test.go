package data

import (
	"fmt"
	"testing"
)

func TestCINIC10(t *testing.T) {
	var names, classes, valid []string
	var labels []int
	for c := range 10 {
		classes, labels = append(classes, fmt.Sprintf("c%d", c)), append(labels, c)
		names = append(names, fmt.Sprintf("train/c%d/a.png", c))
		valid = append(valid, fmt.Sprintf("valid/c%d/b.png", c))
	}
	grey := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	files := painted(t, append(append(names[:10:10], valid...), "test/c3/t.png")...)
	want := []layout{
		{"train", names, labels, grey[:10]},
		{"val", valid, labels, grey[10:]},
		{"test", []string{"test/c3/t.png"}, []int{3}, []byte{20}},
	}
	checkLayout(t, "cinic10", Source{Dir: writeTree(t, files)}, classes, want...)
	checkLayout(t, "cinic10", Source{Dir: packTar(t, "CINIC-10.tar.gz", files)}, classes, want...)
	delete(files, "train/c7/a.png")
	refuses(t, "cinic10", Source{Dir: writeTree(t, files)}, "train", "9 classes under train/; cinic10 has 10")
}
