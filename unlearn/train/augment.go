package train

import (
	"math"

	"l2ul/torch"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

const padding = 4

var (
	opRandomTo  = torch.Define("aten::randint.low_generator(SymInt low, SymInt high, SymInt[] size, *, Generator? generator, ScalarType? dtype=4, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")
	opDirichlet = torch.Define("aten::_sample_dirichlet(Tensor self, Generator? generator=None) -> Tensor")
)

// batch is what a step trains on. Draws are made on the CPU, so that a seed means the same images on every device.
type batch struct {
	x     torch.Tensor // Float [n, C, H, W] in [0, 1]
	y     torch.Tensor // Long [n]
	other torch.Tensor // Long [n]: the labels of what was mixed in; undefined where nothing was
	share float64      // of y in the loss
}

// images returns a step's batch, augmented and mixed if the recipe says so.
func (j *Job) images(indices []int, step int) (b batch) {
	if j.Options.Augment {
		b.x, b.y = j.Images.GatherCrops(indices, j.crops(len(indices), step), padding)
	} else {
		b.x, b.y = j.Images.Gather(indices)
	}
	if j.Options.MixUp > 0 || j.Options.CutMix > 0 {
		torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "train/mix", step)), func() { j.mix(&b) })
	}
	return b
}

// crops draws the crops of a step's n images, Long [n, 3]: top and left from 0 to 2·padding, and whether to flip.
func (j *Job) crops(n, step int) (crops torch.Tensor) {
	torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "train/augment", step)), func() {
		corners := draw(2*padding+1, int64(n), 2)
		flips := draw(2, int64(n), 1)
		crops = torch.Cat([]torch.Tensor{corners, flips}, 1)
	})
	return crops
}

// draw returns whole numbers from 0 to below limit.
func draw(limit int64, shape ...int64) torch.Tensor { return opRandomTo.One(0, limit, shape, nil) }

// mix blends every image with another of the batch. One share is drawn for all of them, from Beta(alpha, alpha):
//
//	mixup:  share·x + (1-share)·x'  (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018)
//	cutmix: x with a box of x' that has (1-share) of its area before it is cut off at the border; share is then what is left
//	        of x  (Yun et al., "CutMix", 2019)
func (j *Job) mix(b *batch) {
	alpha, cut := j.Options.MixUp, false
	if j.Options.CutMix > 0 && (alpha == 0 || torch.Rand([]int64{1}, false).Item() < 0.5) {
		alpha, cut = j.Options.CutMix, true
	}
	b.share = opDirichlet.One(torch.FromSlice([]float64{alpha, alpha}), nil).Select(0, 0).Item()
	partner := torch.RandPerm(b.x.Size(0)).To(b.x.Device(), torch.Long)
	b.other = b.y.IndexSelect(0, partner)
	from := b.x.IndexSelect(0, partner)
	if !cut {
		b.x = b.x.MulScalar(b.share).Add(from.MulScalar(1-b.share), 1)
		return
	}
	h, w := b.x.Size(2), b.x.Size(3)
	side := math.Sqrt(1 - b.share)
	top, height := span(draw(h, 1).ItemInt(), int64(float64(h)*side), h)
	left, width := span(draw(w, 1).ItemInt(), int64(float64(w)*side), w)
	box := func(x torch.Tensor) torch.Tensor { return x.Narrow(2, top, height).Narrow(3, left, width) }
	box(b.x).CopyI(box(from))
	b.share = 1 - float64(height*width)/float64(h*w)
}

// span is what lies inside an image of a stretch of it around a centre: its begin and length.
func span(centre, length, size int64) (begin, inside int64) {
	begin = max(centre-length/2, 0)
	return begin, min(centre+length/2, size) - begin
}

// loss is the mean cross-entropy that the recipe minimises, of images from to to-1 of the batch.
func (j *Job) loss(logits torch.Tensor, b *batch, from, to int) torch.Tensor {
	of := func(labels torch.Tensor) torch.Tensor {
		return metrics.SmoothedCrossEntropy(logits, labels.Narrow(0, int64(from), int64(to-from)), j.Options.LabelSmoothing)
	}
	if !b.other.Defined() {
		return of(b.y)
	}
	return of(b.y).MulScalar(b.share).Add(of(b.other).MulScalar(1-b.share), 1)
}
