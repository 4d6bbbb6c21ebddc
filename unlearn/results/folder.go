package results

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// A Folder is a folder that is only read, and whose files cannot lead out of it: links that do are refused.
type Folder struct {
	Path string
	root *os.Root
}

// OpenFolder opens a folder for reading.
func OpenFolder(path string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, bare(err))
	}
	return &Folder{path, root}, nil
}

// Close gives the folder back.
func (f *Folder) Close() error { return f.root.Close() }

// Read returns a file of the folder, of at most limit bytes; name is slash-separated. One that is not there is an error that is
// fs.ErrNotExist.
func (f *Folder) Read(name string, limit int64) ([]byte, error) {
	return f.read(name, func(file *os.File, _ int64) ([]byte, error) {
		data, err := io.ReadAll(io.LimitReader(file, limit+1))
		if err == nil && int64(len(data)) > limit {
			err = fmt.Errorf("more than the %d bytes that are read of such a file", limit)
		}
		return data, err
	})
}

// tail returns the last bytes of a file, at most limit.
func (f *Folder) tail(name string, limit int64) ([]byte, error) {
	return f.read(name, func(file *os.File, size int64) ([]byte, error) {
		from := max(size-limit, 0)
		return io.ReadAll(io.NewSectionReader(file, from, limit))
	})
}

func (f *Folder) read(name string, read func(file *os.File, size int64) ([]byte, error)) ([]byte, error) {
	// Without O_NONBLOCK, opening a pipe would wait for its writer.
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, f.refuse(name, bare(err))
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, f.refuse(name, bare(err))
	}
	if !info.Mode().IsRegular() {
		return nil, f.refuse(name, errors.New("not a file"))
	}
	data, err := read(file, info.Size())
	if err != nil {
		return nil, f.refuse(name, bare(err))
	}
	return data, nil
}

// Names lists a folder within the folder, sorted, and at most limit names of it; none when it is not there.
func (f *Folder) Names(name string, limit int) ([]string, error) {
	return f.list(name, limit, func(fs.DirEntry) bool { return true })
}

// list is Names of those that are wanted.
func (f *Folder) list(name string, limit int, wanted func(fs.DirEntry) bool) ([]string, error) {
	dir, err := f.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, f.refuse(name, bare(err))
	}
	defer dir.Close()
	all, err := names(dir, limit, wanted)
	if err != nil {
		return nil, f.refuse(name, err)
	}
	return all, nil
}

func (f *Folder) refuse(name string, err error) error {
	return fmt.Errorf("%s/%s: %w", f.Path, name, err)
}

// has says whether the folder has such a file.
func (f *Folder) has(name string) bool {
	info, err := f.root.Lstat(name)
	return err == nil && info.Mode().IsRegular()
}

// bare is what the system said, without the operation and the path that it refused.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
