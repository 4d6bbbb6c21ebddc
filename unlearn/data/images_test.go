package data

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"l2ul/torch"
	"l2ul/unlearn/data/resample"
)

// watched counts the files that are opened.
type watched struct {
	fs.FS
	opened *atomic.Int64
}

func watch(files fs.FS) watched { return watched{files, new(atomic.Int64)} }

func (w watched) Open(name string) (fs.File, error) {
	if strings.Contains(path.Base(name), ".") {
		w.opened.Add(1)
	}
	return w.FS.Open(name)
}

func (w watched) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(w.FS, name) }
func (w watched) Stat(name string) (fs.FileInfo, error)      { return fs.Stat(w.FS, name) }

// unkept makes every set too large to be kept.
func unkept(t *testing.T) {
	before := maxKept
	maxKept = 0
	t.Cleanup(func() { maxKept = before })
}

// A set that is not kept has the pixels of one that is, in any order, and its batches too.
func TestLazy(t *testing.T) {
	names := []string{"train/a/0.png", "train/a/1.png", "train/b/2.png", "train/b/3.png"}
	dir := writeTree(t, painted(t, names...))
	open := func() *Set {
		t.Helper()
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: dir, Preprocess: small}, "train")
		if err != nil {
			t.Fatal(err)
		}
		return sets[0]
	}
	held := open()
	unkept(t)
	lazy := open()
	if lazy.Pixels != nil || !slices.Equal(lazy.Labels, held.Labels) || !slices.Equal(lazy.Names, held.Names) {
		t.Fatalf("%d bytes of pixels, labels %v, names %v", len(lazy.Pixels), lazy.Labels, lazy.Names)
	}
	order := []int{3, 0, 0, 2}
	got, want := make([]byte, 4*48), make([]byte, 4*48)
	if err := errors.Join(lazy.Read(got, order), held.Read(want, order)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other pixels, %v", err)
	}
	err := torch.Run(torch.CPU, func() error {
		a, b := NewLoader(lazy, torch.CPU, torch.Contiguous, 1<<40), NewLoader(held, torch.CPU, torch.Contiguous, 1<<40)
		defer a.Free()
		defer b.Free()
		x, y := a.Gather(order)
		u, v := b.Gather(order)
		if !torch.Equal(x, u) || !torch.Equal(y, v) {
			t.Error("other batches")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// What stands for the pixels of a set that is not kept changes with the files, their classes and what is done to them, and
// not with where they lie.
func TestLazyFingerprint(t *testing.T) {
	unkept(t)
	files := painted(t, "train/a/0.png", "train/a/1.png", "train/b/2.png")
	print := func(files map[string]string, p Preprocess) string {
		t.Helper()
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: writeTree(t, files), Preprocess: p}, "train")
		if err != nil {
			t.Fatal(err)
		}
		return sets[0].Fingerprint()
	}
	first := print(files, small)
	if again := print(files, small); again != first || len(first) != 64 {
		t.Errorf("%s, then %s of the same files", first, again)
	}
	moved, renamed, longer := with(files), with(files), with(files)
	moved["train/a/2.png"] = moved["train/b/2.png"]
	renamed["train/b/20.png"] = renamed["train/b/2.png"]
	delete(renamed, "train/b/2.png")
	longer["train/b/2.png"] += "x"
	for name, other := range map[string]string{
		"one more": print(moved, small), "another name": print(renamed, small), "another size": print(longer, small),
		"another crop": print(files, Preprocess{4, 3, resample.Bilinear}), "another filter": print(files, Preprocess{4, 4, resample.Bicubic}),
	} {
		if other == first {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
}

// A broken image is an error of who asks for it, and of nobody else.
func TestLazyBroken(t *testing.T) {
	unkept(t)
	files := with(painted(t, "train/a/0.png", "train/a/2.png"), "train/a/1.png", "GIF89a")
	dir := writeTree(t, files)
	sets, err := Open(t.Context(), "imagefolder", Source{Dir: dir, Preprocess: small}, "train")
	if err != nil {
		t.Fatal(err)
	}
	gather := func(indices ...int) error {
		return torch.Run(torch.CPU, func() error {
			l := NewLoader(sets[0], torch.CPU, torch.Contiguous, 1<<40)
			defer l.Free()
			l.Gather(indices)
			return nil
		})
	}
	if err := gather(0, 2); err != nil {
		t.Error(err)
	}
	input, ok := errors.AsType[*InputError](gather(0, 1))
	if !ok || !strings.HasSuffix(input.Path, "train/a/1.png") || !strings.Contains(input.Error(), "neither JPEG nor PNG") {
		t.Errorf("error %v", input)
	}
}

// vast is ImageNet's training set, with the same small image everywhere, made up when it is asked for.
type vast struct{ content string }

const vastClasses, vastImages = 1000, 1281

func (v vast) Open(name string) (fs.File, error) {
	return &vastContent{strings.NewReader(v.content), v.file(path.Base(name), 0)}, nil
}

type vastContent struct {
	*strings.Reader
	fs.DirEntry
}

func (c *vastContent) Stat() (fs.FileInfo, error) { return c.Info() }
func (*vastContent) Close() error                 { return nil }

func (v vast) ReadDir(name string) (entries []fs.DirEntry, err error) {
	n, form, mode := vastImages, path.Base(name)+"_%d.JPEG", fs.FileMode(0)
	switch strings.Count(name, "/") {
	case 0:
		if name != "train" {
			return nil, fs.ErrNotExist
		}
		n, form, mode = vastClasses, "n%08d", fs.ModeDir
	case 1:
	default:
		return nil, fs.ErrNotExist
	}
	for i := range n {
		entries = append(entries, v.file(fmt.Sprintf(form, i), mode))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func (v vast) Stat(name string) (fs.FileInfo, error) {
	if !strings.HasPrefix(name, "train/") {
		return nil, fs.ErrNotExist
	}
	return v.file(path.Base(name), 0).Info()
}

func (v vast) file(name string, mode fs.FileMode) fs.DirEntry {
	return fs.FileInfoToDirEntry(vastFile{name, mode, int64(len(v.content))})
}

type vastFile struct {
	name string
	mode fs.FileMode
	size int64
}

func (f vastFile) Name() string      { return f.name }
func (f vastFile) Size() int64       { return f.size }
func (f vastFile) Mode() fs.FileMode { return f.mode }
func (vastFile) ModTime() time.Time  { return time.Time{} }
func (f vastFile) IsDir() bool       { return f.mode.IsDir() }
func (vastFile) Sys() any            { return nil }

// Of 1.28 million images to forget 16 opens 16 files, after a list of them that takes seconds and little memory.
func TestVast(t *testing.T) {
	if testing.Short() {
		t.Skip("lists 1.28 million files")
	}
	files := watch(vast{plainPNG(t, 5, 6, color.White)})
	src := Source{Dir: "/imagenet", fs: files, Preprocess: Preprocess{256, 224, resample.Bilinear}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	sets, err := Open(t.Context(), "imagenet", src, "train")
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	if peak := after.Sys - before.Sys; peak > 400<<20 {
		t.Errorf("%d MiB were asked for", peak>>20)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if heap := after.HeapAlloc - before.HeapAlloc; heap > 200<<20 {
		t.Errorf("the list takes %d MiB", heap>>20)
	}
	t.Logf("listed in %v, %d MiB", took, (after.HeapAlloc-before.HeapAlloc)>>20)
	set := sets[0]
	if n := set.Len(); n != vastClasses*vastImages || set.Labels[n-1] != vastClasses-1 || files.opened.Load() != 0 {
		t.Fatalf("%d images, the last of class %d, %d opened", n, set.Labels[n-1], files.opened.Load())
	}
	spec, err := ParseSpec("random:16")
	if err != nil {
		t.Fatal(err)
	}
	forget, err := spec.Resolve(set, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = torch.Run(torch.CPU, func() error {
		l := NewLoader(set, torch.CPU, torch.Contiguous, 1<<40)
		defer l.Free()
		x, _ := l.Gather(forget.Indices)
		if x.Size(0) != 16 || x.Min().Item() != 1 {
			t.Errorf("%v images, the darkest pixel %v; all are white", x.Shape(), x.Min().Item())
		}
		return nil
	})
	if opened := files.opened.Load(); err != nil || opened != 16 {
		t.Errorf("%d files were opened for 16 images, %v", opened, err)
	}
}

// A forget set that was drawn for one size of images is good for another, and not for other files.
func TestForgetSetOfAnotherSize(t *testing.T) {
	files := map[string]string{}
	for name, content := range painted(t, "train/a/0.png", "train/a/3.png", "train/b/6.png") {
		files[name] = content
	}
	files["train/a/3.png"] = plainPNG(t, 5, 6, color.Black)
	files["train/b/6.png"] = plainPNG(t, 5, 6, color.White)
	open := func(files map[string]string, p Preprocess) *Set {
		t.Helper()
		sets, err := Open(t.Context(), "imagefolder", Source{Dir: writeTree(t, files), Preprocess: p}, "train")
		if err != nil {
			t.Fatal(err)
		}
		return sets[0]
	}
	native := open(files, Preprocess{})
	forget, err := newForgetSet(native, []int{2, 0}, "ids:2,0", 0)
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "")
	if err := forget.Write(path); err != nil {
		t.Fatal(err)
	}
	spec, err := ParseSpec("@" + path)
	if err != nil {
		t.Fatal(err)
	}
	other := open(files, small)
	if got, err := spec.Resolve(other, 0); err != nil || !slices.Equal(got.Indices, []int{2, 0}) || got.DataHash != other.Fingerprint() || got.DataHash == forget.DataHash {
		t.Errorf("%+v, %v", got, err)
	}
	files["train/b/6.png"] += "x"
	if _, err := spec.Resolve(open(files, small), 0); err == nil || !strings.Contains(err.Error(), "made for other data") {
		t.Errorf("error %v", err)
	}
}
