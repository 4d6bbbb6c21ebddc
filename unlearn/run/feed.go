package run

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

// Three quirks of the published code at 5fb777b are of what it feeds a network with, not of what it computes (spec/l2ul.md
// section 7), so they are here, between loaders and everything else. With vit-clip, images are normalised when they are read,
// and the network takes them as they are: the attack then clips normalised values to [0, 1]. With utk-scale they are divided by 255
// twice. With utk-augment training images are random crops.

// FeedOptions are these quirks, but for vit-clip, which is the attack's.
type FeedOptions struct {
	Scale   string `flag:"compat.utk-scale" default:"off" oneof:"off|on|auto" group:"compatibility" help:"on: pixels are divided by 255 twice, which the weights must know; auto: for UTKFace"`
	Augment string `flag:"compat.utk-augment" default:"off" oneof:"off|on|auto" group:"compatibility" help:"on: images to forget and retained ones are random crops, perhaps mirrored, others at each pass; those of the slices to forget stay as they were at first; auto: for UTKFace"`
}

// feed says which of the quirks are in force.
type feed struct {
	Clip, Scale, Augment bool
}

// chooseFeed decides that, once network and dataset are known.
func (d *desk) chooseFeed(card models.Card) error {
	mean, std := d.normalisation(card)
	plain := !slices.ContainsFunc(mean, func(v float64) bool { return v != 0 }) && !slices.ContainsFunc(std, func(v float64) bool { return v != 1 })
	faces := strings.HasPrefix(d.source.Dataset, "utkface")
	switch {
	case d.clip == "on" && plain:
		return Usagef("--compat.vit-clip on: %s takes pixels as they are (mean 0, std 1), so there are no normalised values to clip; leave it out", card.Name)
	case d.fed.Scale == "on" && !faces:
		return Usagef("--compat.utk-scale on: the published code scales UTKFace so, and this is %s; leave it out (--mean 0,0,0 --std 255,255,255 does the same)", d.source.Dataset)
	case d.fed.Augment == "on" && !faces:
		return Usagef("--compat.utk-augment on: the published code crops UTKFace so, and this is %s; leave it out", d.source.Dataset)
	}
	transformer := strings.Contains(card.Name, "vit") || strings.HasPrefix(card.Name, "deit") // the same networks
	chosen := func(quirk string, auto bool) bool { return quirk == "on" || quirk == "auto" && auto }
	d.feed = feed{
		Clip: chosen(d.clip, !plain && transformer), Scale: chosen(d.fed.Scale, faces), Augment: chosen(d.fed.Augment, faces),
	}
	if p := d.preprocess; d.feed.Augment && p.Resize <= p.Crop {
		return Usagef("--compat.utk-augment: images of %d pixels, cut out of as many, leave nothing to crop at random; leave --img-size and --crop-pct out", p.Crop)
	}
	return nil
}

// table is what a byte becomes in each channel, Float [channels, 256]; undefined for value/255.
func (d *desk) table(channels int) torch.Tensor {
	if !d.feed.Clip && !d.feed.Scale {
		return torch.Tensor{}
	}
	t := data.PixelTable(channels)
	if d.feed.Scale {
		t = t.DivScalar(255)
	}
	if d.feed.Clip {
		mean, std := d.constants()
		t = t.Sub(mean, 1).Div(std)
	}
	return t
}

// constants are mean and standard deviation of the network's card or of the user, Float [3, 1].
func (d *desk) constants() (mean, std torch.Tensor) {
	card, err := models.Info(d.model.Model)
	if err != nil {
		panic(err) // the network has been made
	}
	m, s := d.normalisation(card)
	column := func(values []float64) torch.Tensor { return torch.FromSlice(values, 3, 1).CastTo(torch.Float) }
	return column(m), column(s)
}

// shown turns values that the network is fed with, planes of equal size, back into pixels in [0, 1], for people.
func (d *desk) shown(planes []float32) {
	size := len(planes) / d.train.C
	torch.Scope(func() {
		mean, std := []float32{0, 0, 0}, []float32{1, 1, 1}
		if d.feed.Clip {
			m, s := d.constants()
			mean, std = torch.ToSlice[float32](m), torch.ToSlice[float32](s)
		}
		if d.feed.Scale {
			for c := range mean {
				mean[c], std[c] = mean[c]*255, std[c]*255
			}
		}
		for i, v := range planes {
			planes[i] = min(max(v*std[i/size]+mean[i/size], 0), 1)
		}
	})
}

// quirks are the settings of auto as they are meant.
func (f feed) quirks() map[string]bool {
	return map[string]bool{"vit-clip": f.Clip, "utk-scale": f.Scale, "utk-augment": f.Augment}
}

// images names the quirks that change what a gradient of an image is of; vit-clip changes where it is normalised alone.
func (f feed) images() string {
	var names []string
	if f.Scale {
		names = append(names, "utk-scale")
	}
	if f.Augment {
		names = append(names, "utk-augment")
	}
	return strings.Join(names, " ")
}

// openBorders reads the training images once more, with the border that crops are cut from.
func (d *desk) openBorders(ctx context.Context) error {
	if !d.feed.Augment || d.borders != nil {
		return nil
	}
	set, err := d.bordered(ctx, d.preprocess.Resize-d.preprocess.Crop)
	if err != nil {
		return err
	}
	d.borders = d.loader(set)
	return nil
}

// crops are training images as the published code reads UTKFace's: each pass over them sees a random crop of each, mirrored half of the
// time. It draws them in worker processes, from generators that nobody knows; here a pass of a phase has a stream of its own.
type crops struct {
	images *data.View // with their border
	labels torch.Tensor
	side   int // of a crop
	border int // pixels that an image has more
	format torch.MemoryFormat
	stream string
	drawn  int // images that crops are drawn for, of which these are the first
	seed   int64
	pass   int // that is under way
	next   int // that the first image begins
}

