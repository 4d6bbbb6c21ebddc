package data

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// smallSet has 12 images of 1x1 pixels, labels i mod 3, and names "train/<class>/<i/3>.png".
func smallSet() *Set {
	s := &Set{Dataset: "small", Split: "train", Classes: []string{"ant", "bee", "c:d"}, C: 3, H: 1, W: 1}
	for i := range 12 {
		s.Pixels = append(s.Pixels, byte(i), byte(i>>8), 7)
		s.Labels = append(s.Labels, i%3)
		s.Names = append(s.Names, fmt.Sprintf("train/%s/%d.png", s.Classes[i%3], i/3))
	}
	return s
}

func resolve(t *testing.T, spec string, set *Set, seed int64) (*ForgetSet, error) {
	t.Helper()
	s, err := ParseSpec(spec)
	if err != nil {
		return nil, err
	}
	if s.String() != spec {
		t.Errorf("spec %q prints as %q", spec, s)
	}
	return s.Resolve(set, seed)
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestResolve(t *testing.T) {
	set := smallSet()
	names := writeFile(t, "# what to forget\ntrain/bee/0.png\n\n  c:d/1.png\r\n./ant/3.png")
	for _, tc := range []struct {
		spec string
		want []int
	}{
		{"random:12", randperm(12, 12, 5)},
		{"random:3", randperm(12, 12, 5)[:3]},
		{"class:bee:2+class:0:3", []int{1, 4, 0, 3, 6}},
		{"class:bee:2+class:bee:1", []int{1, 4, 7}},
		{"ids:9,5+class:0", []int{9, 5, 0, 3, 6}},
		{"random:5+random:3", randperm(12, 8, 5)},
		{"random:4+ids:" + fmt.Sprint(randperm(12, 12, 5)[11]), append(randperm(12, 4, 5), randperm(12, 12, 5)[11])},
		{"class:1", []int{1, 4, 7, 10}},
		{"class:bee", []int{1, 4, 7, 10}},
		{"class:bee:2", []int{1, 4}},
		{"class:c:d:3", []int{2, 5, 8}},
		{"class:0:1", []int{0}},
		{"ids:9,1,5", []int{9, 1, 5}},
		{"ids: 0", []int{0}},
		{"@" + names, []int{1, 5, 9}},
	} {
		f, err := resolve(t, tc.spec, set, 5)
		if err != nil {
			t.Errorf("%s: %v", tc.spec, err)
			continue
		}
		want := &ForgetSet{
			Schema: "unlearn.forget/1", Dataset: "small", Split: "train", N: 12, Indices: tc.want,
			Spec: tc.spec, Seed: 5, DataHash: set.Fingerprint(),
		}
		if strings.HasPrefix(tc.spec, "@") {
			want.Seed = 0
		}
		for _, i := range tc.want {
			want.Labels = append(want.Labels, i%3)
			want.Names = append(want.Names, fmt.Sprintf("train/%s/%d.png", []string{"ant", "bee", "c:d"}[i%3], i/3))
		}
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.spec, diff)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	set := smallSet()
	unnamed := smallSet()
	unnamed.Names = nil
	for _, tc := range []struct {
		spec  string
		set   *Set
		usage bool // else an input error
		says  string
	}{
		{"", set, true, "random:K"},
		{"all", set, true, `"all"`},
		{"random", set, true, "random:K"},
		{"random:0", set, true, "at least 1"},
		{"random:-4", set, true, "-4"},
		{"random:x", set, true, `"x"`},
		{"random:13", set, true, "only 12"},
		{"class:", set, true, "name a class"},
		{"class::3", set, true, "name a class"},
		{"class:3", set, true, "0 to 2: ant, bee, c:d"},
		{"class:-1", set, true, `"-1"`},
		{"class:cow", set, true, `"cow"`},
		{"class:bee:0", set, true, "at least 1"},
		{"class:bee:5", set, true, "has 4 samples"},
		{"ids:", set, true, "no sample index"},
		{"ids:1,,2", set, true, "no sample index"},
		{"ids:1;2", set, true, `"1;2"`},
		{"ids:12", set, true, "index 12"},
		{"ids:-1", set, true, "index -1"},
		{"ids:3,4,3", set, true, "index 3 stands in it twice"},
		{"@", set, true, "name a file"},
		{"@/does/not/exist", set, false, "/does/not/exist"},
		{"@" + writeFile(t, "# nothing\n"), set, false, "no file names"},
		{"@" + writeFile(t, "bee/0.png\n0.png\n"), set, false, "line 2: several samples"},
		{"@" + writeFile(t, "bee/99.png\n"), set, false, "line 1"},
		{"@" + writeFile(t, "bee/0.png\ntrain/bee/0.png"), set, false, `line 2: the sample "train/bee/0.png" is that of line 1`},
		{"@" + writeFile(t, "bee/0.png\n"), unnamed, false, "no file names"},
	} {
		_, err := resolve(t, tc.spec, tc.set, 0)
		var usage *UsageError
		var input *InputError
		if tc.usage && !errors.As(err, &usage) || !tc.usage && !errors.As(err, &input) {
			t.Errorf("%q: error %v (%T), want usage error: %v", tc.spec, err, err, tc.usage)
			continue
		}
		if !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: message %q does not say %q", tc.spec, err, tc.says)
		}
	}
}

