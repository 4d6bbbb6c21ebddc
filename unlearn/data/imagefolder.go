package data

import "context"

func init() {
	tree := classTree{name: "imagefolder", splits: map[string][]string{
		"train": {"train"}, "test": {"test", "val"}, "val": {"val"}, // ImageNet has no labelled test split
	}}
	Register(Dataset{
		Name:    tree.name,
		Summary: "JPEG and PNG files in train/<class>/ and test/<class>/ (or val/), in a folder or an archive: zip, tar, tar.gz or tar.zst",
		Files:   true,
		Sized:   true,

		Resembles: func(ctx context.Context, l look) bool { return len(l.classes("train")) > 0 || l.tree(ctx, "train") },
		General:   true,

		Open: tree.open,
	})
}
