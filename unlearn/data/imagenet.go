package data

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ImageNet's classification task of 2012 (Russakovsky et al., 2015). Training images lie in train/<wnid>/. The validation
// images, which stand for the test split too, are sorted likewise or, as they are published, all lie in val/; then their
// labels come from the development kit or from Kaggle's table. Archives are read as they are published.
func init() {
	tree := classTree{name: "imagenet", splits: map[string][]string{"train": {"train"}, "val": {"val"}, "test": {"val"}}}
	Register(Dataset{
		Name:    tree.name,
		Summary: "ImageNet (2012): train/<wnid>/ and val/, sorted or with the development kit's or Kaggle's labels, or the official archives in a folder",
		Files:   true,
		Sized:   true,

		Resembles: func(_ context.Context, l look) bool {
			return l.wnids("train") == 1000 || len(l.classes(path.Join(kaggleImages, "train"))) > 0 || l.has(imageNetTrain)
		},

		Open: func(ctx context.Context, src Source, splits []string) ([]*Set, error) {
			return openImageNet(ctx, tree, src, splits)
		},
	})
}

// kaggleImages is where Kaggle's archive of ImageNet has the images.
const kaggleImages = "ILSVRC/Data/CLS-LOC"

// The archives at image-net.org: a tar that holds a tar for each class, the validation images, and their labels.
const (
	imageNetTrain = "ILSVRC2012_img_train.tar"
	imageNetVal   = "ILSVRC2012_img_val.tar"
	imageNetKit   = "ILSVRC2012_devkit_t12.tar.gz"
)

// Files of the development kit: a number for each validation image, and the classes that the numbers are of.
const (
	groundTruth = "ILSVRC2012_validation_ground_truth.txt"
	metaMat     = "meta.mat"
)

// openImageNetFiles opens the folder or archive of ImageNet, or the folder with its official archives, as what they unpack to.
func openImageNetFiles(ctx context.Context, src Source) (folder, error) {
	f, err := src.tree(ctx, nil, func(f folder) bool { return holds("train")(f) || holds(kaggleImages)(f) })
	if err != nil || !f.has(imageNetTrain) {
		return f, err
	}
	p := newPacked(src.Dir)
	if err := p.addImageNet(ctx, src, f); err != nil {
		p.close()
		return f, err
	}
	return folder{src.Dir, p}, nil
}

// addImageNet lists the official archives in a folder.
func (p *packed) addImageNet(ctx context.Context, src Source, f folder) error {
	for _, archive := range []struct {
		file, folder string
		wanted       func(name string) bool
	}{{imageNetVal, "val", nil}, {imageNetKit, ".", isValidationLabels}} {
		if f.has(archive.file) {
			if err := p.add(ctx, f.path(archive.file), archive.folder, archive.wanted); err != nil {
				return err
			}
		}
	}
	if err := p.addImageNetTrain(ctx, src, f.path(imageNetTrain)); err != nil {
		return err
	}
	return p.sort()
}

// isValidationLabels tells the files of the development kit that are read.
func isValidationLabels(name string) bool {
	base := path.Base(name)
	return base == groundTruth || base == metaMat
}

// addImageNetTrain lists the tars in a tar, each as a folder of its name.
func (p *packed) addImageNetTrain(ctx context.Context, src Source, file string) error {
	in, _, err := openArchive(file)
	if err != nil {
		return err
	}
	p.archives = append(p.archives, in)
	classes, err := in.tarFiles(ctx, 0, in.info.Size())
	if err != nil {
		return err
	}
	images := make([][]*packedFile, len(classes))
	err = src.each(ctx, len(classes), func(i int) (err error) {
		images[i], err = in.tarFiles(ctx, classes[i].offset, classes[i].size)
		return err
	})
	if err != nil {
		return err
	}
	for i, class := range classes {
		name := strings.TrimSuffix(path.Base(class.name), ".tar")
		if name == "" || name[0] == '.' {
			return inputf(file, "%.80q is not named after a class", class.name)
		}
		if err := p.insert(path.Join("train", name), images[i]...); err != nil {
			return err
		}
	}
	return nil
}

