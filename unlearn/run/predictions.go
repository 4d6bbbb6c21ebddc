package run

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/metrics"
)

// PredictionsSchema is the schema name of Predictions.
const PredictionsSchema = "unlearn.predictions/1"

const (
	predictionsName = "predictions.json"
	picturesName    = "pictures"
	maxPictures     = 16 // images to forget that are drawn: more than people look at
)

// Predictions is predictions.json: what the network says of each image to forget, before and after.
type Predictions struct {
	Schema  string      `json:"schema"`
	Classes []string    `json:"classes"`
	Images  []Predicted `json:"images"` // in the order of the forget set
}

// Predicted is one image to forget.
type Predicted struct {
	Index       int          `json:"index"` // in the training set
	Label       int          `json:"label"`
	Target      *int         `json:"target,omitempty"` // the new label
	Before      *Prediction  `json:"before"`
	After       *Prediction  `json:"after"`
	Picture     string       `json:"picture,omitempty"`     // path of a PNG in the run folder
	Adversarial *Adversarial `json:"adversarial,omitempty"` // the first example made of it
}

// Prediction is the class of the largest logit, and its probability; null when that is not finite.
type Prediction struct {
	Class       int    `json:"class"`
	Probability Number `json:"probability"`
}

// Adversarial is an adversarial example as people look at it.
type Adversarial struct {
	Target       int     `json:"target"`       // the class to reach
	Class        int     `json:"class"`        // the one that the network saw in it
	Norm         float64 `json:"norm"`         // L2 norm of the perturbation, pixels in [0, 1]
	Picture      string  `json:"picture"`      // path of a PNG in the run folder
	Perturbation string  `json:"perturbation"` // the same, scaled so that the largest change is black or white and none is grey
}

// scored is the score on a set of images and, of the images to forget, what the network says of each.
type scored struct {
	Score
	Said []Prediction `json:"said,omitempty"`
}

// recorder hands out images and remembers which were asked for last, so that a batch that is tried again, because memory ran
// out, is noted in its place.
type recorder struct {
	metrics.Images
	from int
	said []Prediction
}

func (r *recorder) Batch(from, to int) (x, y torch.Tensor, err error) {
	r.from = from
	return r.Images.Batch(from, to)
}

// note keeps the class of each row of logits [n, C] and its probability.
func (r *recorder) note(logits torch.Tensor) {
	classes := int(logits.Size(1))
	values := torch.ToSlice[float64](logits.CastTo(torch.Double))
	i := r.from
	for row := range slices.Chunk(values, classes) {
		class, sum := 0, 0.0
		for c, v := range row {
			if v > row[class] { // of equal logits the first counts, as in scores
				class = c
			}
		}
		for _, v := range row {
			sum += math.Exp(v - row[class])
		}
		r.said[i] = Prediction{class, Number(1 / sum)}
		i++
	}
}

// predicted scores the network and keeps what it says of each image, in one pass.
func (f *forgetting) predicted(ctx context.Context, phase string, images metrics.Images) (scored, error) {
	r := &recorder{Images: images, said: make([]Prediction, images.Len())}
	network := f.frozen()
	scores, err := f.scoreEach(ctx, phase, r, func(x torch.Tensor) torch.Tensor {
		logits := network.Logits(x)
		r.note(logits)
		return logits
	})
	if err != nil {
		return scored{}, err
	}
	return scored{scores[0], r.said}, nil
}

// savePredictions writes predictions.json; after is what the network says at the end.
func (f *forgetting) savePredictions(after []Prediction) error {
	p := Predictions{Schema: PredictionsSchema, Classes: f.train.Classes}
	for i, index := range f.set.Indices {
		image := Predicted{Index: index, Label: f.set.Labels[i], After: &after[i]}
		if f.state.Said != nil { // unless the run goes on from a checkpoint of a version that did not keep it
			image.Before = &f.state.Said[i]
		}
		if len(f.set.Targets) > 0 {
			image.Target = &f.set.Targets[i]
		}
		if i < maxPictures {
			image.Picture = pictureOf(index, "")
			if at := firstOf(f.state.Pairs, i); at >= 0 {
				pair := f.state.Pairs[at]
				image.Adversarial = &Adversarial{
					Target: pair.Target, Class: pair.After, Norm: pair.Norm,
					Picture: pictureOf(index, "-adversarial"), Perturbation: pictureOf(index, "-perturbation"),
				}
			}
		}
		p.Images = append(p.Images, image)
	}
	return WriteJSON(f.folder.Path(predictionsName), p)
}

// pictureOf is the path of a picture in the run folder.
func pictureOf(index int, kind string) string {
	return fmt.Sprintf("%s/%d%s.png", picturesName, index, kind)
}

// firstOf is the place of the first pair of an image, -1 when it has none.
func firstOf(pairs []attack.Pair, source int) int {
	return slices.IndexFunc(pairs, func(p attack.Pair) bool { return p.Source == source })
}

// drawImages draws the first images to forget. Nothing is computed from pictures, so this counts as no reading.
func (f *forgetting) drawImages() error {
	if err := os.MkdirAll(f.folder.Path(picturesName), 0o755); err != nil {
		return err
	}
	for i, index := range f.set.Indices[:min(maxPictures, len(f.set.Indices))] {
		if err := f.draw(f.pixels(f.images.X, i), index, ""); err != nil {
			return err
		}
	}
	return nil
}

// drawExamples draws the first adversarial example of each of them, and its perturbation of x, the images that were attacked.
func (f *forgetting) drawExamples(set *attack.Set, x torch.Tensor) error {
	for i, index := range f.set.Indices[:min(maxPictures, len(f.set.Indices))] {
		at := firstOf(set.Pairs, i)
		if at < 0 { // no pair of --pairs has it
			continue
		}
		image, example := f.pixels(x, i), f.pixels(set.X, at)
		if err := f.draw(example, index, "-adversarial"); err != nil {
			return err
		}
		most := float32(0)
		for j := range example {
			example[j] -= image[j]
			most = max(most, example[j], -example[j])
		}
		for j := range example {
			example[j] = 0.5 + 0.5*example[j]/max(most, math.SmallestNonzeroFloat32)
		}
		if err := f.draw(example, index, "-perturbation"); err != nil {
			return err
		}
	}
	return nil
}

// pixels copies image i of x [n, C, H, W] out as planes with values in [0, 1].
func (f *forgetting) pixels(x torch.Tensor, i int) (planes []float32) {
	torch.Scope(func() { planes = torch.ToSlice[float32](x.Narrow(0, int64(i), 1).CastTo(torch.Float)) })
	f.shown(planes)
	return planes
}

// draw writes planes with values in [0, 1] as a PNG of the run folder.
func (f *forgetting) draw(planes []float32, index int, kind string) error {
	width, n := f.train.W, f.train.W*f.train.H
	picture := image.NewNRGBA(image.Rect(0, 0, width, f.train.H))
	channel := func(c, i int) uint8 { return uint8(math.Round(255 * float64(planes[min(c, f.train.C-1)*n+i]))) }
	for i := range n {
		picture.SetNRGBA(i%width, i/width, color.NRGBA{channel(0, i), channel(1, i), channel(2, i), 255})
	}
	var file bytes.Buffer
	if err := png.Encode(&file, picture); err != nil {
		return err
	}
	return WriteFile(f.folder.Path(pictureOf(index, kind)), file.Bytes())
}
