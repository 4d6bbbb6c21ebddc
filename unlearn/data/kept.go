package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"l2ul/internal/filelock"
	"l2ul/unlearn/data/jpeg"
)

// A decoded split is kept as a file, Source.Cache/HASH/SPLIT-KEY.pixels, where HASH is of the dataset, the path of its source
// and the size its images are given, which later starts read in place of decoding:
//
//	pixels   n*C*H*W bytes, NCHW
//	about    JSON: all else of the set, the key of what it was decoded from, the fingerprint
//	end      the length of about (uint64, little-endian), its sha256, keptFormat
//
// The end is written last, the file is synced and then renamed, so a file of the right name whose end fits its size is
// whole. Its pixels are not checked again, since that would read all of a file that is there to be read in parts: they are
// trusted as far as the disk is. The file is read-only, which keeps accidents away. It is read and not mapped: where a disk
// fails or somebody truncates it, a read is an error, while a mapping would end the process by a signal.
const (
	keptFormat = "l2ul.decoded/1\n"
	keptSuffix = ".pixels"
	endBytes   = 8 + sha256.Size + len(keptFormat)
	maxAbout   = 1 << 31 // bytes of JSON; the training set of ImageNet has 60 MB
)

// maxSetBytes bounds the pixels that are held in memory: a forgotten resize step would otherwise ask for all there is.
const maxSetBytes = 1 << 36

// spareBytes are left free on a disk that a split is kept on.
const spareBytes = 1 << 30

// keptAbout is what a file tells of its pixels.
type keptAbout struct {
	Key         string   `json:"key"`
	Dataset     string   `json:"dataset"`
	Split       string   `json:"split"`
	Classes     []string `json:"classes"`
	Shape       [3]int   `json:"shape"` // channels, height, width
	Labels      []int    `json:"labels"`
	Names       []string `json:"names"`
	Fingerprint string   `json:"fingerprint"`
}

// key identifies what a split was decoded from by names and by what the system tells of the files, without reading them.
// The time of the inode's last change is among it: programs set back the other, that of the content.
type key struct{ h hash.Hash }

func (s Source) newKey(dataset, split string) key {
	k := key{sha256.New()}
	fmt.Fprintf(k.h, "%q %q %q %q\n", keptFormat, dataset, s.Preprocess, split)
	return k
}

func (k key) add(name string, info fileInfo) {
	fmt.Fprintf(k.h, "%q %d %d %d %d\n", name, info.size, info.modified, info.changed, info.inode)
}

func (k key) String() string { return hex.EncodeToString(k.h.Sum(nil)) }

