package data

import (
	"bytes"
	"fmt"
	"image/color"
	"os"
	"strings"
	"testing"
)

// A report has the hash of the set as Open has it, whatever holds the images, and counts what the test drew.
func TestCheck(t *testing.T) {
	files := smallTree(t)
	dir := writeTree(t, files)
	for _, src := range []Source{{Dir: dir}, {Dir: dir, Cache: t.TempDir()}, {Dir: packTar(t, "a.tar.zst", files)}} {
		for _, split := range []string{"train", "test"} {
			sets, err := Open(t.Context(), "imagefolder", src, split)
			if err != nil {
				t.Fatal(err)
			}
			last := [2]int{}
			r, err := Check(t.Context(), "imagefolder", src, split, func(done, total int) { last = [2]int{done, total} })
			if err != nil {
				t.Fatal(err)
			}
			if n := sets[0].Len(); r.Hash != sets[0].Fingerprint() || r.Images != n || last != [2]int{n, n} || len(r.Broken) != 0 {
				t.Errorf("%s from %s: %+v, progress %d, want %d images and hash %s", split, src.Dir, r, last, n, sets[0].Fingerprint())
			}
			for y, class := range r.Classes {
				n := 0
				for _, name := range sets[0].Names {
					if strings.HasPrefix(name, split+"/"+class.Name+"/") {
						n++
					}
				}
				if class.Images != n || class.Name != sets[0].Classes[y] {
					t.Errorf("class %d is %+v, want %q with %d images", y, class, sets[0].Classes[y], n)
				}
			}
		}
	}
}

// A lazy set has the pixels of the one that is kept, and keeps none.
func TestAskedLazy(t *testing.T) {
	src := Source{Dir: writeTree(t, smallTree(t)), Cache: t.TempDir()}
	lazy := src
	lazy.Lazy, lazy.Cache = true, t.TempDir()
	var pixels [2][]byte
	for i, s := range []Source{src, lazy} {
		sets, err := Open(t.Context(), "imagefolder", s, "train")
		if err != nil {
			t.Fatal(err)
		}
		pixels[i] = make([]byte, sets[0].bytes())
		if err := sets[0].Read(pixels[i], All(sets[0].Len())); err != nil {
			t.Fatal(err)
		}
		if kept := !sets[0].lazy.decodes(); kept == s.Lazy {
			t.Errorf("lazy %v, pixels are kept: %v", s.Lazy, kept)
		}
	}
	if left, _ := os.ReadDir(lazy.Cache); !bytes.Equal(pixels[0], pixels[1]) || len(left) != 0 {
		t.Errorf("other pixels, or the cache holds %v", left)
	}
}

// Broken images are told in the order of samples, in a folder and in an archive, and do not end the check.
func TestCheckBroken(t *testing.T) {
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("train/c%d/%02d.png", i%2, i)] = plainPNG(t, 5, 6, color.NRGBA{byte(i), 0, 0, 255})
	}
	files["train/c0/08.png"] = files["train/c0/08.png"][:60]
	files["train/c1/11.png"] = plainPNG(t, 6, 5, color.NRGBA{1, 2, 3, 255})
	files["train/c1/39.png"] = "no image"
	want := []struct {
		index      int
		name, says string
	}{
		{4, "train/c0/08.png", "unexpected EOF"}, {25, "train/c1/11.png", "6 x 5 pixels, but "}, {39, "train/c1/39.png", "neither JPEG nor PNG"},
	}
	for _, dir := range []string{writeTree(t, files), packTar(t, "a.tar", files)} {
		r, err := Check(t.Context(), "imagefolder", Source{Dir: dir, Cache: t.TempDir()}, "train", func(int, int) {})
		if err != nil {
			t.Fatal(err)
		}
		if r.Images != 40 || r.Hash != "" || len(r.Broken) != len(want) || r.Classes[1].Images != 20 {
			t.Fatalf("%+v", r)
		}
		for i, b := range r.Broken {
			if w := want[i]; b.Index != w.index || b.Name != w.name || !strings.Contains(b.Problem, w.says) {
				t.Errorf("broken image %+v, want %+v", b, w)
			}
		}
	}
}
