package data

import "context"

func init() {
	Register(Dataset{
		Name:    "csv",
		Summary: "images named in train.csv, test.csv and val.csv of a folder, with the columns path and label",
		Files:   true,
		Sized:   true,

		Resembles: func(_ context.Context, l look) bool { return l.file == "" && l.has("train.csv") },
		General:   true,

		Open: openCSV,
	})
}

func openCSV(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	tables := map[string]string{"train": "train.csv", "test": "test.csv", "val": "val.csv"}
	for _, split := range splits {
		if tables[split] == "" {
			return nil, unknownSplit("csv", split, tables)
		}
	}
	f, err := src.tree(ctx, nil, holds(tables["train"]))
	if err != nil {
		return nil, err
	}
	train, err := f.pairs(tables["train"], "path", "label")
	if err != nil {
		return nil, err
	}
	classes := distinct(train)
	return src.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		images := train
		if split != "train" {
			if images, err = f.pairs(tables[split], "path", "label"); err != nil {
				return nil, err
			}
		}
		s := &imageSplit{dataset: "csv", name: split, classes: classes, files: f}
		return s, s.label(f.path(tables[split]), images)
	})
}
