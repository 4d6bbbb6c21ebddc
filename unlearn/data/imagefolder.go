package data

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

func init() {
	Register(Dataset{
		Name:    "imagefolder",
		Summary: "JPEG and PNG files in train/<class>/ and test/<class>/ (or val/), in a folder or a tar, tar.gz or tar.zst archive",
		Files:   true,
		Open:    openImageFolder,
	})
}

// imageFile is one image of a folder or archive.
type imageFile struct {
	class, name string
	content     []byte // of an archive's members; files of a folder are read when they are decoded
}

// imageSplit is a split whose images are still compressed.
type imageSplit struct {
	source  string // the folder or archive
	name    string // as the user calls it
	folder  string // its folder in there
	classes []string
	files   []imageFile
}

func (f imageFile) compare(g imageFile) int {
	return cmp.Or(cmp.Compare(f.class, g.class), cmp.Compare(f.name, g.name))
}

// imageTree holds the images of each split, "train", "test" and "val".
type imageTree map[string][]imageFile

// Suffixes that torchvision reads. Skipping some of them quietly would shift the sample indices, so those are errors.
var (
	imageSuffixes   = []string{".jpg", ".jpeg", ".png"}
	foreignSuffixes = []string{".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
	splitFolders    = []string{"train", "test", "val"}
)

// maxArchiveBytes bounds the compressed images of an archive that are in memory while it is decoded.
const maxArchiveBytes = 1 << 35

func openImageFolder(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	for _, split := range splits {
		if !slices.Contains(splitFolders, split) {
			return nil, usagef("dataset imagefolder has no split %q: choose train, test or val", split)
		}
	}
	info, err := os.Stat(src.Dir)
	if err != nil {
		return nil, unreadable(err)
	}
	read := sync.OnceValues(func() (tree imageTree, err error) {
		if info.IsDir() {
			tree, err = listFolder(src.Dir)
		} else {
			tree, err = readArchive(ctx, src.Dir, splits)
		}
		if err != nil {
			return nil, err
		}
		return tree, tree.sort(src.Dir)
	})
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		open := func() (*imageSplit, error) {
			tree, err := read()
			if err != nil {
				return nil, err
			}
			return tree.split(src.Dir, split)
		}
		key := func() (string, error) {
			if !info.IsDir() { // an archive that was decoded before is not read again
				k := newKey(split)
				k.add("", info)
				return k.String(), nil
			}
			s, err := open()
			if err != nil {
				return "", err
			}
			return s.key(ctx, src)
		}
		if sets[i], err = src.keep(ctx, split, key, open); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// add sorts a path split/class/file into the tree. Hidden files and files without an image suffix are passed over.
func (t imageTree) add(source string, parts []string, content []byte) error {
	if ok, err := isImageName(source, parts); !ok {
		return err
	}
	split := parts[0]
	t[split] = append(t[split], imageFile{class: parts[1], name: parts[2], content: content})
	return nil
}

// sort puts the images in the order of samples, and refuses a tree without training images and names that stand twice.
func (t imageTree) sort(source string) error {
	if len(t["train"]) == 0 {
		return inputf(source, "no images under train/<class>/; the layout is train/<class>/*.jpg|png and test/<class>/… (or val/)")
	}
	for split, files := range t {
		slices.SortFunc(files, imageFile.compare)
		for i := 1; i < len(files); i++ {
			if files[i].compare(files[i-1]) == 0 {
				return inputf(source, "%s stands in it twice", path.Join(split, files[i].class, files[i].name))
			}
		}
	}
	return nil
}

// split returns a split of a sorted tree.
func (t imageTree) split(source, name string) (*imageSplit, error) {
	s := &imageSplit{source: source, name: name, folder: name}
	if name == "test" && len(t["test"]) == 0 {
		s.folder = "val" // ImageNet has no labelled test split
	}
	if s.files = t[s.folder]; len(s.files) == 0 {
		return nil, inputf(source, "no images under %s/<class>/", name)
	}
	for _, f := range t["train"] {
		if n := len(s.classes); n == 0 || s.classes[n-1] != f.class {
			s.classes = append(s.classes, f.class)
		}
	}
	return s, nil
}

func isImageName(source string, parts []string) (bool, error) {
	name := parts[len(parts)-1]
	suffix := strings.ToLower(path.Ext(name))
	hidden := slices.ContainsFunc(parts, func(p string) bool { return strings.HasPrefix(p, ".") })
	foreign := slices.Contains(foreignSuffixes, suffix)
	if hidden || !foreign && !slices.Contains(imageSuffixes, suffix) || len(parts) < 3 {
		return false, nil
	}
	joined := path.Join(parts...)
	switch {
	case foreign:
		return false, inputf(source, "%s: images must be JPEG or PNG", joined)
	case len(parts) > 3:
		return false, inputf(source, "%s: nested too deep; the layout is %s/<class>/<file>", joined, parts[0])
	}
	return true, nil
}

func listFolder(dir string) (imageTree, error) {
	tree := imageTree{}
	for _, split := range splitFolders {
		classes, err := os.ReadDir(filepath.Join(dir, split))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, unreadable(err)
		}
		for _, class := range classes {
			folder := filepath.Join(dir, split, class.Name())
			if strings.HasPrefix(class.Name(), ".") {
				continue
			}
			info, err := os.Stat(folder)
			if err != nil { // a link to nowhere: to leave the class out would shift the labels of those behind it
				return nil, unreadable(err)
			}
			if !info.IsDir() {
				continue
			}
			files, err := os.ReadDir(folder)
			if err != nil {
				return nil, unreadable(err)
			}
			for _, f := range files {
				if f.IsDir() && !strings.HasPrefix(f.Name(), ".") {
					return nil, inputf(filepath.Join(folder, f.Name()),
						"a folder inside a class folder; the layout is %s/<class>/<file>", split)
				}
				if err := tree.add(dir, []string{split, class.Name(), f.Name()}, nil); err != nil {
					return nil, err
				}
			}
		}
	}
	return tree, nil
}

// readArchive reads the compressed images of the wanted splits, and the names of the others.
func readArchive(ctx context.Context, file string, splits []string) (imageTree, error) {
	wanted := slices.Clone(splits)
	if slices.Contains(splits, "test") {
		wanted = append(wanted, "val")
	}
	tree := imageTree{}
	var total int64
	root := -1
	var above string
	err := walkTar(ctx, file, func(name string, size int64, content io.Reader) error {
		parts := strings.Split(name, "/")
		at := slices.IndexFunc(parts, func(p string) bool { return slices.Contains(splitFolders, p) })
		if at < 0 {
			return nil
		}
		if ok, err := isImageName(file, parts[at:]); !ok {
			return err
		}
		if root < 0 {
			root, above = at, path.Join(parts[:at]...)
		}
		if at != root || path.Join(parts[:at]...) != above {
			return inputf(file, "%s and %s: two datasets in one archive", path.Join(above, parts[at]), path.Join(parts[:at+1]...))
		}
		var blob []byte
		if slices.Contains(wanted, parts[at]) {
			var err error
			if blob, err = readMember(file+":"+name, size, content); err != nil {
				return err
			}
			if total += size; total > maxArchiveBytes {
				return inputf(file, "more than %d bytes of images", int64(maxArchiveBytes))
			}
		}
		return tree.add(file, parts[at:], blob)
	})
	return tree, err
}

// path is where an image of the split lies, for people as well.
func (s *imageSplit) path(f imageFile) string {
	member := path.Join(s.folder, f.class, f.name)
	if f.content != nil {
		return s.source + ":" + member
	}
	return filepath.Join(s.source, filepath.FromSlash(member))
}

func (s *imageSplit) load(f imageFile) ([]byte, error) {
	if f.content != nil {
		return f.content, nil
	}
	return readFile(s.path(f))
}

// key identifies what the split is decoded from, by what the system tells of its files.
func (s *imageSplit) key(ctx context.Context, src Source) (string, error) {
	infos := make([]fs.FileInfo, len(s.files))
	err := src.each(ctx, len(s.files), func(i int) (err error) {
		if infos[i], err = os.Stat(s.path(s.files[i])); err != nil {
			return unreadable(err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	k := newKey(s.name)
	fmt.Fprintf(k.h, "%q\n", s.classes)
	for i, f := range s.files {
		k.add(path.Join(s.folder, f.class, f.name), infos[i])
	}
	return k.String(), nil
}

// set is the split without its pixels. Its size is that of the first image, which all others must have.
func (s *imageSplit) set() (*Set, error) {
	first, err := s.load(s.files[0])
	if err != nil {
		return nil, err
	}
	set := &Set{
		Dataset: "imagefolder", Split: s.name, Classes: s.classes, C: 3,
		Labels: make([]int, len(s.files)), Names: make([]string, len(s.files)),
	}
	if set.W, set.H, err = imageSize(first); err != nil {
		return nil, &InputError{Path: s.path(s.files[0]), Err: err}
	}
	for i, f := range s.files {
		label, known := slices.BinarySearch(s.classes, f.class)
		if !known {
			return nil, inputf(s.path(f), "class %q has no images under train/", f.class)
		}
		set.Labels[i], set.Names[i] = label, path.Join(s.folder, f.class, f.name)
	}
	return set, nil
}

// roundBytes are about what is decoded before it is handed on.
const roundBytes = 64 << 20

// decode hands the pixels of the images, which are those of set, to emit, in their order and many at a time. The next
// ones are decoded meanwhile.
func (s *imageSplit) decode(ctx context.Context, src Source, set *Set, emit func(pixels []byte) error) (err error) {
	size := 3 * set.H * set.W
	round := min(max(roundBytes/size, src.workers()), len(s.files))
	ready, next := make([]byte, 0, round*size), make([]byte, 0, round*size)
	var emitting errgroup.Group
	defer func() { err = cmp.Or(err, emitting.Wait()) }()
	for from := 0; from < len(s.files); from += round {
		files := s.files[from:min(from+round, len(s.files))]
		next = next[:len(files)*size]
		err := src.each(ctx, len(files), func(i int) error {
			content, err := s.load(files[i])
			if err != nil {
				return err
			}
			if err := decodeImage(next[i*size:(i+1)*size], content, set.W, set.H); err != nil {
				return decodeError(s.path(files[i]), s.path(s.files[0]), content, set.W, set.H, err)
			}
			return nil
		})
		if err := cmp.Or(err, emitting.Wait()); err != nil {
			return err
		}
		ready, next = next, ready
		pixels := ready
		emitting.Go(func() error { return emit(pixels) })
	}
	return nil
}

// decodeError tells an image of another size from a broken one.
func decodeError(file, first string, content []byte, width, height int, err error) error {
	if w, h, sizeErr := imageSize(content); sizeErr == nil && (w != width || h != height) {
		return inputf(file, "%d x %d pixels, but %s has %d x %d; all images must have one size", w, h, first, width, height)
	}
	return &InputError{Path: file, Err: err}
}
