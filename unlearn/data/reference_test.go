package data

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// fixture is a file of testdata, which scripts/golden/datasets.py wrote.
func fixture(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// fixtures are such files by the last parts of their names.
func fixtures(t testing.TB, names ...string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range names {
		files[path.Base(name)] = fixture(t, name)
	}
	return files
}

// expected is what the library that people read a dataset with in Python makes of a split.
type expected struct {
	Labels []int    `json:"labels"`
	Size   [2]int   `json:"size"`   // height and width
	Pixels []string `json:"pixels"` // sha256 of each image as planar RGB
}

// checkReference compares splits with those of testdata/datasets.json, and the name of the fourth class.
func checkReference(t *testing.T, dataset string, src Source, name, class string) {
	t.Helper()
	var all map[string]map[string]expected
	if err := json.Unmarshal([]byte(fixture(t, "datasets.json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all[name]) == 0 {
		t.Fatalf("datasets.json has no %s", name)
	}
	for split, want := range all[name] {
		sets, err := Open(t.Context(), dataset, src, split)
		if err != nil {
			t.Errorf("%s from %s: %v", dataset, src.Dir, err)
			continue
		}
		s := sets[0]
		if s.Dataset != dataset || s.Split != split || s.C != 3 || [2]int{s.H, s.W} != want.Size || s.Classes[3] != class || !slices.Equal(s.Labels, want.Labels) {
			t.Errorf("%s %s: %dx%dx%d, labels %v, want %v of %v; class 3 is %q, want %q", dataset, s.Split, s.C, s.H, s.W, s.Labels, want.Labels, want.Size, s.Classes[3], class)
			continue
		}
		pixels := make([]byte, s.C*s.H*s.W)
		for i := range s.Len() {
			if err := s.Read(pixels, []int{i}); err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(pixels); hex.EncodeToString(sum[:]) != want.Pixels[i] {
				t.Errorf("%s %s: the pixels of image %d are not those of the reference", dataset, split, i)
			}
		}
	}
}
