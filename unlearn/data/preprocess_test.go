package data

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"image"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/unlearn/data/resample"
)

// torchvisions is scripts/golden/preprocess.json: what Pillow and torchvision make of images.
type torchvisions struct {
	Settings    []Preprocess
	Photographs map[string][]string // by name, the sha256 of the pixels under each setting
	Files       map[string][]string
	Drawn       []struct {
		Width, Height int
		Sums          []string
	}
	Networks map[string]struct {
		Setting int
		Answers []struct {
			Class  int
			Logits []float64
		}
	}
}

func readReference(t *testing.T) (r torchvisions) {
	t.Helper()
	text, err := os.ReadFile("../../scripts/golden/preprocess.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// check compares what each setting makes of an image with its sums.
func (r *torchvisions) check(t *testing.T, name string, content []byte, sums []string) {
	t.Helper()
	for i, p := range r.Settings {
		planes := make([]byte, 3*p.Crop*p.Crop)
		if err := p.decodeImage(planes, content, p.Crop, p.Crop); err != nil {
			t.Errorf("%s, %v: %v", name, p, err)
			continue
		}
		if sum := sha256.Sum256(planes); hex.EncodeToString(sum[:]) != sums[i] {
			t.Errorf("%s, %v: the pixels are not torchvision's", name, p)
		}
	}
}

func photographs(t *testing.T) map[string][]byte {
	images := map[string][]byte{}
	for name, content := range members(t, shared(t, "imagenet-samples.tar"), 1) {
		images[path.Base(name)] = content
	}
	return images
}

// All pixels of photographs are those of Pillow and torchvision.
func TestPreprocessPhotographs(t *testing.T) {
	r, images := readReference(t), photographs(t)
	if len(images) != 61 || len(r.Photographs) != 61 || len(r.Settings) != 4 {
		t.Fatalf("%d photographs, sums of %d under %d settings", len(images), len(r.Photographs), len(r.Settings))
	}
	for name, content := range images {
		r.check(t, name, content, r.Photographs[name])
	}
}

// So are those of grey, CMYK, progressive and turned JPEGs.
func TestPreprocessFiles(t *testing.T) {
	r := readReference(t)
	for name, sums := range r.Files {
		content, err := os.ReadFile(filepath.Join("jpeg/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		r.check(t, name, content, sums)
	}
	if len(r.Files) < 9 {
		t.Errorf("%d files", len(r.Files))
	}
}

// And of images of all shapes.
func TestPreprocessShapes(t *testing.T) {
	r := readReference(t)
	for _, d := range r.Drawn {
		img := image.NewNRGBA(image.Rect(0, 0, d.Width, d.Height))
		for y := range d.Height {
			for x := range d.Width {
				for c := range 3 { // as preprocess.py draws
					img.Pix[y*img.Stride+4*x+c] = byte((7*x*x + 13*y*(c+1) + 5*x*y + 91*c) ^ (x * y / 4))
				}
				img.Pix[y*img.Stride+4*x+3] = 255
			}
		}
		r.check(t, image.Pt(d.Width, d.Height).String(), []byte(encodePNG(t, img)), d.Sums)
	}
	if len(r.Drawn) < 10 {
		t.Errorf("%d shapes", len(r.Drawn))
	}
}

// Networks of seeded weights say to the photographs what torchvision's say, from file to logits.
func TestNetworksOnPhotographs(t *testing.T) {
	if os.Getenv("L2UL_LONG") == "" {
		t.Skip("set L2UL_LONG=1 to let large networks look at 61 photographs")
	}
	r, images := readReference(t), photographs(t)
	names := slices.Sorted(maps.Keys(r.Photographs))
	for network, want := range r.Networks {
		p := r.Settings[want.Setting]
		err := torch.Run(torch.CPU, func() (err error) {
			var net models.Classifier
			torch.Seeded(torch.NewGenerator(0), func() {
				if net, err = models.New(network, models.Options{}); err == nil {
					smallnet.DrawHead(net)
				}
			})
			if err != nil {
				return err
			}
			defer net.Root().Free()
			net.Root().Eval()
			for i, name := range names {
				planes := make([]byte, 3*p.Crop*p.Crop)
				if err := p.decodeImage(planes, images[name], p.Crop, p.Crop); err != nil {
					return err
				}
				var logits []float32
				torch.Scope(func() {
					x := torch.FromBytes(torch.Byte, planes, 1, 3, int64(p.Crop), int64(p.Crop)).CastTo(torch.Float).DivScalar(255)
					torch.NoGrad(func() { logits = torch.ToSlice[float32](net.Forward(x)) })
				})
				for j, w := range want.Answers[i].Logits {
					if math.Abs(float64(logits[j])-w) > 1e-4*max(1, math.Abs(w)) {
						t.Errorf("%s, %s: logit %d is %v, torchvision's %v", network, name, j, logits[j], w)
					}
				}
				if class := slices.Index(logits, slices.Max(logits)); class != want.Answers[i].Class {
					t.Errorf("%s, %s: class %d, torchvision's %d", network, name, class, want.Answers[i].Class)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestPreprocessCheck(t *testing.T) {
	for says, p := range map[string]Preprocess{
		"the crop must have 1 to 224": {224, 256, resample.Bilinear},
		"the crop must have 1 to 256": {256, 0, resample.Bilinear},
		`interpolation "nearest"`:     {256, 224, "nearest"},
		"more than 4096":              {5000, 224, resample.Bicubic},
	} {
		_, err := Open(t.Context(), "shapes", Source{Preprocess: p}, "train")
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v does not say %q", p, err, says)
		}
	}
}
