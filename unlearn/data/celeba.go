package data

import (
	"context"
	"path"
)

// CelebA (Liu et al., "Deep learning face attributes in the wild", 2015), as Kaggle has it: the faces in one folder, and tables
// of 40 attributes, -1 or 1, and of the splits, 0, 1 and 2.
const (
	celebaImages     = "img_align_celeba"
	celebaAttributes = "list_attr_celeba.csv"
	celebaSplits     = "list_eval_partition.csv"
)

func init() {
	Register(Dataset{
		Name:    "celeba",
		Summary: "CelebA from its folder: " + celebaImages + "/, " + celebaAttributes + " and " + celebaSplits + "; --label names the attribute",
		Files:   true,
		Sized:   true,

		Labels:    true,
		Resembles: func(_ context.Context, l look) bool { return l.file == "" && l.has(celebaAttributes) },

		Open: openCelebA,
	})
}

func openCelebA(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	number := map[string]string{"train": "0", "val": "1", "test": "2"}
	for _, split := range splits {
		if number[split] == "" {
			return nil, unknownSplit("celeba", split, number)
		}
	}
	if src.Label == "" {
		return nil, usagef("dataset celeba: name the attribute that is to be the class with --label, as in --label Smiling")
	}
	f, err := src.tree(ctx, nil, holds(celebaAttributes))
	if err != nil {
		return nil, err
	}
	attributes, err := f.pairs(celebaAttributes, "image_id", src.Label)
	if err != nil {
		return nil, err
	}
	partition, err := f.pairs(celebaSplits, "image_id", "partition")
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(attributes))
	for _, p := range attributes {
		values[p.name] = p.value
	}
	dir := celebaImages
	if nested := path.Join(dir, dir); f.has(path.Join(nested, partition[0].name)) { // as Kaggle's archive unpacks
		dir = nested
	}
	return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		var images []pair
		for _, p := range partition {
			value, known := values[p.name]
			if !known {
				return nil, inputf(f.path(celebaAttributes), "no row of %s", p.name)
			}
			if p.value == number[split] {
				images = append(images, pair{path.Join(dir, p.name), value})
			}
		}
		s := &imageSplit{dataset: "celeba", name: split, classes: distinct(attributes), files: f}
		return s, s.label(f.path(celebaAttributes), images)
	})
}
