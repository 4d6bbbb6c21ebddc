package run

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"l2ul/torch/models"
	"l2ul/unlearn/data"
	"l2ul/unlearn/data/resample"
)

// nativeSize is what --img-size says for images as they are.
const nativeSize = "native"

// checkImages refuses a size that is none; it is called by the options that embed DataOptions.
func (o *DataOptions) checkImages() error {
	_, err := o.preprocess(data.Preprocess{})
	return err
}

// preprocess is what the flags make of what is usual for the network or the dataset.
func (o *DataOptions) preprocess(usual data.Preprocess) (p data.Preprocess, err error) {
	size := usual.Crop
	switch {
	case o.ImgSize == nativeSize:
		if o.CropPct != 0 || o.Interpolation != "" {
			return p, fmt.Errorf("--img-size native leaves images as they are: leave --crop-pct and --interpolation out")
		}
		return p, nil
	case o.ImgSize != "":
		if size, err = strconv.Atoi(o.ImgSize); err != nil || size < 1 {
			return p, fmt.Errorf("--img-size %q: give a number of pixels such as 224, or native", o.ImgSize)
		}
	case usual == data.Preprocess{}:
		return p, nil
	}
	p = data.Preprocess{Resize: size, Crop: size, Filter: cmp.Or(resample.Filter(o.Interpolation), usual.Filter, resample.Bilinear)}
	switch { // as timm has it: the shorter side is size / crop-pct, rounded down
	case o.CropPct != 0:
		p.Resize = int(math.Floor(float64(size) / o.CropPct))
	case usual.Crop != 0:
		p.Resize = size * usual.Resize / usual.Crop
	}
	return p, p.Check()
}

// usualPreprocess is what the network of a card expects of images, or nothing in particular.
func usualPreprocess(card models.Card) data.Preprocess {
	if card.Resize == 0 {
		return data.Preprocess{}
	}
	return data.Preprocess{Resize: card.Resize, Crop: card.Size, Filter: resample.Filter(card.Interpolation)}
}

// choosePreprocess decides what is done to the images of files: what flags say, else what is usual for the network, else for
// the dataset.
func (d *desk) choosePreprocess(ctx context.Context) error {
	set, known := data.Lookup(d.source.Dataset)
	if !known {
		return nil // which data.Open says better
	}
	if o := d.source; !set.Sized && o.ImgSize == "" { // pixels of one size, which are left as they are
		if o.CropPct != 0 || o.Interpolation != "" {
			return Usagef("--crop-pct and --interpolation: %s has pixels of one size; to resize them give --img-size", o.Dataset)
		}
		return nil
	}
	usual := set.Preprocess
	if d.model.Model == autoModel && d.model.Weights != "" {
		if err := d.openWeights(ctx); err != nil {
			return err
		}
	}
	if card, err := models.Info(d.model.Model); err == nil && card.Resize != 0 {
		usual = usualPreprocess(card)
	}
	var err error
	if d.preprocess, err = d.source.preprocess(usual); err != nil {
		return Usagef("%w", err)
	}
	if o := d.source; d.preprocess == (data.Preprocess{}) && (o.CropPct != 0 || o.Interpolation != "") {
		return Usagef("--crop-pct and --interpolation need a size, which neither %s nor the network has: give --img-size", o.Dataset)
	}
	d.sized = true
	return nil
}

// compareCard warns of images that are prepared in another way than the network of the card was trained on, which the result
// tells too.
func (d *desk) compareCard(card models.Card) {
	warn := func(what string, got, usual any) {
		text := fmt.Sprintf("%s is %v, and %s was made for %v", what, got, card.Name, usual)
		d.warnings = append(d.warnings, text)
		d.Console.Warn(text)
	}
	if usual := usualPreprocess(card); d.sized && usual != (data.Preprocess{}) && d.preprocess != usual {
		warn("the preparation of images", d.preprocess, usual)
	}
	if m := d.model.Mean; m != nil && !slices.Equal(m, card.Mean) {
		warn("--mean", m, card.Mean)
	}
	if s := d.model.Std; s != nil && !slices.Equal(s, card.Std) {
		warn("--std", s, card.Std)
	}
}

// prepared is the preparation of images for a result, "" where there is none to choose.
func (d *desk) prepared() string {
	if !d.sized {
		return ""
	}
	return d.preprocess.String()
}
