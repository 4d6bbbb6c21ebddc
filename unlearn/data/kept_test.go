package data

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"l2ul/torch"
)

// shelf is a source with a cache, and what it notes.
type shelf struct {
	Source
	notes []string
}

func newShelf(t testing.TB, dir string) *shelf {
	s := &shelf{Source: Source{Dir: dir, Cache: t.TempDir()}}
	s.Note = func(text string) { s.notes = append(s.notes, text) }
	return s
}

// open opens splits, which must work, and compares all of them with what a source without a cache gives.
func (s *shelf) open(t testing.TB, splits ...string) []*Set {
	t.Helper()
	got, err := Open(t.Context(), "imagefolder", s.Source, splits...)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Open(t.Context(), "imagefolder", Source{Dir: s.Dir}, splits...)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		g := got[i]
		if w.Fingerprint() != g.Fingerprint() || !bytes.Equal(w.Pixels, pixelsOf(t, g)) || !slices.Equal(w.Labels, g.Labels) ||
			w.Dataset != g.Dataset || w.Split != g.Split || !slices.Equal(w.Classes, g.Classes) || !slices.Equal(w.Names, g.Names) {
			t.Errorf("%s: the set is another one with a cache", w.Split)
		}
	}
	return got
}

// pixelsOf reads all pixels of a set.
func pixelsOf(t testing.TB, set *Set) []byte {
	t.Helper()
	pixels := make([]byte, set.bytes())
	if err := set.Read(pixels, All(set.Len())); err != nil {
		t.Fatal(err)
	}
	return pixels
}

// files lists what the cache holds, but for locks.
func (s *shelf) files(t testing.TB) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(s.Cache, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) != ".lock" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// change writes to a file of the cache, which is read-only.
func change(t testing.TB, path string, how func(content []byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, how(content), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// What was decoded once is not decoded again: pixels that were changed in the cache stay so.
func TestKept(t *testing.T) {
	files := smallTree(t)
	for _, dir := range []string{writeTree(t, files), packTar(t, "a.tar.zst", files)} {
		s := newShelf(t, dir)
		s.open(t, "train", "test", "val")
		kept := s.files(t)
		if len(kept) != 3 || s.notes != nil {
			t.Fatalf("%s: the cache holds %v and says %q", dir, kept, s.notes)
		}
		for _, path := range kept {
			change(t, path, func(content []byte) []byte { content[7] ^= 255; return content })
		}
		sets, err := Open(t.Context(), "imagefolder", s.Source, "val", "train")
		if err != nil {
			t.Fatal(err)
		}
		want, err := Open(t.Context(), "imagefolder", Source{Dir: dir}, "val", "train")
		if err != nil {
			t.Fatal(err)
		}
		for i, set := range sets {
			if want[i].Pixels[7] ^= 255; !bytes.Equal(pixelsOf(t, set), want[i].Pixels) {
				t.Errorf("%s: %s was decoded again", dir, set.Split)
			}
		}
	}
}

// Who watches is told how many images there are, of each that is decoded, and of the end, also of one that comes early.
func TestDecodingIsWatched(t *testing.T) {
	for name, cache := range map[string]string{"kept": t.TempDir(), "in memory": ""} {
		var events []string
		s := Source{Dir: writeTree(t, smallTree(t)), Cache: cache}
		s.Watch = func(split string, images int) (func(int), func()) {
			left := images
			return func(n int) { left -= n }, func() { events = append(events, fmt.Sprintf("%s: %d, %d left", split, images, left)) }
		}
		open := func(splits ...string) error { _, err := Open(t.Context(), "imagefolder", s, splits...); return err }
		if err := open("train", "val"); err != nil {
			t.Fatal(err)
		}
		rewrite(t, filepath.Join(s.Dir, "test/bee/x.png"), "no image")
		if open("test") == nil {
			t.Error("a broken image was decoded")
		}
		if len(events) != 3 || events[0] != "train: 4, 0 left" || events[1] != "val: 1, 0 left" || strings.HasSuffix(events[2], " 0 left") {
			t.Errorf("%s: %q", name, events)
		}
	}
}

// Whatever of the files changes, the cache does not give what they were, and lets go of it.
func TestKeptFollowsFiles(t *testing.T) {
	files := smallTree(t)
	other := plainPNG(t, 37, 23, color.NRGBA{9, 8, 7, 255})
	for name, change := range map[string]func(t *testing.T, dir string){
		"another size": func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, "train/bee/10.png"), files["train/ant/a.jpg"])
		},
		"another content of the same size and time": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "train/bee/10.png")
			before, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(other) != len(files["train/bee/10.png"]) {
				t.Fatal("the two colours make files of two sizes")
			}
			time.Sleep(20 * time.Millisecond) // which clocks of file systems tell apart
			rewrite(t, path, other)
			if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
				t.Fatal(err)
			}
		},
		"one more": func(t *testing.T, dir string) { rewrite(t, filepath.Join(dir, "train/bee/11.png"), other) },
		"one less": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "train/bee/10.png")); err != nil {
				t.Fatal(err)
			}
		},
		"another class": func(t *testing.T, dir string) { // which changes the labels of test as well
			if err := os.Rename(filepath.Join(dir, "train/ant"), filepath.Join(dir, "train/cow")); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(dir, "val")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, writeTree(t, files))
			before := s.open(t, "train", "test")
			pixels := pixelsOf(t, before[0])
			print := before[0].Fingerprint() + before[1].Fingerprint()
			change(t, s.Dir)
			after := s.open(t, "train", "test")
			if after[0].Fingerprint()+after[1].Fingerprint() == print {
				t.Error("the change changes nothing")
			}
			if kept := s.files(t); len(kept) != 2 {
				t.Errorf("the cache holds %v", kept)
			}
			if !bytes.Equal(pixelsOf(t, before[0]), pixels) {
				t.Error("pixels in use are gone")
			}
		})
	}
	path := packTar(t, "a.tar", files)
	s := newShelf(t, path)
	s.open(t, "train")
	files["train/bee/10.png"] = other
	rewrite(t, path, readAll(t, packTar(t, "a.tar", files)))
	s.open(t, "train")
	if kept := s.files(t); len(kept) != 1 {
		t.Errorf("of an archive the cache holds %v", kept)
	}
}

