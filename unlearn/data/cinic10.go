package data

import (
	"context"
	"strings"
)

// CINIC-10 (Darlow et al., "CINIC-10 is not ImageNet or CIFAR-10", 2018): 90,000 images of 32x32 in each of train, valid and
// test.
func init() {
	tree := classTree{name: "cinic10", classes: 10, splits: map[string][]string{"train": {"train"}, "val": {"valid"}, "test": {"test"}}}
	Register(Dataset{
		Name:    tree.name,
		Summary: "CINIC-10 from its folder or archive: train/, valid/ and test/, each with ten classes",
		Files:   true,
		Sized:   true,

		Downloads: []Download{{"https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz", "6ee4d0c996905fe93221de577967a372"}},

		Resembles: func(_ context.Context, l look) bool {
			return strings.Join(l.classes("valid"), " ") == "airplane automobile bird cat deer dog frog horse ship truck"
		},

		Open: tree.open,
	})
}
