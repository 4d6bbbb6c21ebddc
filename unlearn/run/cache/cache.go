// Package cache keeps what runs have computed for later ones, in a folder of bounded size. An entry is a note, which is a
// small JSON value, and perhaps a file.
//
// A file is shared with the run folders by hard links, so that it lies on the disk once, and copied where that cannot be.
// Either way a run folder is whole without the cache, wherever it is moved, and no entry is ever taken from under a run.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"l2ul/internal/filelock"
)

// Cache is such a folder. A nil *Cache holds nothing and takes nothing.
type Cache struct {
	dir   string
	limit int64
}

// New returns the cache in a folder, which is made when there is something to put into it. limit is how many bytes it may
// hold that no run folder shares.
func New(dir string, limit int64) *Cache { return &Cache{dir, limit} }

// record is the JSON file of an entry. It is written last and vouches for the entry's file; its time of modification is
// that of the last use.
type record struct {
	Note json.RawMessage `json:"note"`
	File string          `json:"file,omitempty"` // sha256 of the entry's file, "" without one
}

// Get reads the note of an entry, and makes its file appear at path ("" for an entry without one), whose suffix must be the
// one it was put with. It reports whether there is such an entry. One that is damaged is removed, and the error says so.
func (c *Cache) Get(kind, key string, note any, path string) (bool, error) {
	if c == nil {
		return false, nil
	}
	name := c.name(kind, key)
	text, err := os.ReadFile(name + recordSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var r record
	if err := errors.Join(json.Unmarshal(text, &r), json.Unmarshal(r.Note, note)); err != nil {
		return false, c.damaged(name, err)
	}
	if path != "" {
		if err := share(name+filepath.Ext(path), path); errors.Is(err, fs.ErrNotExist) {
			return false, nil // evicted between two breaths
		} else if err != nil {
			return false, err
		}
		// The names of a link are one file: whoever changed it in a run folder changed it here.
		if sum, err := HashFile(path); err != nil || sum != r.File {
			return false, errors.Join(c.damaged(name, fmt.Errorf("its file has changed")), err, os.Remove(path))
		}
	}
	now := time.Now()
	_ = os.Chtimes(name+recordSuffix, now, now) // a cache that somebody else owns can be read all the same
	return true, nil
}

// Has reports whether there is such an entry, as far as that can be seen without reading its file.
func (c *Cache) Has(kind, key string) bool {
	if c == nil {
		return false
	}
	_, err := os.Stat(c.name(kind, key) + recordSuffix)
	return err == nil
}

// Put makes an entry of a note and the file at path ("" for none), and evicts the entries that were not used for longest
// until the cache is within its limit.
func (c *Cache) Put(kind, key string, note any, path string) error {
	if c == nil || c.limit == 0 {
		return nil
	}
	if err := c.prepare(kind); err != nil {
		return err
	}
	name := c.name(kind, key)
	var r record
	var err error
	if r.Note, err = json.Marshal(note); err != nil {
		return err
	}
	if path != "" {
		if r.File, err = HashFile(path); err != nil {
			return err
		}
		if err := share(path, name+filepath.Ext(path)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := write(name+recordSuffix, text); err != nil {
		return err
	}
	return c.trim()
}

// Folder makes a folder of the cache for files that are not entries, and returns its path; "" where nothing is to be kept.
// What lies in folders below it does not count for the limit and is not evicted: whoever writes it sees to that.
func (c *Cache) Folder(kind string) (string, error) {
	if c == nil || c.limit == 0 {
		return "", nil
	}
	if err := c.prepare(kind); err != nil {
		return "", err
	}
	return filepath.Join(c.dir, kind), nil
}

// Lock keeps other processes from making an entry until unlock is called, so that what is dear is made once: whoever has the
// lock asks Get, and makes the entry if there is none. While another process has it, waiting is called once, and Lock waits
// until ctx ends. The files of locks stay, empty: removing one would let two processes lock two files of a name.
func (c *Cache) Lock(ctx context.Context, kind, key string, waiting func()) (unlock func(), err error) {
	folder, err := c.Folder(filepath.Join(kind, "locks"))
	if err != nil || folder == "" {
		return func() {}, err
	}
	lock, err := filelock.Wait(ctx, filepath.Join(folder, key), waiting)
	if err != nil {
		return nil, err
	}
	return func() { _ = lock.Close() }, nil // the end of the process would unlock it as well
}

const recordSuffix = ".json"

func (c *Cache) name(kind, key string) string { return filepath.Join(c.dir, kind, key) }

// tag marks a folder that backups may leave out (https://bford.info/cachedir/).
const tag = "Signature: 8a477f597d28d172789f06886806bc55\n# The cache of unlearn; everything in it can be made again.\n"

func (c *Cache) prepare(kind string) error {
	if err := os.MkdirAll(filepath.Join(c.dir, kind), 0o755); err != nil {
		return err
	}
	path := filepath.Join(c.dir, "CACHEDIR.TAG")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return write(path, []byte(tag))
}

func write(path string, text []byte) error {
	return renameio.WriteFile(path, text, 0o644, renameio.WithTempDir(filepath.Dir(path)))
}

// damaged removes the record of an entry, without which the rest is none, and says why.
func (c *Cache) damaged(name string, why error) error {
	return errors.Join(fmt.Errorf("the cache entry %s is damaged and was removed: %w", name, why), removeIfThere(name+recordSuffix))
}

// entry is the files of one key, or what a crash left of them.
type entry struct {
	paths []string
	alone int64     // bytes that no run folder shares
	held  bool      // a run folder shares its file
	used  time.Time // last
}

// trim evicts entries, those not used for longest first. A file that a run folder shares takes no room here and would give
// none back, so its entry stays.
func (c *Cache) trim() error {
	entries, err := c.entries()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b *entry) int { return a.used.Compare(b.used) })
	var total int64
	for _, e := range entries {
		total += e.alone
	}
	for _, e := range entries {
		if total <= c.limit {
			break
		}
		if e.held {
			continue
		}
		for _, path := range e.paths {
			if err := removeIfThere(path); err != nil {
				return err
			}
		}
		total -= e.alone
	}
	return nil
}

// entries lists what is there. Files vanish meanwhile where another process evicts.
func (c *Cache) entries() ([]*entry, error) {
	paths, err := fs.Glob(os.DirFS(c.dir), "*/*")
	if err != nil {
		return nil, err
	}
	byName := map[string]*entry{}
	var all []*entry
	for _, path := range paths {
		path = filepath.Join(c.dir, path)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.IsDir() { // of Folder
			continue
		}
		name := strings.TrimSuffix(path, filepath.Ext(path))
		e := byName[name]
		if e == nil {
			e = &entry{}
			byName[name], all = e, append(all, e)
		}
		e.paths = append(e.paths, path)
		if links(info) > 1 {
			e.held = true
		} else {
			e.alone += info.Size()
		}
		if filepath.Ext(path) == recordSuffix || e.used.IsZero() {
			e.used = info.ModTime()
		}
	}
	return all, nil
}

func links(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink) //nolint:unconvert // its type differs between systems
	}
	return 1
}

