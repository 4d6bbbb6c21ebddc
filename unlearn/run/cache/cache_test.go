package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// put makes a file of so many bytes in a folder of its own, as a run does, and puts it into the cache.
func put(t *testing.T, c *Cache, key string, size int) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), key+".bin")
	if err := os.WriteFile(path, []byte(strings.Repeat(key[:1], size)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Put("files", key, len(key), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// get takes a file from the cache and returns its content, "" when it is not there.
func get(t *testing.T, c *Cache, key string) string {
	t.Helper()
	path, note := filepath.Join(t.TempDir(), "got.bin"), 0
	ok, err := c.Get("files", key, &note, path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if ok != (err == nil) || ok && note != len(key) {
		t.Fatalf("%s: found %v, note %d, file: %v", key, ok, note, err)
	}
	return string(text)
}

func age(t *testing.T, c *Cache, kind, key string, by time.Duration) {
	t.Helper()
	at := time.Now().Add(-by)
	if err := os.Chtimes(c.name(kind, key)+recordSuffix, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestNotes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "cache")
	c := New(dir, 1000)
	var got map[string]float64
	if ok, err := c.Get("notes", "a", &got, ""); ok || err != nil || c.Has("notes", "a") {
		t.Errorf("an empty cache: %v, %v", ok, err)
	}
	if err := c.Put("notes", "a", map[string]float64{"x": 0.1}, ""); err != nil {
		t.Fatal(err)
	}
	if !c.Has("notes", "a") || c.Has("notes", "b") || (*Cache)(nil).Has("notes", "a") {
		t.Error("the cache does not know what it has")
	}
	if ok, err := New(dir, 1000).Get("notes", "a", &got, ""); !ok || err != nil || got["x"] != 0.1 {
		t.Errorf("%v, %v, %v", ok, err, got)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "CACHEDIR.TAG")); err != nil || !strings.HasPrefix(string(text), "Signature: 8a477f597d28d172789f06886806bc55\n") {
		t.Errorf("%s, %v", text, err)
	}
	if err := os.WriteFile(c.name("notes", "a")+recordSuffix, []byte(`{"note":`), 0o644); err != nil {
		t.Fatal(err)
	}
	if ok, err := c.Get("notes", "a", &got, ""); ok || err == nil || !strings.Contains(err.Error(), "damaged and was removed") {
		t.Errorf("half a record: %v, %v", ok, err)
	}
	if ok, err := c.Get("notes", "a", &got, ""); ok || err != nil {
		t.Errorf("afterwards: %v, %v", ok, err)
	}
	for _, none := range []*Cache{nil, New(filepath.Join(dir, "none"), 0)} {
		if err := none.Put("notes", "a", 1, ""); err != nil {
			t.Error(err)
		}
		if ok, err := none.Get("notes", "a", &got, ""); ok || err != nil {
			t.Errorf("%v: %v, %v", none, ok, err)
		}
	}
}

// A file lies on the disk once, and the names that runs have for it outlive the cache.
func TestSharedFile(t *testing.T) {
	c := New(t.TempDir(), 1000)
	path := put(t, c, "a", 10)
	mine := filepath.Join(t.TempDir(), "mine.bin")
	var note int
	if ok, err := c.Get("files", "a", &note, mine); !ok || err != nil {
		t.Fatal(ok, err)
	}
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := os.Stat(mine); err != nil || !os.SameFile(first, second) || links(first) != 3 {
		t.Errorf("%v: %d names of the file, not 3 of one", err, links(first))
	}
	// Putting and getting again what is there already leaves no other names behind.
	if err := c.Put("files", "a", 1, path); err != nil {
		t.Fatal(err)
	}
	if ok, err := c.Get("files", "a", &note, mine); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if again, err := os.Stat(path); err != nil || links(again) != 3 {
		t.Errorf("%v: %d names of the file", err, links(again))
	}
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "aaaaaaaaaa" {
		t.Errorf("without the cache: %q, %v", text, err)
	}
}

// What somebody changed in a run folder is not given to others.
func TestChangedFile(t *testing.T) {
	c := New(t.TempDir(), 1000)
	path := put(t, c, "a", 10)
	if err := os.WriteFile(path, []byte("bbbbbbbbbb"), 0o644); err != nil { // in place: all names see it
		t.Fatal(err)
	}
	mine, note := filepath.Join(t.TempDir(), "mine.bin"), 0
	if ok, err := c.Get("files", "a", &note, mine); ok || err == nil || !strings.Contains(err.Error(), "its file has changed") {
		t.Errorf("%v, %v", ok, err)
	}
	if _, err := os.Stat(mine); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the changed file was handed out")
	}
	if got := get(t, c, "a"); got != "" {
		t.Errorf("the entry is still there: %q", got)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "bbbbbbbbbb" {
		t.Errorf("the run's own file: %q, %v", text, err)
	}
}

func TestEviction(t *testing.T) {
	const size, limit = 1000, 3500
	c := New(t.TempDir(), limit)
	for i, key := range []string{"a", "b", "c"} {
		if err := os.Remove(put(t, c, key, size)); err != nil { // the run folder goes, the cache alone has it
			t.Fatal(err)
		}
		age(t, c, "files", key, time.Duration(10-i)*time.Hour)
	}
	if get(t, c, "a") == "" { // now used last; this name of it is removed at the end of the test
		t.Fatal("nothing cached")
	}
	held := put(t, c, "held", size)
	age(t, c, "files", "held", 24*time.Hour)
	if err := os.Remove(put(t, c, "d", size)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(put(t, c, "e", size)); err != nil {
		t.Fatal(err)
	}
	if err := c.trim(); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"a":    true,  // a run folder has it
		"b":    false, // not used for longest
		"c":    true,
		"held": true, // older still, but a run folder has it
		"d":    true, "e": true,
	} {
		if got := get(t, c, key) != ""; got != want {
			t.Errorf("%s: cached %v, want %v", key, got, want)
		}
	}
	if text, err := os.ReadFile(held); err != nil || len(text) != size {
		t.Errorf("a run lost its file: %v", err)
	}
	entries, err := c.entries()
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, e := range entries {
		total += e.alone
	}
	if total > limit {
		t.Errorf("%d bytes, more than %d", total, limit)
	}
}

// Where links cannot be made the file is copied, whole or not at all.
func TestCopy(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "cache") //nolint:usetesting // it must be on another file system than t.TempDir
	if err != nil {
		t.Skip("no second file system:", err)
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	here, there := filepath.Join(t.TempDir(), "a"), filepath.Join(other, "a")
	if err := os.WriteFile(here, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Link(here, there) == nil {
		t.Skip("one file system")
	}
	if err := share(here, there); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	if err := share(filepath.Join(other, "none"), here); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to share: %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "12": 12, "3K": 3 << 10, "500M": 500 << 20, "1.5G": 3 << 29, "2T": 2 << 40} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "1X", "NaN", "Inf", "1e30T", "1 G"} {
		if got, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
}

// What lies in folders below one of Folder is no entry.
func TestFolder(t *testing.T) {
	root := t.TempDir()
	c := New(root, 100)
	dir, err := c.Folder("large")
	if err != nil || dir != filepath.Join(root, "large") {
		t.Fatalf("%q, %v", dir, err)
	}
	if _, err := os.Stat(filepath.Join(root, "CACHEDIR.TAG")); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "a", "b")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, make([]byte, 1000), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := c.Put("notes", "a", "short", ""); err != nil {
		t.Fatal(err)
	}
	var note string
	if ok, err := c.Get("notes", "a", &note, ""); !ok || err != nil {
		t.Errorf("a file that is no entry has pushed one out: %v, %v", ok, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	for _, none := range []*Cache{nil, New(filepath.Join(root, "none"), 0)} {
		if dir, err := none.Folder("large"); dir != "" || err != nil {
			t.Errorf("%v: %q, %v", none, dir, err)
		}
	}
}

// One holder of a lock at a time, per key; who waits says so, and stops waiting when told.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	never := func() { t.Error("waits for nobody") }
	unlock, err := New(dir, 1000).Lock(t.Context(), "files", "a", never)
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(dir, 1000).Lock(t.Context(), "files", "b", never)
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := New(dir, 1000).Lock(ctx, "files", "a", cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting was to end: %v", err)
	}
	again, err := New(dir, 1000).Lock(t.Context(), "files", "a", unlock)
	if err != nil {
		t.Fatal(err)
	}
	again()
	c := New(dir, 10)
	put(t, c, "x", 10)
	put(t, c, "y", 10) // evicts, and must leave the locks alone
	if _, err := os.Stat(filepath.Join(dir, "files", "locks", "a")); err != nil {
		t.Error(err)
	}
	for _, c := range []*Cache{nil, New(dir, 0)} { // which keep nothing, and so hold up nobody
		for range 2 {
			if _, err := c.Lock(t.Context(), "files", "a", never); err != nil {
				t.Error(err)
			}
		}
	}
}
