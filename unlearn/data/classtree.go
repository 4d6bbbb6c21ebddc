package data

import (
	"cmp"
	"context"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// classTree is a dataset whose images lie in a folder for each class, those in a folder for each split. The label of a class
// is its place among the names of the training classes, sorted, as in torchvision's ImageFolder.
type classTree struct {
	name    string
	splits  map[string][]string // the folders of a split, of which the first that holds images is taken
	classes int                 // how many there must be; 0 for any number
}

// imageTree holds the images of each split's folder by their names, folder/class/file, in the order of samples.
type imageTree map[string][]string

// maxArchiveBytes bounds the compressed images of an archive that are in memory while it is decoded.
const maxArchiveBytes = 1 << 35

// archive is the files of an archive that are wanted, in memory.
type archive struct {
	file    string
	content map[string][]byte
}

func (a archive) read(name string) ([]byte, error) { return a.content[name], nil }
func (a archive) path(name string) string          { return a.file + ":" + name }

func (c classTree) open(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	if err := c.check(splits); err != nil {
		return nil, err
	}
	info, err := os.Stat(src.Dir)
	if err != nil {
		return nil, unreadable(err)
	}
	if info.IsDir() || src.fs != nil {
		f := src.folder()
		tree, err := c.list(f)
		if err != nil {
			return nil, err
		}
		return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) { return c.split(f, tree, src.Dir, split) })
	}
	read := sync.OnceValues(func() (*openedArchive, error) { return c.readArchive(ctx, src.Dir, splits) })
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		// An archive that was decoded before is not read again.
		key := func() (string, error) {
			k := src.newKey(c.name, split)
			k.add("", newFileInfo(info))
			return k.String(), nil
		}
		open := func() (*imageSplit, error) {
			a, err := read()
			if err != nil {
				return nil, err
			}
			return c.split(a.archive, a.tree, src.Dir, split)
		}
		if src.broken != nil {
			images, err := open()
			if err != nil {
				return nil, err
			}
			if sets[i], err = images.set(src.Preprocess); err != nil {
				return nil, err
			}
			sets[i].lazy = &lazyImages{images, src}
			continue
		}
		if sets[i], err = src.keep(ctx, c.name, split, key, open); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// check refuses splits that the dataset does not have.
func (c classTree) check(splits []string) error {
	for _, split := range splits {
		if c.splits[split] == nil {
			return unknownSplit(c.name, split, c.splits)
		}
	}
	return nil
}

// folders are the folders of all splits.
func (c classTree) folders() (names []string) {
	for _, folders := range c.splits {
		names = append(names, folders...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// list finds the images of a folder.
func (c classTree) list(f folder) (imageTree, error) {
	tree := imageTree{}
	for _, dir := range c.folders() {
		classes, err := f.folders(dir)
		if err != nil {
			return nil, err
		}
		for _, class := range classes {
			names, err := f.images(path.Join(dir, class))
			if err != nil {
				return nil, err
			}
			tree[dir] = append(tree[dir], names...)
		}
	}
	return tree, c.checkTree(f.dir, tree)
}

// checkTree refuses a tree without training images.
func (c classTree) checkTree(source string, tree imageTree) error {
	dir := c.splits["train"][0]
	if len(tree[dir]) == 0 {
		return inputf(source, "no images under %s/<class>/; the layout is %s/<class>/*.jpg|png", dir, dir)
	}
	return nil
}

// split returns a split of a tree.
func (c classTree) split(files files, tree imageTree, source, name string) (*imageSplit, error) {
	s := &imageSplit{dataset: c.name, name: name, files: files}
	for _, dir := range c.splits[name] {
		if s.names = tree[dir]; len(s.names) > 0 {
			break
		}
	}
	if len(s.names) == 0 {
		return nil, inputf(source, "no images under %s/<class>/", c.splits[name][0])
	}
	s.classes = c.classNames(tree)
	if n := len(s.classes); c.classes != 0 && n != c.classes {
		return nil, inputf(source, "%d classes under %s/; %s has %d", n, c.splits["train"][0], c.name, c.classes)
	}
	s.labels = make([]int, len(s.names))
	for i, file := range s.names {
		label, known := slices.BinarySearch(s.classes, classOf(file))
		if !known {
			return nil, inputf(files.path(file), "class %q has no images under %s/", classOf(file), c.splits["train"][0])
		}
		s.labels[i] = label
	}
	return s, nil
}

// classNames are the classes of the training images, sorted.
func (c classTree) classNames(tree imageTree) (names []string) {
	for _, file := range tree[c.splits["train"][0]] {
		if class := classOf(file); len(names) == 0 || names[len(names)-1] != class {
			names = append(names, strings.Clone(class))
		}
	}
	return names
}

// classOf is the name of the folder that a file lies in.
func classOf(file string) string {
	dir := file[:strings.LastIndexByte(file, '/')]
	return dir[strings.LastIndexByte(dir, '/')+1:]
}

// compareImages orders files of one folder by class and then by name.
func compareImages(a, b string) int {
	return cmp.Or(cmp.Compare(classOf(a), classOf(b)), cmp.Compare(a, b))
}

type openedArchive struct {
	archive
	tree imageTree
}

// readArchive reads the compressed images of the wanted splits, and the names of the others.
func (c classTree) readArchive(ctx context.Context, file string, splits []string) (*openedArchive, error) {
	var wanted []string
	for _, split := range splits {
		wanted = append(wanted, c.splits[split]...)
	}
	a := &openedArchive{archive{file, map[string][]byte{}}, imageTree{}}
	folders := c.folders()
	var total int64
	root := -1
	var above string
	err := walkTar(ctx, file, func(name string, size int64, content io.Reader) error {
		parts := strings.Split(name, "/")
		at := slices.IndexFunc(parts, func(p string) bool { return slices.Contains(folders, p) })
		if at < 0 {
			return nil
		}
		inside := path.Join(parts[at:]...)
		ok, err := isImage(inside)
		hidden := slices.ContainsFunc(parts[at:], func(p string) bool { return strings.HasPrefix(p, ".") })
		switch depth := len(parts) - at; {
		case hidden || depth < 3 || err == nil && !ok:
			return nil
		case err != nil:
			return inputf(file, "%s: %v", inside, err)
		case depth > 3:
			return inputf(file, "%s: nested too deep; the layout is %s/<class>/<file>", inside, parts[at])
		}
		if root < 0 {
			root, above = at, path.Join(parts[:at]...)
		}
		if at != root || path.Join(parts[:at]...) != above {
			return inputf(file, "%s and %s: two datasets in one archive", path.Join(above, parts[at]), path.Join(parts[:at+1]...))
		}
		a.tree[parts[at]] = append(a.tree[parts[at]], inside)
		if !slices.Contains(wanted, parts[at]) {
			return nil
		}
		if a.content[inside], err = readMember(a.path(inside), size, content); err != nil {
			return err
		}
		if total += size; total > maxArchiveBytes {
			return inputf(file, "more than %d bytes of images", int64(maxArchiveBytes))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, names := range a.tree {
		slices.SortFunc(names, compareImages)
		for i := 1; i < len(names); i++ {
			if names[i] == names[i-1] {
				return nil, inputf(file, "%s stands in it twice", names[i])
			}
		}
	}
	return a, c.checkTree(file, a.tree)
}
