package data

import (
	"context"
	"slices"
)

// undivided is of datasets whose images are not divided into splits: all of them can be forgotten, and are scored.
var undivided = map[string][]string{"train": {"."}, "test": {"."}}

func init() {
	tree := classTree{name: "folder", splits: undivided}
	Register(Dataset{
		Name:    tree.name,
		Summary: "JPEG and PNG files in <class>/ of a folder or archive, without splits: all images are both training and test images",
		Files:   true,
		Sized:   true,
		Whole:   true,

		Resembles: func(_ context.Context, l look) bool {
			names := l.classes(".")
			return len(names) > 0 && !slices.Contains(names, "train")
		},
		General: true,

		Open: tree.open,
	})
}
