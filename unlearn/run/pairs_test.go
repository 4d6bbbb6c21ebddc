package run

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePairs(t *testing.T) {
	two, err := parsePairs("# source, target\n3,1\n\n 1 , 2\n")
	if err != nil || !slices.Equal(two.sources, []int64{3, 1}) || !slices.Equal(two.targets, []int64{1, 2}) || two.repeats != nil {
		t.Errorf("%+v, %v", two, err)
	}
	three, err := parsePairs("3,0,1\n3,5,2\n")
	if err != nil || !slices.Equal(three.repeats, []int64{0, 5}) || !slices.Equal(three.targets, []int64{1, 2}) {
		t.Errorf("%+v, %v", three, err)
	}
	for text, want := range map[string]string{
		"3,1\nthree,1\n": "line 2: \"three,1\" is not", "3": "line 1", "1,2,3,4": "line 1", "1,2\n1,2,3\n": "line 2: 3 numbers where the lines before have 2",
		"99999999999999999999,1": "line 1",
	} {
		if _, err := parsePairs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParsePairs(f *testing.F) {
	f.Add("3,1\n# x\n1,2")
	f.Add("3,0,1\n3,1,2")
	f.Fuzz(func(t *testing.T, text string) {
		in, err := parsePairs(text)
		if err == nil && (len(in.sources) != len(in.targets) || in.repeats != nil && len(in.repeats) != len(in.targets)) {
			t.Errorf("%q: %+v", text, in)
		}
	})
}
