package run

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/unlearn/data"
	"l2ul/unlearn/data/resample"
	"l2ul/unlearn/train"
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

// UTKFace is trained on windows of 120 pixels of images of 128, and scored in their middle. Images of 128 pixels are those windows
// without resizing.
func TestTrainingCropsOfUTKFace(t *testing.T) {
	t.Setenv("UNLEARN_CACHE", t.TempDir())
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(3, 4))
	photo := image.NewRGBA(image.Rect(0, 0, 128, 128))
	for i := range 10 {
		for at := range photo.Pix {
			photo.Pix[at] = byte(random.Uint32()) | byte(at%4/3*255) // opaque
		}
		var file bytes.Buffer
		if err := png.Encode(&file, photo); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d_0_1_x.png", 10+i)), file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := &desk{Invocation: Invocation{Console: NewConsole(TerminalOptions{Quiet: true}, io.Discard, io.Discard)}, device: torch.CPU}
	d.source.Dataset, d.source.DataDir, d.model.Model = "utkface", dir, "cifar-resnet18"
	err := torch.Run(torch.CPU, func() error {
		defer d.close()
		if err := d.openData(t.Context(), "train", "test"); err != nil {
			return err
		}
		plain := d.loader(d.train)
		same := func() *data.Loader { return plain }
		if l, err := d.trainOn(t.Context(), train.Options{}, same); l != plain || err != nil {
			t.Errorf("without crops: other images, %v", err)
		}
		wide, err := d.trainOn(t.Context(), train.Options{Augment: true}, same)
		if err != nil {
			return err
		}
		if got, want := middles(wide), middles(plain); !slices.Equal(got, want) {
			t.Error("images with a margin have another middle")
		}
		const i = 5
		file, err := os.Open(filepath.Join(dir, d.train.Names[i]))
		if err != nil {
			return err
		}
		defer file.Close()
		decoded, err := png.Decode(file)
		if err != nil {
			return err
		}
		const top, left = 1, 7 // of 0 to 8
		x, _ := wide.GatherCrops([]int{i}, torch.FromSlice([]int64{top, left, 1}, 1, 3), 4)
		got := torch.ToSlice[float32](x)
		for y := range 120 {
			for x := range 120 {
				r, _, _, _ := decoded.At(left+119-x, top+y).RGBA()
				if want := float32(r>>8) / 255; got[120*y+x] != want {
					t.Fatalf("pixel %d, %d of a crop is %g, not %g", x, y, got[120*y+x], want)
				}
			}
		}
		d.source.ImgSize = "64"
		if err := d.choosePreprocess(t.Context()); err != nil {
			return err
		}
		if m := d.margin(train.Options{Augment: true}); m != 0 {
			t.Errorf("images of another size have a margin of %d", m)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// middles are the pixels of some images.
func middles(l *data.Loader) []float32 {
	x, _ := l.Gather([]int{0, 3, 7})
	return torch.ToSlice[float32](x)
}
