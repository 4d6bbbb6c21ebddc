package data

import (
	"fmt"
	"testing"
)

func TestImageNetA(t *testing.T) {
	var names, classes []string
	var labels []int
	var grey []byte
	for c := range 200 {
		classes = append(classes, fmt.Sprintf("n%08d", 7*c))
		names = append(names, classes[c]+"/0.1_fox_0.5.jpg")
		labels, grey = append(labels, c), append(grey, byte(c))
	}
	files := with(painted(t, names...), "README.txt", "200 wnids")
	checkLayout(t, "imagenet-a", Source{Dir: writeTree(t, files)}, classes, layout{"train", names, labels, grey}, layout{"test", names, labels, grey})
	delete(files, names[17])
	refuses(t, "imagenet-a", Source{Dir: writeTree(t, files)}, "test", "199 classes")
}
