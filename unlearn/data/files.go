package data

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// files are those of a dataset, by their names in it, with slashes.
type files interface {
	read(name string) ([]byte, error)
	path(name string) string // where a file lies, for people
}

// storedFiles are files of which the system can tell whether they have changed.
type storedFiles interface {
	files
	info(name string) (fileInfo, error)
}

// folder is the files of a folder, which are read when they are asked for.
type folder struct {
	dir string
	fs  fs.FS
}

// system is the operating system's files of a folder. Unlike os.DirFS it takes names that are not UTF-8.
type system string

func (s system) Open(name string) (fs.File, error) { return os.Open(s.at(name)) }

func (s system) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(s.at(name)) }

func (s system) Stat(name string) (fs.FileInfo, error) { return os.Stat(s.at(name)) }

func (s system) at(name string) string { return filepath.Join(string(s), filepath.FromSlash(name)) }

func (f folder) path(name string) string {
	if p, ok := f.fs.(*packed); ok {
		return p.path(name)
	}
	return system(f.dir).at(name)
}

// unreadable is the error of an operation on a file.
func (f folder) unreadable(name string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return &InputError{Path: f.path(name), Err: err}
}

// read reads a regular file whole, following links.
func (f folder) read(name string) ([]byte, error) {
	info, err := f.stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, inputf(f.path(name), "not a regular file")
	}
	file, err := f.fs.Open(name)
	if err != nil {
		return nil, f.unreadable(name, err)
	}
	defer file.Close()
	return readMember(f.path(name), info.Size(), file)
}

func (f folder) stat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(f.fs, name)
	if err != nil {
		return nil, f.unreadable(name, err)
	}
	return info, nil
}

func (f folder) info(name string) (fileInfo, error) {
	info, err := f.stat(name)
	if err != nil {
		return fileInfo{}, err
	}
	return newFileInfo(info), nil
}

// sub is a folder in this one.
func (f folder) sub(dir string) folder {
	switch files := f.fs.(type) {
	case system:
		return folder{f.path(dir), system(f.path(dir))}
	case *packed:
		below := *files
		below.root = path.Join(files.root, dir)
		return folder{f.path(dir), &below}
	default:
		below, _ := fs.Sub(files, dir) // which fails on no constant path
		return folder{f.path(dir), below}
	}
}

// unwrap returns the folder of an archive in which found is true: its top, or the one folder that this holds, and so on; files
// may lie beside that. Where there is none it is the top.
func (f folder) unwrap(found func(folder) bool) folder {
	for at := f; ; {
		if found(at) {
			return at
		}
		inner, err := at.folders(".")
		if err != nil || len(inner) != 1 {
			return f
		}
		at = at.sub(inner[0])
	}
}

// has reports whether there is a regular file of this name.
func (f folder) has(name string) bool {
	info, err := fs.Stat(f.fs, name)
	return err == nil && info.Mode().IsRegular()
}

// readFile reads a regular file whole, following links.
func readFile(file string) ([]byte, error) {
	dir, name := filepath.Split(file)
	return folder{dir, system(dir)}.read(name)
}

// list returns what a folder in this one holds, sorted by name, without what is hidden. Of a folder that is missing it is
// nothing.
func (f folder) list(dir string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.fs, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, f.unreadable(dir, err)
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), nil
}

// folders returns the names of the folders in dir, and of links to such, sorted.
func (f folder) folders(dir string) (names []string, err error) {
	entries, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		isDir := e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			info, err := f.stat(path.Join(dir, e.Name()))
			if err != nil { // a link to nowhere: to leave a class out would shift the labels of those behind it
				return nil, err
			}
			isDir = info.IsDir()
		}
		if isDir {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// images returns the images in dir, sorted, as names with dir in front. A folder in it is an error.
func (f folder) images(dir string) (names []string, err error) {
	entries, err := f.list(dir)
	if err != nil {
		return nil, err
	}
	names = make([]string, 0, len(entries))
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			return nil, inputf(f.path(name), "a folder where images are expected")
		}
		ok, err := isImage(name)
		if err != nil {
			return nil, &InputError{Path: f.path(name), Err: err}
		}
		if ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// Suffixes that torchvision reads. Skipping some of them quietly would shift the sample indices, so those are errors.
var (
	imageSuffixes   = []string{".jpg", ".jpeg", ".png"}
	foreignSuffixes = []string{".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
)

// isImage tells an image by its name, and fails for one of a format that is not read here.
func isImage(name string) (bool, error) {
	suffix := strings.ToLower(path.Ext(name))
	if slices.Contains(foreignSuffixes, suffix) {
		return false, errors.New("images must be JPEG or PNG")
	}
	return slices.Contains(imageSuffixes, suffix), nil
}
