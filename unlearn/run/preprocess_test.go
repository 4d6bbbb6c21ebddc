package run

import (
	"io"
	"strings"
	"testing"

	"l2ul/torch/models"
	"l2ul/unlearn/data"
	"l2ul/unlearn/data/resample"
)

// Sizes are timm's: the shorter side is floor(img_size / crop_pct).
func TestPreprocessFlags(t *testing.T) {
	imagenet := data.Preprocess{Resize: 256, Crop: 224, Filter: resample.Bilinear}
	for _, c := range []struct {
		flags DataOptions
		usual data.Preprocess
		want  data.Preprocess
	}{
		{DataOptions{}, data.Preprocess{}, data.Preprocess{}},
		{DataOptions{}, imagenet, imagenet},
		{DataOptions{ImgSize: "native"}, imagenet, data.Preprocess{}},
		{DataOptions{ImgSize: "224", CropPct: 0.875}, data.Preprocess{}, imagenet},
		{DataOptions{CropPct: 0.965}, imagenet, data.Preprocess{Resize: 232, Crop: 224, Filter: resample.Bilinear}},
		{DataOptions{ImgSize: "384", CropPct: 1, Interpolation: "bicubic"}, imagenet, data.Preprocess{Resize: 384, Crop: 384, Filter: resample.Bicubic}},
		{DataOptions{ImgSize: "112"}, imagenet, data.Preprocess{Resize: 128, Crop: 112, Filter: resample.Bilinear}},
		{DataOptions{ImgSize: "64"}, data.Preprocess{}, data.Preprocess{Resize: 64, Crop: 64, Filter: resample.Bilinear}},
	} {
		if got, err := c.flags.preprocess(c.usual); err != nil || got != c.want {
			t.Errorf("%+v on %v: %v, %v; want %v", c.flags, c.usual, got, err, c.want)
		}
	}
	for says, flags := range map[string]DataOptions{
		`--img-size "big"`:            {ImgSize: "big"},
		`--img-size "0"`:              {ImgSize: "0"},
		"leaves images as they are":   {ImgSize: "native", CropPct: 0.9},
		"more than 4096":              {ImgSize: "4097"},
		"images resized to 448000000": {ImgSize: "44800000", CropPct: 0.1},
	} {
		if err := flags.checkImages(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v does not say %q", flags, err, says)
		}
	}
}

// What is done to images comes from flags, else from the network, else from the dataset; what differs from the network's card is a
// warning that the result tells.
func TestPreprocessOfCard(t *testing.T) {
	for _, c := range []struct {
		dataset, model, size string
		mean                 []float64
		want                 string
		warnings             []string
	}{
		{"imagenet", "resnet50", "", nil, "resize 256 bilinear, crop 224", nil},
		{"imagenet", "resnet50", "native", nil, "native", []string{
			"the preparation of images is native, and resnet50 was made for resize 256 bilinear, crop 224",
		}},
		{"imagefolder", "l2ul-resnet18", "", nil, "native", nil},
		{"utkface", "l2ul-resnet18", "", nil, "resize 128 bilinear, crop 120", nil},
		{"utkface", "resnet18", "", nil, "resize 256 bilinear, crop 224", nil},
		{"cifar10", "resnet18", "", nil, "", nil},
		{"cifar100", "hf-vit_b_16", "224", nil, "resize 224 bilinear, crop 224", nil}, // as preset l2ul/cifar100-vit
		{"imagenet", "resnet50", "112", []float64{0, 0, 0}, "resize 128 bilinear, crop 112", []string{
			"the preparation of images is resize 128 bilinear, crop 112, and resnet50 was made for resize 256 bilinear, crop 224",
			"--mean is [0 0 0], and resnet50 was made for [0.485 0.456 0.406]",
		}},
	} {
		d := &desk{Invocation: Invocation{Console: NewConsole(TerminalOptions{Quiet: true}, io.Discard, io.Discard)}}
		d.source.Dataset, d.source.ImgSize, d.model.Model, d.model.Mean = c.dataset, c.size, c.model, c.mean
		if err := d.choosePreprocess(t.Context()); err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		card, err := models.Info(c.model)
		if err != nil {
			t.Fatal(err)
		}
		d.compareCard(card)
		if got := d.prepared(); got != c.want || strings.Join(d.warnings, "\n") != strings.Join(c.warnings, "\n") {
			t.Errorf("%s on %s: %q with warnings %q, want %q with %q", c.model, c.dataset, got, d.warnings, c.want, c.warnings)
		}
	}
	for says, source := range map[string]DataOptions{
		"cifar10 has pixels of one size":                     {Dataset: "cifar10", Interpolation: "bicubic"},
		"need a size, which neither imagefolder nor the net": {Dataset: "imagefolder", Interpolation: "bicubic"},
	} {
		d := &desk{source: source}
		d.model.Model = "l2ul-resnet18"
		if err := d.choosePreprocess(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v does not say %q", source, err, says)
		}
	}
}