func TestForgetSetFile(t *testing.T) {
	set := smallSet()
	made, err := resolve(t, "random:4", set, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, targets := range [][]int{nil, {(made.Labels[0] + 1) % 3, (made.Labels[1] + 1) % 3, (made.Labels[2] + 2) % 3, (made.Labels[3] + 1) % 3}} {
		if targets != nil {
			if err := made.SetTargets(targets, 3); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "forget.json")
		if err := made.Write(path); err != nil {
			t.Fatal(err)
		}
		read, err := resolve(t, "@"+path, set, 99)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(made, read); diff != "" {
			t.Errorf("what was read differs from what was written (-written +read):\n%s", diff)
		}
		if made.Hash() != read.Hash() {
			t.Error("hashes differ")
		}
	}
	set.Names[made.Indices[0]] = "train/\xff.png" // which JSON cannot say
	if nameless, err := resolve(t, "random:4", set, 3); err != nil || nameless.Names != nil {
		t.Errorf("%+v, %v", nameless, err)
	}
	plain, _ := resolve(t, "random:4", set, 3)
	if plain.Hash() == made.Hash() {
		t.Error("the hash does not see the targets")
	}
	if err := made.Write(filepath.Join(t.TempDir(), "no", "folder")); err == nil {
		t.Error("writing into a missing folder succeeded")
	}
}

func TestForgetSetByHand(t *testing.T) {
	set := smallSet()
	path := writeFile(t, `{"schema":"unlearn.forget/1","indices":[7,2],"note":"unknown fields are for later versions"}`)
	f, err := resolve(t, "@"+path, set, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Labels, []int{1, 2}) || !slices.Equal(f.Names, []string{"train/bee/2.png", "train/c:d/0.png"}) || f.DataHash != set.Fingerprint() || f.N != 12 || f.Spec != "@"+path {
		t.Errorf("what was left out is not filled in: %+v", f)
	}
}

func TestForgetSetErrors(t *testing.T) {
	set := smallSet()
	for _, tc := range []struct{ content, says string }{
		{`{`, "not JSON"},
		{`{"schema":"unlearn.forget/1","indices":[1]} {}`, "more than one"},
		{`{"schema":"unlearn.forget/2","indices":[1]}`, `"unlearn.forget/2"`},
		{`{"indices":[1]}`, "schema"},
		{`{"schema":"unlearn.forget/1"}`, "no indices"},
		{`{"schema":"unlearn.forget/1","indices":["a"]}`, "indices"},
		{`{"schema":"unlearn.forget/1","indices":[1.5]}`, "indices"},
		{`{"schema":"unlearn.forget/1","indices":[12]}`, "index 12"},
		{`{"schema":"unlearn.forget/1","indices":[1,1]}`, "twice"},
		{`{"schema":"unlearn.forget/1","indices":[1],"n":13}`, "13 samples"},
		{`{"schema":"unlearn.forget/1","indices":[1],"split":"test"}`, `split "test"`},
		{`{"schema":"unlearn.forget/1","indices":[1],"labels":[1,2]}`, "2 labels for 1"},
		{`{"schema":"unlearn.forget/1","indices":[1],"names":["train/bee/0.png","a"]}`, "2 names for 1"},
		{`{"schema":"unlearn.forget/1","indices":[1],"names":["train/ant/0.png"]}`, "sample 1 is train/ant/0.png there and train/bee/0.png in the data"},
		{`{"schema":"unlearn.forget/1","indices":[1],"labels":[2]}`, "label 2 there and 1 in the data"},
		{`{"schema":"unlearn.forget/1","indices":[1],"targets":[1]}`, "true label"},
		{`{"schema":"unlearn.forget/1","indices":[1],"targets":[3]}`, "no class"},
		{`{"schema":"unlearn.forget/1","indices":[1],"targets":[0,2]}`, "2 targets for 1"},
		{`{"schema":"unlearn.forget/1","indices":[1],"data_hash":"0123456789abcdef"}`, "other data"},
	} {
		path := writeFile(t, tc.content)
		var input *InputError
		_, err := resolve(t, "@"+path, set, 0)
		if !errors.As(err, &input) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file and say %q", tc.content, err, tc.says)
		}
	}
}

