package data

import (
	"context"
	"slices"
)

// OpenPool reads images from outside a dataset, DIR/<class>/*, in the order of their paths. The folders have the names of
// classes of like, whose numbers the labels are, and images have its size. It fails with *InputError.
func OpenPool(ctx context.Context, src Source, like *Set) (*Set, error) {
	sets, err := Open(ctx, "folder", src, "train")
	if err != nil {
		return nil, err
	}
	pool := sets[0]
	if pool.C != like.C || pool.H != like.H || pool.W != like.W {
		return nil, inputf(src.Dir, "images of %d x %d pixels in %d channels, and those of %s have %d x %d in %d; --img-size gives both one size",
			pool.W, pool.H, pool.C, like.Dataset, like.W, like.H, like.C)
	}
	number := make([]int, len(pool.Classes))
	for i, name := range pool.Classes {
		if number[i] = slices.Index(like.Classes, name); number[i] < 0 {
			return nil, inputf(src.Dir, "the folder %q has the name of no class of %s; the classes are %s", name, like.Dataset, listClasses(like.Classes))
		}
	}
	pool.Fingerprint() // is of the files as they are, whatever the numbers of their classes
	labels := make([]int, pool.Len())
	for i, y := range pool.Labels {
		labels[i] = number[y]
	}
	pool.Labels, pool.Classes = labels, like.Classes
	return pool, nil
}

// Correction is a forget set whose goal is that a network has right what it has wrong, and the samples around it.
type Correction struct {
	Set   *ForgetSet // labels are what the network predicts, targets the true ones
	Right []int      // samples that the network has right as it is
	Rest  []int      // other samples that it has wrong, in random order
}

// DrawCorrection draws the forget set of a correction (spec/l2ul.md section 2.3): the first k samples of a random order of those
// whose prediction is not their label. More than there are is a *UsageError.
func DrawCorrection(pool *Set, predicted []int, k int, spec string, seed int64) (*Correction, error) {
	c := &Correction{}
	var wrong []int
	for i, y := range pool.Labels {
		if predicted[i] == y {
			c.Right = append(c.Right, i)
		} else {
			wrong = append(wrong, i)
		}
	}
	if k > len(wrong) {
		return nil, usagef("forget set %q: the network has only %d of the pool's %d images wrong", spec, len(wrong), pool.Len())
	}
	order := make([]int, len(wrong))
	for i, p := range randperm(len(wrong), len(wrong), seed) {
		order[i] = wrong[p]
	}
	set, err := newForgetSet(pool, order[:k:k], spec, seed)
	if err != nil {
		return nil, err
	}
	set.Split = "pool"
	targets := set.Labels
	set.Labels = make([]int, k)
	for i, n := range set.Indices {
		set.Labels[i] = predicted[n]
	}
	c.Set, c.Rest = set, order[k:]
	return c, set.SetTargets(targets, len(pool.Classes))
}
