package data

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Decoded splits together take no more of the disk than Source.CacheSize allows. Before another is kept, those not opened for
// longest go; the time of a file's modification is that of its last use. Who has one open holds a shared lock on it, which
// the system drops with the process, and who removes one holds the exclusive lock.

// use marks an open file of the cache as used, now and until it is closed.
func use(file *os.File) {
	now := time.Now()
	_ = os.Chtimes(file.Name(), now, now)        // a cache that somebody else owns can be read all the same
	_ = unix.Flock(int(file.Fd()), unix.LOCK_SH) // where a disk has no locks, nothing is removed
}

// candidate is a file of the cache that may go.
type candidate struct {
	path string
	info fs.FileInfo
}

// evict makes room for so many bytes more, within the limit and on the disk. If that cannot be, nothing goes.
func (s Source) evict(need int64) error {
	var files []candidate
	taken := int64(0)
	paths, err := filepath.Glob(filepath.Join(s.Cache, "*", "*"+keptSuffix))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil { // else another process has removed it
			files = append(files, candidate{path, info})
			taken += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b candidate) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	free, whole, err := diskSpace(s.Cache)
	if err != nil {
		return err
	}
	limit := cmp.Or(s.CacheSize, whole/2)
	fits := func() bool { return taken+need <= limit && need+spareBytes <= free }
	var going []candidate
	for _, f := range files {
		if fits() {
			break
		}
		file, err := os.Open(f.path)
		if err != nil {
			continue
		}
		defer file.Close() // and unlock it
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			going, taken, free = append(going, f), taken-f.info.Size(), free+f.info.Size()
		}
	}
	switch {
	case taken+need > limit:
		return fmt.Errorf("need %d bytes in %s, where decoded images may take %d (UNLEARN_CACHE_IMAGES) and those that running jobs use take %d", need, s.Cache, limit, taken)
	case !fits():
		return fmt.Errorf("need %d bytes in %s, %d more are to stay free, and there are %d", need, s.Cache, int64(spareBytes), free)
	}
	for _, f := range going {
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.note(fmt.Sprintf("to make room for decoded images, others that were last used %s are removed: %s, %d bytes",
			f.info.ModTime().Format(time.DateTime), f.path, f.info.Size()))
	}
	return nil
}