// cropped are training images, in the role of part, as a phase sees them that has read so many of them before. Labels are those of
// the images where others are not given.
func (d *desk) cropped(phase data.Phase, part data.Part, indices []int, labels torch.Tensor, meter *data.Meter, read int64) *crops {
	n := int64(max(len(indices), 1))
	return &crops{
		images: d.borders.View(part, indices, meter), labels: labels, side: d.preprocess.Crop, border: d.preprocess.Resize - d.preprocess.Crop,
		format: d.format(), drawn: len(indices), seed: d.compute.Seed,
		stream: "compat/utk-augment/" + string(phase) + "/" + string(part), pass: int(read / n), next: int((read + n - 1) / n),
	}
}

// Len returns the number of images.
func (c *crops) Len() int { return c.images.Len() }

// Batch returns crops of images from to to-1. The first image begins another pass.
func (c *crops) Batch(from, to int) (x, y torch.Tensor, err error) {
	if x, y, err = c.images.Batch(from, to); err != nil {
		return x, y, err
	}
	if from == 0 {
		c.pass, c.next = c.next, c.next+1
	}
	if c.labels.Defined() {
		y = c.labels.Narrow(0, int64(from), int64(to-from))
	}
	windows := c.windows()
	parts := make([]torch.Tensor, to-from)
	for i := range parts {
		top, left, flip := windows[3*(from+i)], windows[3*(from+i)+1], windows[3*(from+i)+2]
		parts[i] = x.Narrow(0, int64(i), 1).Narrow(2, top, int64(c.side)).Narrow(3, left, int64(c.side))
		if flip == 1 {
			parts[i] = opFlip.One(parts[i], []int64{3})
		}
	}
	return torch.Cat(parts, 0).Contiguous(c.format), y, nil
}

var (
	opFlip        = torch.Define("aten::flip(Tensor self, int[] dims) -> Tensor")
	opRandomBelow = torch.Define("aten::randint.low_generator(SymInt low, SymInt high, SymInt[] size, *, Generator? generator, ScalarType? dtype=4, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")
)

// windows draws the crops of all images for the pass: top, left and whether to flip, of one after the other.
func (c *crops) windows() (w []int64) {
	torch.Scope(func() {
		g := torch.NewGenerator(seed.For(c.seed, c.stream, c.pass))
		n := int64(c.drawn)
		corners := opRandomBelow.One(0, int64(c.border)+1, []int64{n, 2}, g)
		flips := opRandomBelow.One(0, 2, []int64{n, 1}, g)
		w = torch.ToSlice[int64](torch.Cat([]torch.Tensor{corners, flips}, 1))
	})
	return w
}

// once is one crop of each image, for a phase that has its images once and for all: x is what it has without the quirk.
func (d *desk) once(phase data.Phase, indices []int, x torch.Tensor) (torch.Tensor, error) {
	if !d.feed.Augment {
		return x, nil
	}
	c := d.cropped(phase, data.PartForget, indices, torch.Tensor{}, nil, 0)
	if phase == data.PhaseAttack { // as its targets and starting points
		c.drawn = max(c.drawn, len(d.larger))
	}
	x, _, err := c.Batch(0, len(indices))
	return x, err
}

// passing are images that a phase goes through pass by pass: plain is what it has without the quirk.
func (f *forgetting) passing(phase data.Phase, part data.Part, indices []int, labels torch.Tensor, plain metrics.Images) metrics.Images {
	if !f.feed.Augment {
		return plain
	}
	return f.cropped(phase, part, indices, labels, f.meter, f.state.Reads[phase][part])
}

var _ metrics.Images = (*crops)(nil)

// utkMost is the largest forget set of the published code's grid for UTKFace.
const utkMost = 256

// subset returns the labels of the images that targets and starting points are drawn for, nil for those to forget alone: the
// forget set is then the first of them. Where it is not, auto is off, and says so.
func (d *desk) subset(o *attack.Options, set *data.ForgetSet) ([]int, error) {
	of, on, err := o.SubsetOf(utkMost)
	auto := o.Subset == "auto"
	if err != nil || !on || auto && !strings.HasPrefix(d.source.Dataset, "utkface") {
		return nil, err
	}
	labels, err := d.firstOf(of, set)
	if err != nil && auto {
		d.Console.Warn(fmt.Sprintf("--compat.utk-subset auto is off, since %d is not to be had: %s", of, strings.TrimPrefix(err.Error(), fmt.Sprintf("--compat.utk-subset %d: ", of))))
		return nil, nil
	}
	return labels, err
}

// firstOf returns the labels of so many images of the seed's permutation, if those of the set are the first of them.
func (d *desk) firstOf(of int, set *data.ForgetSet) ([]int, error) {
	if of > d.train.Len() {
		return nil, Usagef("--compat.utk-subset %d: there are only %s", of, Counted(d.train.Len(), "training image"))
	}
	spec, err := data.ParseSpec("random:" + strconv.Itoa(of))
	if err != nil {
		return nil, err
	}
	larger, err := spec.Resolve(d.train, d.compute.Seed)
	if err != nil {
		return nil, err
	}
	if k := len(set.Indices); set.Split != d.train.Split || k > of || !slices.Equal(larger.Indices[:k], set.Indices) {
		return nil, Usagef("--compat.utk-subset %d: the images to forget must be the first of so many: give -k N or --forget random:N, with N at most %d", of, of)
	}
	return larger.Labels, nil
}
