package data

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
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
	var tree imageTree
	if info.IsDir() {
		tree, err = listFolder(src.Dir)
	} else {
		tree, err = readArchive(ctx, src.Dir, splits)
	}
	if err != nil {
		return nil, err
	}
	if len(tree["train"]) == 0 {
		return nil, inputf(src.Dir, "no images under train/<class>/; the layout is train/<class>/*.jpg|png and test/<class>/… (or val/)")
	}
	classes := make([]string, 0, 16)
	for split, files := range tree {
		slices.SortFunc(files, imageFile.compare)
		for i := 1; i < len(files); i++ {
			if files[i].compare(files[i-1]) == 0 {
				return nil, inputf(src.Dir, "%s stands in it twice", path.Join(split, files[i].class, files[i].name))
			}
		}
	}
	for _, f := range tree["train"] {
		if len(classes) == 0 || classes[len(classes)-1] != f.class {
			classes = append(classes, f.class)
		}
	}
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		folder := split
		if split == "test" && len(tree["test"]) == 0 {
			folder = "val" // ImageNet has no labelled test split
		}
		if sets[i], err = decodeSplit(ctx, src, split, folder, classes, tree[folder]); err != nil {
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
			if info, err := os.Stat(folder); err != nil || !info.IsDir() || strings.HasPrefix(class.Name(), ".") {
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

// decodeSplit decodes the files of a split in parallel. They must all have the size of the first.
func decodeSplit(ctx context.Context, src Source, split, folder string, classes []string, files []imageFile) (*Set, error) {
	if len(files) == 0 {
		return nil, inputf(src.Dir, "no images under %s/<class>/", split)
	}
	where := func(f imageFile) string {
		member := path.Join(folder, f.class, f.name)
		if f.content != nil {
			return src.Dir + ":" + member
		}
		return filepath.Join(src.Dir, filepath.FromSlash(member))
	}
	load := func(f imageFile) ([]byte, error) {
		if f.content != nil {
			return f.content, nil
		}
		return readFile(where(f))
	}
	first, err := load(files[0])
	if err != nil {
		return nil, err
	}
	width, height, err := imageSize(first)
	if err != nil {
		return nil, &InputError{Path: where(files[0]), Err: err}
	}
	size := 3 * width * height
	if size > maxSetBytes/len(files) {
		return nil, inputf(src.Dir, "%d images of %d x %d pixels need more than %d bytes of memory; make them smaller first",
			len(files), width, height, int64(maxSetBytes))
	}
	s := &Set{
		Dataset: "imagefolder", Split: split, Classes: classes, C: 3, H: height, W: width,
		Pixels: make([]byte, size*len(files)), Labels: make([]int, len(files)), Names: make([]string, len(files)),
	}
	const chunk = 64 // images a goroutine takes at a time
	group, inner := src.pool(ctx)
	for start := 0; start < len(files) && inner.Err() == nil; start += chunk {
		group.Go(func() error {
			for i := start; i < min(start+chunk, len(files)); i++ {
				if err := inner.Err(); err != nil {
					return err
				}
				f := files[i]
				label, known := slices.BinarySearch(classes, f.class)
				if !known {
					return inputf(where(f), "class %q has no images under train/", f.class)
				}
				content, err := load(f)
				if err != nil {
					return err
				}
				if err := decodeImage(s.Image(i), content, width, height); err != nil {
					return decodeError(where(f), where(files[0]), content, width, height, err)
				}
				s.Labels[i] = label
				s.Names[i] = path.Join(folder, f.class, f.name)
			}
			return nil
		})
	}
	if err := cmp.Or(group.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	return s, nil
}

// decodeError tells an image of another size from a broken one.
func decodeError(file, first string, content []byte, width, height int, err error) error {
	if w, h, sizeErr := imageSize(content); sizeErr == nil && (w != width || h != height) {
		return inputf(file, "%d x %d pixels, but %s has %d x %d; all images must have one size", w, h, first, width, height)
	}
	return &InputError{Path: file, Err: err}
}
