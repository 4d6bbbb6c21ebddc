package data

import (
	"context"
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

func (c classTree) open(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	if err := c.check(splits); err != nil {
		return nil, err
	}
	stream, err := src.compressed()
	if err != nil {
		return nil, err
	}
	if stream == nil {
		f, tree, err := c.find(ctx, src, nil)
		if err != nil {
			return nil, err
		}
		return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) { return c.split(f, tree, src.Dir, split) })
	}
	var from folder
	read := sync.OnceValues(func() (tree imageTree, err error) {
		from, tree, err = c.find(ctx, src, c.wanted(splits))
		return tree, err
	})
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		// An archive that was decoded before is not read again.
		key := func() (string, error) {
			k := src.newKey(c.name, split)
			k.add("", newFileInfo(stream))
			return k.String(), nil
		}
		open := func() (*imageSplit, error) {
			tree, err := read()
			if err != nil {
				return nil, err
			}
			return c.split(from, tree, src.Dir, split)
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

// wanted tells the files of a compressed archive that are in one of the splits.
func (c classTree) wanted(splits []string) func(name string) bool {
	var folders []string
	for _, split := range splits {
		folders = append(folders, c.splits[split]...)
	}
	return func(name string) bool {
		if is, err := isImage(name); !is || err != nil {
			return false
		}
		return slices.Contains(folders, ".") ||
			slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return slices.Contains(folders, part) })
	}
}

// find opens the folder or archive of a source and lists its images.
func (c classTree) find(ctx context.Context, src Source, wanted func(name string) bool) (f folder, tree imageTree, err error) {
	f, err = src.tree(ctx, wanted, func(f folder) bool {
		return slices.ContainsFunc(c.folders(), func(dir string) bool {
			return dir == "." && len(look{folder: f}.classes(dir)) > 0 || dir != "." && holds(dir)(f)
		})
	})
	if err == nil {
		tree, err = c.list(f)
	}
	return f, tree, err
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
