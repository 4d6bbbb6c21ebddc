// Package analysis looks at what unlearning did to a network, beyond its accuracies (spec/l2ul.md section 8): which labels
// forgotten images get, how similar its layers stayed, how its decision boundary, the distance to it, its weights and its
// features moved. An analysis is one file here, whose init registers it. It computes and draws; package run finds the run
// and writes what comes out.
package analysis

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// Options are the settings of analyses.
type Options struct {
	Samples int `json:"samples" flag:"samples" default:"512" min:"2" max:"10000" arg:"N" group:"analyses" help:"images of a split, evenly spaced, for cka and embedding"`
	Images  int `json:"images" flag:"images" default:"4" min:"1" max:"64" arg:"N" group:"analyses" help:"images to forget around which the decision boundary is drawn"`
	Grid    int `json:"grid" flag:"grid" default:"101" min:"3" max:"501" arg:"N" group:"analyses" help:"points on each side of a slice through the decision boundary"`
}

// Analysis is an entry of the registry.
type Analysis struct {
	Name    string
	Summary string
	Source  string // where its form is from
	Reads   string // what it looks at
	Run     func(ctx context.Context, s *Subject) (*Finding, error)
}

var registry []*Analysis

// register enters an analysis; every file of one calls it from init.
func register(a *Analysis) { registry = append(registry, a) }

// All lists the analyses by name.
func All() []*Analysis {
	return slices.SortedFunc(slices.Values(registry), func(a, b *Analysis) int { return strings.Compare(a.Name, b.Name) })
}

// Network is a network of the two that are compared.
type Network struct {
	models.Classifier
	Frozen *engine.Network // the same, for logits and attacks
}

// Subject is a finished run of unlearning.
type Subject struct {
	Before, After Network
	Classes       []string
	Forget        *data.ForgetSet
	Rest          []int // D_r, in ascending order
	Train, Test   *data.Loader
	Forgotten     *data.Loader // that the indices of Forget are of: Train or, of a correction, the pool
	TestLen       int
	Shape         [3]int64 // channels, height and width of an image
	Device        torch.Device
	Format        torch.MemoryFormat
	Meter         *data.Meter    // in phase after
	Examples      *attack.Set    // that the method used; nil for one without an attack
	Cropped       bool           // they are of other crops of the images
	Attack        attack.Options // of that attack, or the defaults
	Importance    []nn.Named     // Ω of the trained parameters; nil for a method without
	Seed          int64
	Batch         *chunk.Size // images at once when scoring
	Pairs         *chunk.Size // images at once in an attack
	Options       Options

	// Progress begins a phase of so many units. set is told how many are done.
	Progress func(phase, unit string, total int) (set func(done int), end func())
}

// Finding is what an analysis comes to.
type Finding struct {
	Title    string
	Reading  string // how to read it, in one or two sentences
	Alt      string // the outcome in words
	Pictures []Picture
	Data     any // for JSON
}

// Picture is a drawing in two formats.
type Picture struct {
	Name       string // of the files, without suffix
	Title, Alt string
	PNG, SVG   []byte
}

// view hands out images of the subject, counted.
func (s *Subject) view(part data.Part, indices []int) *data.View {
	loader := s.Train
	switch part {
	case data.PartTest:
		loader = s.Test
	case data.PartForget:
		loader = s.Forgotten
	}
	return loader.View(part, indices, s.Meter)
}

// images reads images with these indices, Float [n, C, H, W], and counts them.
func (s *Subject) images(part data.Part, indices []int) (x torch.Tensor, err error) {
	x, _, err = s.view(part, indices).Batch(0, len(indices))
	return x, err
}

// here makes of rows of pixels [n, C·H·W] images where the networks are.
func (s *Subject) here(rows torch.Tensor) torch.Tensor {
	return rows.View(-1, s.Shape[0], s.Shape[1], s.Shape[2]).To(s.Device, torch.Float).Contiguous(s.Format)
}

// spaced picks at most n indices, evenly spaced.
func spaced(n int, indices []int) []int {
	limit, err := data.ParseLimit(strconv.Itoa(n))
	if err != nil {
		panic(err) // n is at least 1
	}
	return limit.Of(indices)
}

// batches calls compute with n images after another, as many at once as memory holds: where it runs out, the same ones come again in
// smaller parts, so compute keeps nothing before it has all.
func (s *Subject) batches(ctx context.Context, n int, compute func(from, to int) error) error {
	for from := 0; from < n; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		done, err := s.Batch.Do(n-from, func(m int) (err error) {
			torch.Scope(func() { torch.NoGrad(func() { err = compute(from, from+m) }) })
			return err
		})
		if err != nil {
			return err
		}
		from += done
	}
	return nil
}

// logits computes the logits of images x, in float64, row by row.
func (s *Subject) logits(ctx context.Context, net Network, x torch.Tensor) ([][]float64, error) {
	var rows [][]float64
	err := s.batches(ctx, int(x.Size(0)), func(from, to int) error {
		batch, err := net.classify(x.Narrow(0, int64(from), int64(to-from)))
		rows = append(rows[:from], batch...)
		return err
	})
	return rows, err
}

// classify computes logits of one batch of images.
func (n Network) classify(x torch.Tensor) ([][]float64, error) {
	rows := matrix(n.Frozen.Logits(x))
	for i, r := range rows {
		for c, v := range r {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, fmt.Errorf("the logit of image %d of a batch for class %d is %g; check the weights", i, c, v)
			}
		}
	}
	return rows, nil
}

// matrix copies a tensor [n, m] to Go.
func matrix(t torch.Tensor) [][]float64 {
	n, m := int(t.Size(0)), int(t.Size(1))
	values := torch.ToSlice[float64](t.CastTo(torch.Double))
	rows := make([][]float64, n)
	for i := range rows {
		rows[i] = values[i*m : (i+1)*m : (i+1)*m]
	}
	return rows
}

// best returns the places of the largest and the second largest value; of equal ones the first comes first. second is -1 for
// one value.
func best(values []float64) (first, second int) {
	second = -1
	for i, v := range values[1:] {
		switch i++; {
		case v > values[first]:
			first, second = i, first
		case second < 0 || v > values[second]:
			second = i
		}
	}
	return first, second
}

// softmax turns logits into probabilities.
func softmax(logits []float64) []float64 {
	p := make([]float64, len(logits))
	largest, sum := slices.Max(logits), 0.0
	for i, v := range logits {
		p[i] = math.Exp(v - largest)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// share is n of total as a fraction.
func share(n, total int) float64 { return float64(n) / float64(total) }

// percent writes a fraction for people.
func percent(v float64) string { return fmt.Sprintf("%.1f %%", 100*v) }