func rewrite(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A file that is not whole is told, and made again.
func TestKeptDamaged(t *testing.T) {
	s := newShelf(t, writeTree(t, smallTree(t)))
	s.open(t, "train")
	path := s.files(t)[0]
	whole := readAll(t, path)
	for name, content := range map[string]string{
		"empty":                         "",
		"shorter than its end":          whole[:20],
		"without its last byte":         whole[:len(whole)-1],
		"with a byte behind":            whole + "\n",
		"without its first byte":        whole[1:],
		"with a byte more in front":     "x" + whole,
		"only its end":                  whole[len(whole)-endBytes:],
		"noise":                         strings.Repeat("noise", 1000),
		"another format":                whole[:len(whole)-3] + "2\n\n",
		"a changed description":         strings.Replace(whole, `"ant"`, `"and"`, 1),
		"a changed checksum":            whole[:len(whole)-20] + "x" + whole[len(whole)-19:],
		"a description as long as ever": whole[:len(whole)-endBytes] + strings.Repeat("\xff", 8) + whole[len(whole)-endBytes+8:],
		"of something else":             whole[:4*3*37*23] + string(keptEnd(keptAbout{Key: "0123", Shape: [3]int{3, 23, 37}, Classes: []string{"a"}, Labels: []int{0, 0, 0, 0}})),
	} {
		s.notes = nil
		change(t, path, func([]byte) []byte { return []byte(content) })
		s.open(t, "train")
		if len(s.notes) != 1 || !strings.Contains(s.notes[0], "decoded again: "+path) {
			t.Errorf("%s: %q", name, s.notes)
		}
		if got := readAll(t, path); got != whole {
			t.Errorf("%s: the file was not made again", name)
		}
	}
}

// What stands in the description is checked even where its checksum is right.
func TestKeptRefuses(t *testing.T) {
	for name, about := range map[string]keptAbout{
		"none":           {},
		"no images":      {Shape: [3]int{3, 1, 1}, Classes: []string{"a"}},
		"two channels":   {Shape: [3]int{2, 1, 1}, Classes: []string{"a"}, Labels: []int{0}},
		"no height":      {Shape: [3]int{3, 0, 1}, Classes: []string{"a"}, Labels: []int{0}},
		"negative":       {Shape: [3]int{3, -1, -1}, Classes: []string{"a"}, Labels: []int{0}},
		"overflow":       {Shape: [3]int{3, math.MaxInt, math.MaxInt}, Classes: []string{"a"}, Labels: []int{0}},
		"label":          {Shape: [3]int{3, 1, 1}, Classes: []string{"a"}, Labels: []int{1}},
		"names":          {Shape: [3]int{3, 1, 1}, Classes: []string{"a"}, Labels: []int{0}, Names: []string{"a", "b"}},
		"too few pixels": {Shape: [3]int{3, 1, 2}, Classes: []string{"a"}, Labels: []int{0}},
	} {
		file := append([]byte{1, 2, 3}, keptEnd(about)...)
		if set, err := readKept(bytes.NewReader(file), int64(len(file)), ""); err == nil {
			t.Errorf("%s: %+v", name, set)
		}
	}
}

func FuzzKept(f *testing.F) {
	good := keptAbout{Key: "k", Shape: [3]int{3, 1, 1}, Classes: []string{"a", "b"}, Labels: []int{1}, Names: []string{"n"}}
	end := keptEnd(good)
	f.Add([]byte("rgb"), end[:len(end)-endBytes], true)
	f.Add([]byte("rgb"), end, false)
	f.Add([]byte{}, []byte(keptFormat), false)
	f.Fuzz(func(t *testing.T, pixels, rest []byte, sealed bool) {
		if sealed {
			rest = seal(rest)
		}
		file := slices.Concat(pixels, rest)
		set, err := readKept(bytes.NewReader(file), int64(len(file)), "k")
		if err != nil {
			return
		}
		if set.Pixels = file[:set.bytes()]; set.check("") != nil {
			t.Error("an inconsistent set was accepted")
		}
	})
}

// train lists the training images of a folder.
func train(dir string) (*imageSplit, error) {
	tree := classTree{name: "imagefolder", splits: map[string][]string{"train": {"train"}}}
	files := Source{Dir: dir}.folder()
	images, err := tree.list(files)
	if err != nil {
		return nil, err
	}
	return tree.split(files, images, dir, "train")
}

// Where there is room, the device holds the pixels of a file of the cache: it streams only what must be decoded each time.
func TestKeptIsHeld(t *testing.T) {
	set := newShelf(t, writeTree(t, smallTree(t))).open(t, "train")[0]
	err := torch.Run(torch.CPU, func() error {
		for name, room := range room {
			l := NewLoader(set, torch.CPU, torch.Contiguous, room)
			defer l.Free()
			if held := l.stream == nil; held != (name == "held") {
				t.Errorf("%s: the device holds the pixels: %t", name, held)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A file that is cut short while a set of it is open is an error with its name, and not the end of the process: where the
// device holds the pixels, where it streams them, and where a stream has begun. What is still there can be read.
func TestKeptIsCutShort(t *testing.T) {
	for name, room := range room {
		s := newShelf(t, writeTree(t, smallTree(t)))
		set := s.open(t, "train")[0]
		path := s.files(t)[0]
		last, size := set.Len()-1, int64(set.C*set.H*set.W)
		cut := func() {
			if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, int64(last)*size+1)); err != nil {
				t.Fatal(err)
			}
		}
		err := torch.Run(torch.CPU, func() error {
			if room > 0 { // read at once
				cut()
			}
			l := NewLoader(set, torch.CPU, torch.Contiguous, room)
			defer l.Free()
			l.Expect([]int{0})
			l.Gather([]int{0})
			cut()
			l.Gather([]int{0, last - 1})
			l.Expect([]int{last, 0})
			l.Gather([]int{last, 0})
			return nil
		})
		var wrong *InputError
		if !errors.As(err, &wrong) || wrong.Path != path || !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// disk pretends that the disk has so many bytes free, and in all.
func disk(t *testing.T, free, whole int64) {
	before := diskSpace
	diskSpace = func(string) (int64, int64, error) { return free, whole, nil }
	t.Cleanup(func() { diskSpace = before })
}

// What was not used for longest makes room, and is named; what a job has open stays, whenever it was opened.
func TestKeptIsBounded(t *testing.T) {
	const size = 4 * 3 * 23 * 37
	cache := t.TempDir()
	var shelves []*shelf
	for range 4 {
		s := newShelf(t, writeTree(t, smallTree(t)))
		s.Cache, s.CacheSize = cache, 2*size+4096 // and what the files tell of the pixels
		shelves = append(shelves, s)
	}
	open := func(i int) *Set { return shelves[i].open(t, "train")[0] }
	kept := func(set *Set) string { return set.lazy.(keptPixels).Name() }
	leave := func(set *Set) { // as if its process had ended an hour ago
		t.Helper()
		earlier := time.Now().Add(-time.Hour)
		if err := errors.Join(set.lazy.(keptPixels).Close(), os.Chtimes(kept(set), earlier, earlier)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(paths ...string) {
		t.Helper()
		slices.Sort(paths)
		if got := shelves[0].files(t); !slices.Equal(got, paths) {
			t.Errorf("the cache holds %q, want %q", got, paths)
		}
	}

	first, second := open(0), open(1)
	leave(first)
	leave(second)
	if err := open(0).lazy.(keptPixels).Close(); err != nil { // used again, and left
		t.Fatal(err)
	}
	third := open(2)
	want(kept(first), kept(third))
	if len(shelves[2].notes) != 1 || !strings.Contains(shelves[2].notes[0], kept(second)+", ") {
		t.Errorf("notes %q do not name %s", shelves[2].notes, kept(second))
	}

	first = open(0) // older than the third one, and in use
	earlier := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(kept(first), earlier, earlier); err != nil {
		t.Fatal(err)
	}
	leave(third)
	fourth := open(3)
	want(kept(first), kept(fourth))
	pixelsOf(t, first)

	if set := open(1); set.lazy != nil { // both are in use
		t.Errorf("%s is kept beyond the limit", kept(set))
	}
	if notes := strings.Join(shelves[1].notes, "\n"); !strings.Contains(notes, "those that running jobs use take") {
		t.Errorf("notes %q", notes)
	}
	want(kept(first), kept(fourth))
}

// Who is stopped while decoding leaves nothing.
func TestKeptIsCancelled(t *testing.T) {
	s := newShelf(t, writeTree(t, smallTree(t)))
	ctx, cancel := context.WithCancel(t.Context())
	key := func() (string, error) { return strings.Repeat("k", 64), nil }
	_, err := s.keep(ctx, "imagefolder", "train", key, func() (*imageSplit, error) {
		cancel()
		return train(s.Dir)
	})
	if left := s.files(t); !errors.Is(err, context.Canceled) || left != nil {
		t.Errorf("error %v, and the cache holds %v", err, left)
	}
}

// Many that start together decode once.
func TestKeptByMany(t *testing.T) {
	s := Source{Dir: writeTree(t, smallTree(t)), Cache: t.TempDir()}
	var opened, waited atomic.Int64
	s.Note = func(string) { waited.Add(1) }
	const many = 4
	waiting := func() bool { return waited.Load() == many-1 }
	var group sync.WaitGroup
	for range many {
		group.Go(func() {
			set, err := s.keep(t.Context(), "imagefolder", "train", func() (string, error) { return strings.Repeat("k", 64), nil }, func() (*imageSplit, error) {
				opened.Add(1)
				for until := time.Now().Add(10 * time.Second); !waiting() && time.Now().Before(until); {
					time.Sleep(time.Millisecond)
				}
				return train(s.Dir)
			})
			if err != nil || set.Len() != 4 {
				t.Errorf("%v, %v", set, err)
			}
		})
	}
	group.Wait()
	if opened.Load() != 1 || !waiting() {
		t.Errorf("%d of %d decoded, %d waited", opened.Load(), many, waited.Load())
	}
}

// Who waits for another process can be stopped.
func TestKeptWaitIsCancelled(t *testing.T) {
	s := newShelf(t, writeTree(t, smallTree(t)))
	s.open(t, "train")
	path := s.files(t)[0]
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := flock.New(filepath.Join(filepath.Dir(path), "train.lock"))
	if err := other.Lock(); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s.Note = func(string) { cancel() }
	if _, err := Open(ctx, "imagefolder", s.Source, "train"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// large writes images that take a while to decode.
func large(t *testing.T) (dir string) {
	png := plainPNG(t, 512, 512, color.White)
	files := map[string]string{}
	for i := range 8 {
		files[fmt.Sprintf("train/a/%d.png", i)] = png
	}
	return writeTree(t, files)
}

// A process that is killed while it decodes leaves nothing that the next one takes for a set, and what it leaves goes with
// the next.
func TestKeptKilled(t *testing.T) {
	if dir := os.Getenv("L2UL_TEST_DECODE"); dir != "" { // the process to kill
		for i := 0; ; i++ { // until it is
			cache := filepath.Join(os.Getenv("L2UL_TEST_CACHE"), fmt.Sprint(i))
			if _, err := Open(t.Context(), "imagefolder", Source{Dir: dir, Cache: cache}, "train"); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := newShelf(t, large(t))
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKeptKilled$")
	victim.Env = append(os.Environ(), "L2UL_TEST_DECODE="+s.Dir, "L2UL_TEST_CACHE="+s.Cache)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	unfinished := func() []string {
		return slices.DeleteFunc(s.files(t), func(path string) bool { return filepath.Ext(path) == keptSuffix })
	}
	for until := time.Now().Add(time.Minute); len(unfinished()) == 0 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	_ = victim.Process.Kill()
	_ = victim.Wait()
	left := unfinished()
	if len(left) != 1 {
		t.Fatalf("the killed process left %v of %v", left, s.files(t))
	}
	s.Cache = filepath.Dir(filepath.Dir(left[0]))
	s.open(t, "train")
	if kept := s.files(t); len(kept) != 1 || len(unfinished()) > 0 {
		t.Errorf("the cache holds %v", kept)
	}
}

// Where nothing can be kept, images are decoded into memory, and it is said why.
func TestNotKept(t *testing.T) {
	files := smallTree(t)
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *shelf)
		says  string
	}{
		"no space": {func(t *testing.T, _ *shelf) {
			disk(t, spareBytes+4*3*23*37-1, math.MaxInt64)
		}, fmt.Sprintf("the 4 images of train need %d bytes", 4*3*23*37)},
		"a low limit": {func(_ *testing.T, s *shelf) { s.CacheSize = 4*3*23*37 - 1 }, "may take 10211 (UNLEARN_CACHE_IMAGES)"},
		"half of a small disk": {func(t *testing.T, _ *shelf) {
			disk(t, math.MaxInt64, 2*(4*3*23*37-1))
		}, "may take 10211 (UNLEARN_CACHE_IMAGES)"},
		"full meanwhile": {func(t *testing.T, s *shelf) {
			s.Dir = large(t)
			var before unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
				t.Fatal(err)
			}
			limit := unix.Rlimit{Cur: 2 << 20, Max: before.Max}
			if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &before) })
		}, "file too large"},
		"a file in the way": {func(t *testing.T, s *shelf) {
			s.Cache = filepath.Join(s.Cache, "file")
			rewrite(t, s.Cache, "")
		}, "not a directory"},
		"a folder that is named as the lock": {func(t *testing.T, s *shelf) {
			s.open(t, "test")
			dirs, err := filepath.Glob(filepath.Join(s.Cache, "*"))
			if err != nil || len(dirs) != 1 {
				t.Fatalf("folders %q, error %v", dirs, err)
			}
			if err := os.RemoveAll(dirs[0]); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dirs[0], "train.lock"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
		"a name that JSON changes": {func(t *testing.T, s *shelf) {
			rewrite(t, filepath.Join(s.Dir, "train/ant/\xff.png"), files["val/ant/v.png"])
		}, `"train/ant/\xff.png" is not UTF-8`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, writeTree(t, files))
			c.spoil(t, s)
			s.open(t, "train")
			if len(s.notes) != 1 || !strings.Contains(s.notes[0], "are not kept: ") || !strings.Contains(s.notes[0], c.says) {
				t.Errorf("it says %q", s.notes)
			}
			if info, err := os.Stat(s.Cache); err == nil && info.IsDir() && s.files(t) != nil {
				t.Errorf("the cache holds %v", s.files(t))
			}
		})
	}
}

// What neither memory nor disk holds of an archive is an error before anything is decoded.
func TestTooManyPixels(t *testing.T) {
	header := plainPNG(t, 1, 1, color.White)
	wide := []byte(header)
	binary.BigEndian.PutUint32(wide[16:], 8000)
	binary.BigEndian.PutUint32(wide[20:], 8000)
	binary.BigEndian.PutUint32(wide[29:], crc32.ChecksumIEEE(wide[12:29]))
	files := map[string]string{}
	for i := range 360 {
		files[fmt.Sprintf("train/a/%d.png", i)] = string(wide)
	}
	s := newShelf(t, packTar(t, "a.tar.gz", files))
	disk(t, 1<<36, math.MaxInt64)
	for _, cache := range []string{"", s.Cache} {
		s.notes, s.Cache = nil, cache
		_, err := Open(t.Context(), "imagefolder", s.Source, "train")
		if input, ok := errors.AsType[*InputError](err); !ok || !strings.Contains(input.Msg, "360 images of 8000 x 8000 pixels have 69120000000 bytes") {
			t.Errorf("error %v", err)
		}
		if told := len(s.notes); told != min(1, len(cache)) {
			t.Errorf("notes %q", s.notes)
		}
	}
}

// A set of 40 GB costs memory for the images that are looked at.
func TestKeptIsNotInMemory(t *testing.T) {
	const side, n = 224, 270_000
	about := keptAbout{Shape: [3]int{3, side, side}, Classes: []string{"a"}, Labels: make([]int, n)}
	path := filepath.Join(t.TempDir(), "sparse")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	want := []byte("the pixels of one image begin with these bytes")
	if _, err := file.WriteAt(want, 200_000*3*side*side); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(keptEnd(about), n*3*side*side); err != nil {
		t.Skipf("no file of 40 GB can be made here: %v", err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	set, err := openKept(path, "")
	if err != nil {
		t.Fatal(err)
	}
	err = torch.Run(torch.CPU, func() error {
		l := NewLoader(set, torch.CPU, torch.ChannelsLast, 100<<30) // of which a quarter is less
		defer l.Free()
		v := l.View(PartForget, rand.New(rand.NewPCG(3, 4)).Perm(n)[:100], nil)
		for from := 0; from < v.Len(); from += 8 {
			torch.Scope(func() { _, _, err = v.Batch(from, min(from+8, v.Len())) })
			if err != nil {
				return err
			}
		}
		return nil
	})
	image := make([]byte, 3*side*side)
	if err = cmp.Or(err, set.Read(image, []int{200_000})); err != nil || !bytes.HasPrefix(image, want) {
		t.Errorf("%q, %v", image[:len(want)], err)
	}
	runtime.ReadMemStats(&after)
	if took := after.Sys - before.Sys; took > 64<<20 {
		t.Errorf("%d bytes of memory for a set that is a file", took)
	}
}

// BenchmarkOpen is the first start with 224x224 JPEGs, which decodes and keeps them, and a later one, which opens them; both
// read all pixels once.
func BenchmarkOpen(b *testing.B) {
	var jpg bytes.Buffer
	img := image.NewRGBA(image.Rect(0, 0, 224, 224))
	draw := rand.New(rand.NewPCG(5, 6))
	for i := range img.Pix { // soft noise, about as large as a photograph
		img.Pix[i] = byte(128 + 100*math.Sin(float64(i)/900) + float64(draw.IntN(20)))
	}
	if err := jpeg.Encode(&jpg, img, nil); err != nil {
		b.Fatal(err)
	}
	files := map[string]string{}
	for i := range 512 {
		files[fmt.Sprintf("train/%d/%d.jpg", i%8, i)] = jpg.String()
	}
	dir, again := writeTree(b, files), b.TempDir()
	pass := func(b *testing.B, cache string) {
		sets, err := Open(b.Context(), "imagefolder", Source{Dir: dir, Cache: cache}, "train")
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(sets[0].bytes())
		pixelsOf(b, sets[0])
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			pass(b, b.TempDir())
		}
	})
	pass(b, again)
	b.Run("later", func(b *testing.B) {
		for b.Loop() {
			pass(b, again)
		}
	})
}

// BenchmarkStream gathers batches of 256 in a random order from a file of the cache: 30 MB of images as small as CIFAR-10's.
func BenchmarkStream(b *testing.B) {
	const n, side = 10_000, 32
	set := &Set{C: 3, H: side, W: side, Split: "train", Classes: []string{"a"}, Labels: make([]int, n)}
	about := keptAbout{Shape: [3]int{3, side, side}, Classes: set.Classes, Labels: set.Labels}
	path := filepath.Join(b.TempDir(), "kept")
	if err := os.WriteFile(path, append(make([]byte, set.bytes()), keptEnd(about)...), 0o600); err != nil {
		b.Fatal(err)
	}
	set, err := openKept(path, "")
	if err != nil {
		b.Fatal(err)
	}
	order := rand.New(rand.NewPCG(7, 8)).Perm(n)
	err = torch.Run(torch.CPU, func() error {
		l := NewLoader(set, torch.CPU, torch.Contiguous, 0)
		defer l.Free()
		b.SetBytes(set.bytes())
		for b.Loop() {
			for batch := range slices.Chunk(order, 256) {
				l.stream.send(batch)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