// share makes the file of one name appear under another, in one step: as a link where the file system allows it, else as a
// copy.
func share(from, to string) error {
	work := fmt.Sprintf("%s.%d.work", to, os.Getpid())
	if err := os.Link(from, work); err == nil {
		// Renaming one name of a file to another does nothing, and leaves both.
		return errors.Join(os.Rename(work, to), removeIfThere(work))
	} else if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	pending, err := renameio.NewPendingFile(to, renameio.WithTempDir(filepath.Dir(to)), renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer pending.Cleanup() //nolint:errcheck // does nothing after the rename, and the copy's own error says more
	if _, err := io.Copy(pending, source); err != nil {
		return err
	}
	return pending.CloseAtomicallyReplace()
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// HashFile returns the sha256 of a file in hex.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ParseSize reads a number of bytes: "0", "500M", "1.5G". The units K, M, G and T are powers of 1024.
func ParseSize(text string) (int64, error) {
	number, unit := text, 1.0
	for i, letter := range "KMGT" {
		if rest, ok := strings.CutSuffix(text, string(letter)); ok {
			number, unit = rest, float64(int64(1)<<(10*(i+1)))
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*unit < 1<<62) {
		return 0, fmt.Errorf("%q is no size; write one like 500M or 1.5G", text)
	}
	return int64(n * unit), nil
}
