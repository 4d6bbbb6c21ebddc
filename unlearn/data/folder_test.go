package data

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func encodePNG(t testing.TB, img image.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// plainPNG is an image of one colour.
func plainPNG(t testing.TB, width, height int, c color.Color) string {
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, c)
		}
	}
	return encodePNG(t, img)
}

func writeTree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// packTar packs files in a shuffled order, compressed as the suffix of name says, and returns the path.
func packTar(t testing.TB, name string, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for member, content := range files {
		header := &tar.Header{Name: member, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	packed := plain.Bytes()
	switch filepath.Ext(name) {
	case ".gz":
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(packed)
		_ = z.Close()
		packed = b.Bytes()
	case ".zst":
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		packed = z.EncodeAll(packed, nil)
	}
	if err := os.WriteFile(path, packed, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func smallTree(t testing.TB) map[string]string {
	jpg, err := os.ReadFile("jpeg/testdata/grey.jpg") // 37 x 23
	if err != nil {
		t.Fatal(err)
	}
	blue := plainPNG(t, 37, 23, color.NRGBA{1, 2, 250, 255})
	return map[string]string{
		"README":            "not an image",
		"train/bee/10.png":  blue,
		"train/bee/9.JPEG":  string(jpg),
		"train/ant/z.jpg":   blue, // a PNG by another name, as in ImageNet
		"train/ant/a.jpg":   string(jpg),
		"train/ant/.a.jpg":  "hidden",
		"train/ant/note":    "not an image",
		"val/ant/v.png":     blue,
		"test/bee/t.png":    blue,
		"test/.cache/t.png": "hidden",
	}
}

func TestImageFolder(t *testing.T) {
	files := smallTree(t)
	prefixed := map[string]string{}
	for name, content := range files {
		prefixed["./some/where/"+name] = content
	}
	for _, source := range []string{
		writeTree(t, files),
		packTar(t, "a.tar", files), packTar(t, "a.tar.gz", files), packTar(t, "a.tar.zst", prefixed),
	} {
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: source}, "test", "train", "val")
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		test, train, val := sets[0], sets[1], sets[2]
		if diff := cmp.Diff([]string{"train/ant/a.jpg", "train/ant/z.jpg", "train/bee/10.png", "train/bee/9.JPEG"}, train.Names); diff != "" {
			t.Errorf("%s: names (-want +got):\n%s", source, diff)
		}
		if !slices.Equal(train.Labels, []int{0, 0, 1, 1}) || !slices.Equal(train.Classes, []string{"ant", "bee"}) ||
			train.C != 3 || train.H != 23 || train.W != 37 {
			t.Errorf("%s: labels %v, classes %v, %dx%dx%d", source, train.Labels, train.Classes, train.C, train.H, train.W)
		}
		if !slices.Equal(test.Labels, []int{1}) || !slices.Equal(val.Labels, []int{0}) {
			t.Errorf("%s: test labels %v, val labels %v", source, test.Labels, val.Labels)
		}
		if z := train.Image(1); z[0] != 1 || z[23*37] != 2 || z[2*23*37] != 250 {
			t.Errorf("%s: pixel %d %d %d, want 1 2 250", source, z[0], z[23*37], z[2*23*37])
		}
		if !bytes.Equal(train.Image(0), train.Image(3)) || bytes.Equal(train.Image(0), train.Image(1)) {
			t.Errorf("%s: images are in the wrong places", source)
		}
	}
}

func TestImageFolderTakesValForTest(t *testing.T) {
	files := smallTree(t)
	delete(files, "test/bee/t.png")
	for _, source := range []string{writeTree(t, files), packTar(t, "a.tar", files)} {
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: source}, "test")
		if err != nil {
			t.Fatal(err)
		}
		if s := sets[0]; s.Split != "test" || !slices.Equal(s.Names, []string{"val/ant/v.png"}) {
			t.Errorf("split %q of %v", s.Split, s.Names)
		}
	}
}

func TestImageFolderErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(files map[string]string)
		says   []string
	}{
		{"no train", func(f map[string]string) {
			for name := range f {
				if strings.HasPrefix(name, "train") {
					delete(f, name)
				}
			}
		}, []string{"train/<class>/"}},
		{"no test", func(f map[string]string) { delete(f, "test/bee/t.png"); delete(f, "val/ant/v.png") }, []string{"no images under test/"}},
		{"another size", func(f map[string]string) { f["train/bee/b.png"] = plainPNG(t, 36, 23, color.White) }, []string{"train/bee/b.png", "36 x 23", "37 x 23"}},
		{"class only in test", func(f map[string]string) { f["test/cow/c.png"] = f["test/bee/t.png"] }, []string{"test/cow/c.png", `"cow"`}},
		{"truncated JPEG", func(f map[string]string) { f["train/ant/b.jpg"] = f["train/ant/a.jpg"][:400] }, []string{"train/ant/b.jpg", "at byte 39"}},
		{"truncated PNG", func(f map[string]string) { f["train/ant/b.png"] = f["test/bee/t.png"][:60] }, []string{"train/ant/b.png"}},
		{"damaged PNG", func(f map[string]string) {
			f["train/ant/b.png"] = strings.Replace(f["test/bee/t.png"], "IDAT", "IDAT\x01", 1)
		}, []string{"train/ant/b.png"}},
		{"no image", func(f map[string]string) { f["train/ant/b.png"] = "GIF89a" }, []string{"train/ant/b.png", "neither JPEG nor PNG"}},
		{"empty file", func(f map[string]string) { f["train/ant/b.png"] = "" }, []string{"train/ant/b.png", "neither"}},
		{"first is no image", func(f map[string]string) { f["train/ant/0.png"] = "GIF89a" }, []string{"train/ant/0.png", "neither"}},
		{"another format", func(f map[string]string) { f["train/ant/b.webp"] = "RIFF" }, []string{"train/ant/b.webp", "JPEG or PNG"}},
		{"too deep", func(f map[string]string) { f["train/ant/more/b.png"] = f["test/bee/t.png"] }, []string{"train/ant/more"}},
		{"16-bit grey", func(f map[string]string) {
			f["train/ant/b.png"] = encodePNG(t, image.NewGray16(image.Rect(0, 0, 37, 23)))
		}, []string{"train/ant/b.png", "16-bit"}},
	} {
		files := smallTree(t)
		tc.change(files)
		for _, source := range []string{writeTree(t, files), packTar(t, "a.tar.gz", files)} {
			_, err := Open(t.Context(), "imagefolder", Source{Dir: source}, "train", "test")
			var input *InputError
			if !errors.As(err, &input) {
				t.Errorf("%s, %s: error %v (%T)", tc.name, source, err, err)
				continue
			}
			for _, part := range append(tc.says, source) {
				if !strings.Contains(filepath.ToSlash(err.Error()), part) {
					t.Errorf("%s: %q does not say %q", tc.name, err, part)
				}
			}
		}
	}
}

func TestArchiveErrors(t *testing.T) {
	files := smallTree(t)
	cut := func(name string, keep func(n int) int) string {
		path := packTar(t, name, files)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(keep(int(info.Size())))); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inside := packTar(t, "a.tar", map[string]string{"train/ant/a.jpg": files["train/ant/a.jpg"]})
	if err := os.Truncate(inside, 512+10); err != nil { // a header and ten bytes
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, path, says string }{
		{"missing", "/does/not/exist.tar", "/does/not/exist.tar"},
		{"empty", cut("a.tar", func(int) int { return 0 }), "near byte 0"},
		{"text", writeFile(t, strings.Repeat("hello ", 1000)), "none of the archives that are read here"},
		{"a tar cut inside an image", inside, "near byte"},
		{"half a gzip", cut("a.tar.gz", func(n int) int { return n / 2 }), "near byte"},
		{"half a zstd", cut("a.tar.zst", func(n int) int { return n / 2 }), "near byte"},
		{"gzip without its checksum", cut("a.tar.gz", func(n int) int { return n - 4 }), "near byte"},
		{"zstd without its checksum", cut("a.tar.zst", func(n int) int { return n - 2 }), "near byte"},
	} {
		_, err := Open(t.Context(), "imagefolder", Source{Dir: tc.path}, "train")
		var input *InputError
		if !errors.As(err, &input) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), tc.path) {
			t.Errorf("%s: error %v does not name the file and say %q", tc.name, err, tc.says)
		}
	}
}

