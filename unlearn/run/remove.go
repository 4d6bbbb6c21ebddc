package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Working reports whether a process is at work in the run folder. It changes nothing.
func Working(path string) bool {
	root, err := os.OpenRoot(path)
	if err != nil {
		return false
	}
	defer root.Close()
	release, err := hold(root, unix.LOCK_SH)
	if err != nil {
		return errors.Is(err, unix.EWOULDBLOCK)
	}
	release()
	return false
}

// hold takes the lock of a run folder, if it has one, without waiting.
func hold(root *os.Root, how int) (release func(), err error) {
	lock, err := root.Open(lockName)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), how|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, err
	}
	return func() { lock.Close() }, nil // which unlocks it
}

// CheckRemovable fails where RemoveFolder would: with a usage error unless path is a run folder itself and no link to one,
// and with another error while a process works in it.
func CheckRemovable(path string) error {
	root, release, err := removable(path)
	if err != nil {
		return err
	}
	release()
	return root.Close()
}

func removable(path string) (root *os.Root, release func(), err error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, nil, Inputf("%s: %w", path, reason(err))
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, nil, Usagef("%s is a link; name the run folder that it leads to", path)
	case !info.IsDir():
		return nil, nil, Usagef("%s is not a run folder, but a file", path)
	}
	if root, err = os.OpenRoot(path); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	if info, err := root.Lstat(runMark); err != nil || !info.Mode().IsRegular() {
		root.Close()
		return nil, nil, Usagef("%s is not a run folder: there is no %s in it", path, runMark)
	}
	if release, err = hold(root, unix.LOCK_EX); errors.Is(err, unix.EWOULDBLOCK) {
		err = (&Folder{path: path}).busy()
	}
	if err != nil {
		root.Close()
		return nil, nil, err
	}
	return root, release, nil
}

// RemoveFolder removes what a run made, and the folder if nothing else is in it. What else there is stays, and is named. Of a stream, the
// runs of its requests and its record go with it. Links are removed and not followed.
func RemoveFolder(path string) (left []string, err error) {
	root, release, err := removable(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	defer release()
	if err := removeRequests(root); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := removeRun(root, "."); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	rest, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rest) == 0 {
		whole, err := filepath.Abs(path) // the system removes no "."
		if err == nil {
			err = os.Remove(whole)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, reason(err))
		}
	}
	for _, e := range rest {
		left = append(left, e.Name())
	}
	return left, nil
}

// removeRun removes what a run made in a folder below root. The mark goes last: what is left of a removal that fails is a run folder still.
func removeRun(root *os.Root, folder string) error {
	names := slices.DeleteFunc(slices.Clone(ours), func(name string) bool { return name == runMark })
	for _, name := range append(names, lockName, runMark) {
		if err := root.RemoveAll(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

// removeRequests removes what a stream has that other runs have not; nothing where there is no stream.
func removeRequests(root *os.Root) error {
	if info, err := root.Lstat(requestsFolder); err != nil || !info.IsDir() {
		return nil //nolint:nilerr // no stream
	}
	all, err := fs.ReadDir(root.FS(), requestsFolder)
	if err != nil {
		return err
	}
	for _, e := range all {
		folder := filepath.Join(requestsFolder, e.Name())
		if mark, err := root.Lstat(filepath.Join(folder, runMark)); !e.IsDir() || err != nil || !mark.Mode().IsRegular() {
			continue // none of its runs
		}
		if err := errors.Join(removeRun(root, folder), removeEmpty(root, folder)); err != nil {
			return err
		}
	}
	return errors.Join(removeEmpty(root, requestsFolder), root.RemoveAll(recordName))
}

// removeEmpty removes a folder with nothing in it, and leaves another.
func removeEmpty(root *os.Root, folder string) error {
	if rest, err := fs.ReadDir(root.FS(), filepath.ToSlash(folder)); err != nil || len(rest) > 0 {
		return err
	}
	return root.Remove(folder)
}