func openImageNet(ctx context.Context, tree classTree, src Source, splits []string) ([]*Set, error) {
	if err := tree.check(splits); err != nil {
		return nil, err
	}
	root, err := openImageNetFiles(ctx, src)
	if err != nil {
		return nil, err
	}
	images := root
	if names, err := root.folders(kaggleImages); err != nil {
		return nil, err
	} else if len(names) > 0 {
		images = root.sub(kaggleImages)
	}
	found, err := tree.list(images)
	if err != nil {
		return nil, err
	}
	return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		if split == "train" || len(found["val"]) > 0 {
			return tree.split(images, found, images.dir, split)
		}
		return unsortedValidation(tree, root, images, found, split)
	})
}

// unsortedValidation is the split whose images all lie in val/.
func unsortedValidation(tree classTree, root, images folder, found imageTree, split string) (*imageSplit, error) {
	s := &imageSplit{dataset: tree.name, name: split, classes: tree.classNames(found), files: images}
	var err error
	if s.names, err = images.images("val"); err != nil {
		return nil, err
	}
	if len(s.names) == 0 {
		return nil, inputf(images.dir, "no images under val/ and val/<wnid>/")
	}
	source, wnids, err := validationLabels(root, s.names)
	if err != nil {
		return nil, err
	}
	s.labels = make([]int, len(s.names))
	for i, wnid := range wnids {
		label, known := slices.BinarySearch(s.classes, wnid)
		if !known {
			return nil, inputf(source, "class %q of %s has no images under train/", wnid, s.names[i])
		}
		s.labels[i] = label
	}
	return s, nil
}

// validationLabels finds the class of each image of val/, and where it stands.
func validationLabels(root folder, names []string) (source string, wnids []string, err error) {
	for _, reader := range []struct {
		file string
		read func(root folder, file string, names []string) ([]string, error)
	}{
		{"LOC_val_solution.csv", kaggleLabels},
		{"ILSVRC2012_devkit_t12/data/" + groundTruth, devkitLabels},
		{"data/" + groundTruth, devkitLabels},
	} {
		if root.has(reader.file) {
			wnids, err = reader.read(root, reader.file, names)
			return root.path(reader.file), wnids, err
		}
	}
	return "", nil, inputf(root.dir, "the images of val/ lie in no folders of their classes, and there are no labels of them: unpack the development kit (ILSVRC2012_devkit_t12/) or put LOC_val_solution.csv beside")
}

// kaggleLabels reads lines of "ILSVRC2012_val_00048981,n03995372 85 1 499 272", whose second field begins with the class.
func kaggleLabels(root folder, file string, names []string) ([]string, error) {
	rows, err := root.pairs(file, "ImageId", "PredictionString")
	if err != nil {
		return nil, err
	}
	byName := make(map[string]string, len(rows))
	for _, row := range rows {
		byName[row.name], _, _ = strings.Cut(row.value, " ")
	}
	wnids := make([]string, len(names))
	for i, name := range names {
		base := path.Base(name)
		wnid, ok := byName[strings.TrimSuffix(base, path.Ext(base))]
		if !ok {
			return nil, inputf(root.path(file), "no label of %s", name)
		}
		wnids[i] = wnid
	}
	return wnids, nil
}

// devkitLabels reads a number for each image, in the order of their names, and the classes of the numbers from meta.mat.
func devkitLabels(root folder, file string, names []string) ([]string, error) {
	text, err := root.read(file)
	if err != nil {
		return nil, err
	}
	numbers := strings.Fields(string(text))
	if len(numbers) != len(names) {
		return nil, inputf(root.path(file), "%d labels for the %d images under val/", len(numbers), len(names))
	}
	meta := path.Join(path.Dir(file), metaMat)
	content, err := root.read(meta)
	if err != nil {
		return nil, err
	}
	classes, err := synsets(content)
	if err != nil {
		return nil, &InputError{Path: root.path(meta), Err: err}
	}
	wnids := make([]string, len(names))
	for i, text := range numbers {
		number, err := strconv.Atoi(text)
		wnid, ok := classes[number]
		if err != nil || !ok {
			return nil, inputf(root.path(file), "line %d: %.40q is no number of a class in %s", i+1, text, meta)
		}
		wnids[i] = wnid
	}
	return wnids, nil
}