func TestOpenUsage(t *testing.T) {
	for _, tc := range []struct{ dataset, dir, split, says string }{
		{"cifar", "x", "train", `did you mean "cifar10"?`},
		{"cifar10", "", "train", "--data-dir"},
		{"imagefolder", "x", "validation", `"validation"`},
		{"cifar10", "x", "val", `"val"`},
		{"shapes", "", "val", `"val"`},
	} {
		_, err := Open(t.Context(), tc.dataset, Source{Dir: tc.dir}, tc.split)
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%+v: error %v", tc, err)
		}
	}
}

func TestOpenIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, source := range []Source{{Dir: writeTree(t, smallTree(t))}, {Dir: packTar(t, "a.tar", smallTree(t))}} {
		if _, err := Open(ctx, "imagefolder", source, "train"); !errors.Is(err, context.Canceled) {
			t.Errorf("folder %s: error %v", source.Dir, err)
		}
	}
	if _, err := Open(ctx, "shapes", Source{}, "train"); !errors.Is(err, context.Canceled) {
		t.Errorf("shapes: error %v", err)
	}
}

// Every kind of PNG that image/png tells apart, with the pixels of Pillow's convert("RGB").
func TestPNG(t *testing.T) {
	rect := image.Rect(0, 0, 2, 1)
	grey := image.NewGray(rect)
	copy(grey.Pix, []byte{10, 200})
	opaque := image.NewRGBA(rect)
	copy(opaque.Pix, []byte{1, 2, 3, 255, 4, 5, 6, 255})
	alpha := image.NewNRGBA(rect)
	copy(alpha.Pix, []byte{1, 2, 3, 0, 4, 5, 6, 100})
	deep := image.NewRGBA64(rect)
	copy(deep.Pix, []byte{1, 255, 2, 255, 3, 255, 255, 255, 4, 0, 5, 0, 6, 0, 255, 255})
	deepAlpha := image.NewNRGBA64(rect)
	copy(deepAlpha.Pix, []byte{1, 255, 2, 255, 3, 255, 0, 0, 4, 0, 5, 0, 6, 0, 9, 9})
	palette := image.NewPaletted(rect, color.Palette{color.NRGBA{4, 5, 6, 255}, color.NRGBA{1, 2, 3, 0}})
	palette.Pix[0] = 1
	for _, tc := range []struct {
		name string
		img  image.Image
		want []byte
	}{
		{"grey", grey, []byte{10, 200, 10, 200, 10, 200}},
		{"colour", opaque, []byte{1, 4, 2, 5, 3, 6}},
		{"alpha", alpha, []byte{1, 4, 2, 5, 3, 6}},
		{"16-bit colour", deep, []byte{1, 4, 2, 5, 3, 6}},
		{"16-bit alpha", deepAlpha, []byte{1, 4, 2, 5, 3, 6}},
		{"palette with a transparent entry", palette, []byte{1, 4, 2, 5, 3, 6}},
	} {
		dst := make([]byte, 6)
		if err := (Preprocess{}).decodeImage(dst, []byte(encodePNG(t, tc.img)), 2, 1); err != nil || !bytes.Equal(dst, tc.want) {
			t.Errorf("%s: %v, error %v; want %v", tc.name, dst, err, tc.want)
		}
	}
}

func FuzzArchive(f *testing.F) {
	for _, name := range []string{"a.tar", "a.tar.gz", "a.tar.zst"} {
		content, err := os.ReadFile(packTar(f, name, map[string]string{"train/ant/a.png": plainPNG(f, 2, 2, color.White), "test/ant/b.png": "x"}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 1<<16 {
			return
		}
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: path}, "train")
		if err == nil && sets[0].check(path) != nil {
			t.Error("an inconsistent set was accepted")
		}
	})
}

// So many workers work at the same time, and no more.
func TestWorkers(t *testing.T) {
	for _, workers := range []int{1, 3} {
		var busy, most atomic.Int64
		together := make(chan struct{}) // closed when all are busy
		err := Source{Workers: workers}.each(t.Context(), 5*workers, func(int) error {
			n := busy.Add(1)
			defer busy.Add(-1)
			if n > int64(workers) {
				most.Store(n)
			} else if n == int64(workers) && most.CompareAndSwap(0, n) {
				close(together)
			}
			<-together
			return nil
		})
		if err != nil || most.Load() != int64(workers) {
			t.Errorf("%d at work together, %d allowed: %v", most.Load(), workers, err)
		}
	}
}