func TestComplement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "n")
		forget := randperm(n, rapid.IntRange(0, n).Draw(t, "k"), 1)
		retain := Complement(n, forget)
		both := slices.Concat(forget, retain)
		slices.Sort(both)
		if !slices.IsSorted(retain) || !slices.Equal(both, upTo(n)) {
			t.Fatalf("forget %v and retain %v are no partition of %d", forget, retain, n)
		}
	})
}

func FuzzSpec(f *testing.F) {
	for _, spec := range []string{"random:3", "class:1:2", "class:c:d", "ids:1,5,9", "ids:-1", "random:99999999999999999999", "class:", "random:3+class:1:2", "class:a+b+ids:1"} {
		f.Add(spec, int64(1))
	}
	set := smallSet()
	f.Fuzz(func(t *testing.T, text string, seed int64) {
		spec, err := ParseSpec(text)
		if err != nil || spec.file != "" {
			return
		}
		forget, err := spec.Resolve(set, seed)
		if err != nil {
			return
		}
		if len(forget.Indices) == 0 || len(Complement(set.Len(), forget.Indices)) != set.Len()-len(forget.Indices) {
			t.Errorf("%q: indices %v", text, forget.Indices)
		}
	})
}

// Samples and the labels that they are to get, as people keep them.
func TestResolveTable(t *testing.T) {
	set := smallSet()
	resolveCSV := func(content string) (*ForgetSet, error) {
		path := filepath.Join(t.TempDir(), "labels.csv")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return resolve(t, "@"+path, set, 0)
	}
	for content, want := range map[string][2][]int{
		"index,label\n7,2\n2,ant\n":                                   {{7, 2}, {2, 0}},
		"\ufeffname,label\r\ntrain/bee/0.png,c:d\r\nant/3.png, 1\r\n": {{1, 9}, {2, 1}},
	} {
		f, err := resolveCSV(content)
		if err != nil || !slices.Equal(f.Indices, want[0]) || !slices.Equal(f.Targets, want[1]) {
			t.Errorf("%q: %+v, %v", content, f, err)
		}
	}
	for content, want := range map[string]string{
		"7,2\n":                     `its first line must be "index,label" or "name,label"`,
		"index,label\n":             "no samples in it",
		"index,label\n7\n":          "wrong number of fields",
		"index,label\nseven,2\n":    `row 1: "seven" is no sample index`,
		"index,label\n7,wasp\n":     `row 1: no class "wasp"; the classes are 0 to 2: ant, bee, c:d`,
		"index,label\n7,2\n7,0\n":   "index 7 stands in it twice",
		"index,label\n99,2\n":       "index 99 is outside the train split",
		"index,label\n7,bee\n":      "target 1 of sample 7 is its true label",
		"name,label\nbee/9.png,0\n": `no sample of the train split is named "bee/9.png"`,
		"name,label\n\"a\nb\",0\n":  "is no file name",
		"":                          "its first line must be",
	} {
		var bad *InputError
		if _, err := resolveCSV(content); !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestMixedSpecsThatCannotBe(t *testing.T) {
	for spec, want := range map[string]string{
		"random:3+class:":       "name a class",
		"random:10+random:3":    "has only 12 samples",
		"class:0:3+class:0:2":   `class "0" has only 1 samples that the parts before it leave`,
		"ids:1+ids:1":           "index 1 stands in it twice",
		"random:3+@names.txt":   `"3+@names.txt" is no number of samples`,
		"random:2+class:wasp:1": `no class "wasp"`,
		"class:0+class:0:1":     `class "0" has only 0 samples`,
	} {
		var bad *UsageError
		if _, err := resolve(t, spec, smallSet(), 5); !errors.As(err, &bad) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func FuzzTable(f *testing.F) {
	set := smallSet()
	f.Add([]byte("index,label\n7,2\n2,ant\n"))
	f.Add([]byte("name,label\ntrain/bee/0.png,0\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		forget, err := Spec{file: "fuzz.csv"}.resolveTable(content, set)
		if err != nil {
			return
		}
		for i, n := range forget.Indices {
			if forget.Targets[i] == set.Labels[n] {
				t.Errorf("sample %d is to get its own label", n)
			}
		}
	})
}

func FuzzForgetSet(f *testing.F) {
	set := smallSet()
	f.Add([]byte(`{"schema":"unlearn.forget/1","indices":[7,2],"labels":[1,2],"targets":[0,0],"n":12,"split":"train"}`))
	f.Add([]byte(`{"schema":"unlearn.forget/1","indices":[7,2],"data_hash":"` + set.Fingerprint() + `"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		forget, err := readForgetSet("fuzz", content, set)
		if err != nil {
			return
		}
		if len(forget.Labels) != len(forget.Indices) || forget.DataHash != set.Fingerprint() {
			t.Errorf("inconsistent: %+v", forget)
		}
	})
}
