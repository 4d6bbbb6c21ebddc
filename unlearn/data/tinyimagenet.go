package data

import (
	"context"
	"path"
	"slices"
	"strings"
)

// Tiny ImageNet (Stanford's course CS231n): 200 classes of 64x64. The labels of its test images are not public, so the
// validation images stand for them.
func init() {
	Register(Dataset{
		Name:    "tiny-imagenet",
		Summary: "Tiny ImageNet from its archive or folder: train/<wnid>/images/, val/images/ and val/val_annotations.txt",
		Files:   true,
		Sized:   true,

		Downloads: []Download{{"http://cs231n.stanford.edu/tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"}},

		Resembles: func(_ context.Context, l look) bool { return l.has("val/val_annotations.txt") },

		Open: openTinyImageNet,
	})
}

func openTinyImageNet(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	const dataset = "tiny-imagenet"
	list := map[string]func(folder, []string, *imageSplit) error{"train": tinyTrain, "val": tinyValidation, "test": tinyValidation}
	for _, split := range splits {
		if list[split] == nil {
			return nil, unknownSplit(dataset, split, list)
		}
	}
	f, err := src.tree(ctx, nil, holds("train"))
	if err != nil {
		return nil, err
	}
	classes, err := f.folders("train")
	if err != nil {
		return nil, err
	}
	if len(classes) == 0 {
		return nil, inputf(f.dir, "no classes under train/; the layout is train/<wnid>/images/*.JPEG")
	}
	return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		s := &imageSplit{dataset: dataset, name: split, classes: classes, files: f}
		return s, list[split](f, classes, s)
	})
}

func tinyTrain(f folder, classes []string, s *imageSplit) error {
	for label, class := range classes {
		names, err := f.images(path.Join("train", class, "images"))
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return inputf(f.path(path.Join("train", class)), "no images in images/")
		}
		s.names = append(s.names, names...)
		s.labels = append(s.labels, slices.Repeat([]int{label}, len(names))...)
	}
	return nil
}

// tinyValidation reads lines of "val_0.JPEG n03444034 0 32 44 62", separated by tabs.
func tinyValidation(f folder, classes []string, s *imageSplit) error {
	const file = "val/val_annotations.txt"
	text, err := f.read(file)
	if err != nil {
		return err
	}
	labels := map[string]int{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		fields := strings.Split(strings.TrimRight(line, "\r\n"), "\t")
		if len(fields) < 2 {
			return inputf(f.path(file), "line %d: %.80q has not the form NAME, tab, CLASS", number, line)
		}
		label, known := slices.BinarySearch(classes, fields[1])
		if !known {
			return inputf(f.path(file), "line %d: class %.40q has no folder under train/", number, fields[1])
		}
		labels[fields[0]] = label
	}
	if s.names, err = f.images("val/images"); err != nil {
		return err
	}
	if len(s.names) == 0 {
		return inputf(f.dir, "no images under val/images/")
	}
	for _, name := range s.names {
		label, ok := labels[path.Base(name)]
		if !ok {
			return inputf(f.path(file), "no label of %s", name)
		}
		s.labels = append(s.labels, label)
	}
	return nil
}
