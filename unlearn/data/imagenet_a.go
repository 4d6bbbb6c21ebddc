package data

import "context"

// ImageNet-A (Hendrycks et al., "Natural adversarial examples", 2021): 7,500 images in 200 folders, which are ImageNet's names
// of the classes. A label is the place among those 200.
func init() {
	tree := classTree{name: "imagenet-a", classes: 200, splits: undivided}
	Register(Dataset{
		Name:    tree.name,
		Summary: "ImageNet-A from its archive or folder: 200 classes, <wnid>/*.jpg; all images are both training and test images",
		Files:   true,
		Sized:   true,
		Whole:   true,

		// The sum is that of torch-uncertainty (ENSTA-U2IS-AI/torch-uncertainty).
		Downloads: []Download{{"https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar", "c3e55429088dc681f30d81f4726b6595"}},

		Resembles: func(_ context.Context, l look) bool { return l.wnids(".") == tree.classes },

		Open: tree.open,
	})
}