// keep returns the set that key stands for as the cache has it. If the cache does not have it, open's images are decoded
// into the cache, or, where nothing can be kept, into memory.
func (s Source) keep(ctx context.Context, dataset, split string, key func() (string, error), open func() (*imageSplit, error)) (*Set, error) {
	if s.Cache != "" {
		k, err := key()
		if err != nil {
			return nil, err
		}
		set, err := s.kept(ctx, dataset, split, k, open)
		unkept, ok := errors.AsType[*unkeptError](err)
		if !ok {
			return set, err
		}
		s.note("decoded images are not kept: " + unkept.Error())
	}
	images, err := open()
	if err != nil {
		return nil, err
	}
	set, err := images.set(s.Preprocess)
	if err != nil {
		return nil, err
	}
	if n := set.bytes(); n > maxSetBytes {
		return nil, inputf(s.Dir, "%d images of %d x %d pixels have %d bytes, more than the %d that are held in memory: let them be kept on a disk with more free space (UNLEARN_CACHE), or make them smaller with --img-size",
			set.Len(), set.W, set.H, n, int64(maxSetBytes))
	}
	set.Pixels = make([]byte, 0, set.bytes())
	err = s.decode(ctx, images, set, func(pixels []byte) error {
		set.Pixels = append(set.Pixels, pixels...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return set, nil
}

// decode decodes images while somebody may watch.
func (s Source) decode(ctx context.Context, images *imageSplit, set *Set, emit func(pixels []byte) error) error {
	if s.Watch == nil {
		return images.decodeAll(ctx, s, set, emit)
	}
	decoded, end := s.Watch(set.Split, set.Len())
	defer end()
	return images.decodeAll(ctx, s, set, func(pixels []byte) error {
		err := emit(pixels)
		decoded(len(pixels) / (set.C * set.H * set.W))
		return err
	})
}

// unkeptError is why the cache cannot take a set. All other errors are those of the images.
type unkeptError struct{ err error }

func (e *unkeptError) Error() string { return e.err.Error() }

func (s Source) note(text string) {
	if s.Note != nil {
		s.Note(text)
	}
}

// kept opens a set of the cache, which is decoded into it first where it is missing. One process does that at a time, so
// that many of them that start together decode once.
func (s Source) kept(ctx context.Context, dataset, split, key string, open func() (*imageSplit, error)) (*Set, error) {
	source, err := filepath.Abs(s.Dir)
	if err != nil {
		return nil, &unkeptError{err}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", dataset, source, s.Preprocess))
	dir := filepath.Join(s.Cache, hex.EncodeToString(sum[:8]))
	path := filepath.Join(dir, split+"-"+key[:16]+keptSuffix)
	if set, err := openKept(path, key); err == nil {
		return set, nil
	}
	lock, err := s.lock(ctx, dir, split)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	set, err := openKept(path, key) // another process may have made it meanwhile
	if err == nil {
		return set, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.note(fmt.Sprintf("the images are decoded again: %s: %v", path, err))
	}
	images, err := open()
	if err != nil {
		return nil, err
	}
	if set, err = images.set(s.Preprocess); err != nil {
		return nil, err
	}
	if err := s.makeRoom(dir, set); err != nil {
		return nil, &unkeptError{err}
	}
	if err := s.write(ctx, path, key, images, set); err != nil {
		return nil, err
	}
	if set, err = openKept(path, key); err != nil {
		return nil, &unkeptError{err}
	}
	return set, nil
}

// lock makes a folder and keeps other processes from decoding the split into it until the lock is closed.
func (s Source) lock(ctx context.Context, dir, split string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, &unkeptError{err}
	}
	lock, err := filelock.Wait(ctx, filepath.Join(dir, split+".lock"), func() {
		s.note("another process is decoding the images; waiting for it")
	})
	if err != nil && ctx.Err() == nil {
		err = &unkeptError{err}
	}
	return lock, err
}

// makeRoom removes what a killed process left of a split, and what was decoded from files that have changed since. It
// fails where there is no room for the set all the same, or its names cannot be kept.
func (s Source) makeRoom(dir string, set *Set) error {
	for _, name := range slices.Concat(set.Names, set.Classes) {
		if !utf8.ValidString(name) { // JSON would change it
			return fmt.Errorf("the name %q is not UTF-8", name)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasPrefix(strings.TrimPrefix(f.Name(), "."), set.Split+"-") { // renameio's temporary files have a dot in front
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	if err := s.evict(set.bytes()); err != nil {
		return fmt.Errorf("the %d images of %s %w", set.Len(), set.Split, err)
	}
	return nil
}

// diskSpace is what a process without privileges may still write to the disk of a folder, and how large that is, in bytes.
var diskSpace = func(dir string) (free, whole int64, err error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	bytes := func(blocks uint64) int64 { return int64(min(blocks, math.MaxInt64/uint64(disk.Bsize))) * disk.Bsize }
	return bytes(disk.Bavail), bytes(disk.Blocks), nil
}

// write decodes images into a file, which appears under its name once it is whole.
func (s Source) write(ctx context.Context, path, key string, images *imageSplit, set *Set) error {
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o444))
	if err != nil {
		return &unkeptError{err}
	}
	defer file.Cleanup() //nolint:errcheck // does nothing after the rename, and before it there is an error to tell already
	digest := set.newDigest()
	err = s.decode(ctx, images, set, func(pixels []byte) error {
		digest.Write(pixels)
		if _, err := file.Write(pixels); err != nil {
			return &unkeptError{err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	end := keptEnd(keptAbout{
		key, set.Dataset, set.Split, set.Classes, [3]int{set.C, set.H, set.W}, set.Labels, set.Names, digest.fingerprint(),
	})
	if _, err := file.Write(end); err != nil {
		return &unkeptError{err}
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return &unkeptError{err}
	}
	return nil
}

// keptEnd is what stands behind the pixels.
func keptEnd(about keptAbout) []byte {
	text, err := json.Marshal(about)
	if err != nil {
		panic(err) // texts and numbers always have a JSON
	}
	return seal(text)
}

// seal puts the end behind a description.
func seal(text []byte) []byte {
	sum := sha256.Sum256(text)
	end := binary.LittleEndian.AppendUint64(text, uint64(len(text)))
	return append(append(end, sum[:]...), keptFormat...)
}

// openKept opens a file of the cache. It fails with fs.ErrNotExist where there is none, and with what is wrong with one
// that is not whole or was decoded from something else.
func openKept(path, key string) (*Set, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	set, err := readKept(file, info.Size(), key)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	use(file)
	set.lazy = keptPixels{file}
	return set, nil
}

// keptPixels is a file of the cache, open as long as somebody can ask for its pixels: then the runtime closes it.
type keptPixels struct{ *os.File }

func (keptPixels) decodes() bool { return false }

func (f keptPixels) read(dst []byte, set *Set, indices []int) error {
	size := set.C * set.H * set.W
	for at := 0; at < len(indices); {
		run := 1 // neighbours are read at once
		for at+run < len(indices) && indices[at+run] == indices[at]+run {
			run++
		}
		if _, err := f.ReadAt(dst[at*size:(at+run)*size], int64(indices[at])*int64(size)); err != nil {
			return &InputError{f.Name(), "these decoded images can no longer be read; remove the file, and they are decoded again", err}
		}
		at += run
	}
	return nil
}

// readKept reads all but the pixels of a file of so many bytes.
func readKept(file io.ReaderAt, size int64, key string) (*Set, error) {
	end := make([]byte, endBytes)
	if size < int64(len(end)) {
		return nil, fmt.Errorf("it has %d bytes, which no whole file has", size)
	}
	if _, err := file.ReadAt(end, size-int64(len(end))); err != nil {
		return nil, err
	}
	length, sum, format := binary.LittleEndian.Uint64(end), end[8:8+sha256.Size], end[8+sha256.Size:]
	rest := size - int64(len(end))
	switch {
	case string(format) != keptFormat:
		return nil, fmt.Errorf("it ends with %q, not with %q", format, keptFormat)
	case length > uint64(min(rest, maxAbout)):
		return nil, fmt.Errorf("a description of %d bytes in a file of %d", length, size)
	}
	text := make([]byte, length)
	pixels := rest - int64(length)
	if _, err := file.ReadAt(text, pixels); err != nil {
		return nil, err
	}
	if got := sha256.Sum256(text); !bytes.Equal(got[:], sum) {
		return nil, errors.New("the checksum of its description is wrong")
	}
	var about keptAbout
	if err := json.Unmarshal(text, &about); err != nil {
		return nil, fmt.Errorf("its description: %w", err)
	}
	c, h, w := about.Shape[0], about.Shape[1], about.Shape[2]
	set := &Set{
		Dataset: about.Dataset, Split: about.Split, Classes: about.Classes, C: c, H: h, W: w,
		Labels: about.Labels, Names: about.Names,
	}
	if about.Key != key {
		return nil, fmt.Errorf("it was decoded from something else: its key is %.16q", about.Key)
	}
	if err := set.checkSamples(""); err != nil {
		return nil, err
	}
	// With bounds first, so that the product does not overflow.
	if c != 3 || h <= 0 || w <= 0 || h > jpeg.MaxPixels/w || set.bytes() != pixels {
		return nil, fmt.Errorf("%d bytes of pixels for %d images of %dx%dx%d", pixels, set.Len(), c, h, w)
	}
	set.once.Do(func() { set.fingerprint = about.Fingerprint })
	return set, nil
}
