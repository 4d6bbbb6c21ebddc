package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/seed"
)

// curve is the log of a training run, step by step and epoch by epoch.
type curve struct {
	Loss    []float64 `json:"loss"`
	Hits    []int64   `json:"hits"`
	LR      []float64 `json:"lr"`
	ValHits []int64   `json:"val_hits"`
	ValLoss []float64 `json:"val_loss"`
}

// follow makes the job write its curve.
func (c *curve) follow(j *Job) {
	j.Observe = func(r Record) {
		c.Loss, c.Hits, c.LR = append(c.Loss, r.Loss), append(c.Hits, r.Hits), append(c.LR, r.LR)
	}
	j.Validated = func(v Validation) error {
		c.ValHits, c.ValLoss = append(c.ValHits, v.Score.Hits), append(c.ValLoss, v.Score.Loss)
		return nil
	}
}

// holdOut sets the job up as a recipe with --val asks for.
func holdOut(j *Job) {
	if j.Options.Val == 0 {
		return
	}
	held := j.Options.HoldOut(make([]int, len(j.Indices)), j.Seed)
	j.Indices = slices.DeleteFunc(j.Indices, func(i int) bool { return slices.Contains(held, i) })
	j.Val, j.AtOnce = j.Images.View(data.PartVal, held, nil), chunk.Fixed(64)
}

// floats are parameters and floating buffers: counts of batches are averaged in another way by PyTorch.
func floats(net nn.Module) []torch.Tensor {
	var all []torch.Tensor
	for _, t := range net.Root().StateDict() {
		if t.Tensor.Dtype() == torch.Float {
			all = append(all, t.Tensor)
		}
	}
	return all
}

// Every part of a recipe, against the loop that scripts/golden/recipes.py writes out with PyTorch's optimizers, schedulers,
// clipping and averages.
func TestRecipes(t *testing.T) {
	var file *ckpt.File
	if reference.Live() {
		file = reference.Remake(t, "recipes")
	} else {
		var err error
		if file, err = ckpt.Load(reference.Golden(t, "recipes.safetensors")); err != nil {
			t.Fatal(err)
		}
	}
	for name, tolerance := range map[string]float64{
		"sgd": 1e-4, "adam": 1e-3, "adamw": 1e-3, "cycle": 1e-4, "adam-cycle": 1e-3, "mix": 1e-4, "average": 1e-4, "amp": 0.1,
	} {
		t.Run(name, func(t *testing.T) {
			torch.Scope(func() {
				g := &smallnet.Golden{TB: t, Name: "tiny", File: file, Format: torch.ChannelsLast, Exact: reference.MadeHere(file.Metadata)}
				var o Options
				g.Meta(name, &o)
				job := newJob(t, 27, o)
				job.Net = g.Fresh()
				holdOut(job)
				var got curve
				got.follow(job)
				if err := job.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				g.Equal(name+".loss", torch.FromSlice(got.Loss), tolerance)
				g.Equal(name+".state", smallnet.Flat(floats(job.Net)), tolerance)
				sameRates(t, got.LR, torch.ToSlice[float64](g.Tensor(name+".lr")))
				if g.Exact {
					g.Equal(name+".hits", torch.FromSlice(got.Hits), 0)
				}
				if o.Val > 0 {
					g.Equal(name+".val_hits", torch.FromSlice(got.ValHits), 0)
					g.Equal(name+".val_loss", torch.FromSlice(got.ValLoss), tolerance)
				}
			})
		})
	}
}

// sameRates compares learning rates, which PyTorch multiplies up step by step.
func sameRates(t *testing.T, got, want []float64) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) <= 1e-12*math.Abs(b) }) {
		t.Errorf("rates %v, PyTorch's are %v", got, want)
	}
}

// real is results/train-real.json, which scripts/golden/recipes.py writes.
type real struct {
	About map[string]string `json:"about"`
	Model string            `json:"model"`
	Every int               `json:"every"`
	Seed  int64             `json:"seed"`
	SGD   realRun           `json:"sgd"`
	All   realRun           `json:"all"`
}

type realRun struct {
	Recipe Options `json:"recipe"`
	curve
	Floats string `json:"floats_sha256"`
}

// On real images, from scratch, training follows PyTorch: every loss, hit and score, and the weights at the end, bit for bit
// where the reference was made; else to rounding at first. The run is stopped halfway and goes on from what it saved.
func TestRealImages(t *testing.T) {
	shared := os.Getenv("L2UL_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	sets, err := data.Open(t.Context(), "imagefolder", data.Source{Dir: filepath.Join(shared, "data", "cifar10-jpeg.tar.zst")}, "test")
	if err != nil {
		t.Skipf("no real images here (set L2UL_SHARED): %v", err)
	}
	text, err := os.ReadFile(reference.Golden(t, filepath.Join("results", "train-real.json")))
	if err != nil {
		t.Fatal(err)
	}
	var want real
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	var some []int // in a set of their own: what is held out is drawn from all of it
	for i := 0; i < sets[0].Len(); i += want.Every {
		some = append(some, i)
	}
	set := subset(sets[0], some)
	exact := reference.MadeHere(want.About)
	for name, run := range map[string]realRun{"sgd": want.SGD, "all": want.All} {
		t.Run(name, func(t *testing.T) {
			var got curve
			start := func() *Job {
				var net models.Classifier
				torch.Seeded(torch.NewGenerator(seed.For(want.Seed, "train/init", 0)), func() {
					if net, err = models.New(want.Model, models.Options{}); err != nil {
						t.Fatal(err)
					}
				})
				t.Cleanup(net.Root().Free)
				nn.ToMemoryFormat(net, torch.ChannelsLast)
				job := newJobOn(t, set, run.Recipe)
				job.Net, job.Seed = net, want.Seed
				holdOut(job)
				got.follow(job)
				return job
			}
			torch.Scope(func() {
				job := start()
				ctx, cancel := context.WithCancelCause(t.Context())
				signal := errors.New("stopped by a test")
				var state State
				var file *ckpt.File
				job.Save = func(s *State, force bool) error {
					if s.Step == job.Steps()/2 {
						cancel(signal)
					}
					if force {
						state, file = *s, nn.Pack(s.Tensors)
					}
					return nil
				}
				if err := job.Run(ctx); !errors.Is(err, signal) || file == nil {
					t.Fatalf("stopped: %v", err)
				}
				job = start()
				if state.Tensors, err = nn.Unpack(file); err != nil {
					t.Fatal(err)
				}
				job.Resume = &state
				if err := job.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				sameRates(t, got.LR, run.LR)
				n := len(run.Loss)
				if !exact { // rounding grows from step to step
					n = 3
				}
				for i := range n {
					if exact && got.Loss[i] != run.Loss[i] || math.Abs(got.Loss[i]-run.Loss[i]) > 1e-3*run.Loss[i] {
						t.Fatalf("step %d has loss %.17g, PyTorch %.17g", i+1, got.Loss[i], run.Loss[i])
					}
				}
				if len(got.Loss) != len(run.Loss) || len(got.ValHits) != len(run.ValHits) {
					t.Errorf("%d steps and %d scores, want %d and %d", len(got.Loss), len(got.ValHits), len(run.Loss), len(run.ValHits))
				}
				if !exact {
					return
				}
				if !slices.Equal(got.Hits, run.Hits) || !slices.Equal(got.ValHits, run.ValHits) || !slices.Equal(got.ValLoss, run.ValLoss) {
					t.Errorf("hits %v, scores %v and %v; PyTorch has %v, %v and %v", got.Hits, got.ValHits, got.ValLoss, run.Hits, run.ValHits, run.ValLoss)
				}
				sum := sha256.New()
				for _, f := range floats(job.Net) {
					sum.Write(f.Detach().Contiguous(torch.Contiguous).Bytes())
				}
				if hash := hex.EncodeToString(sum.Sum(nil)); hash != run.Floats {
					t.Errorf("the weights have the hash %s, PyTorch's %s", hash, run.Floats)
				}
			})
		})
	}
}

// subset copies images of a set.
func subset(s *data.Set, indices []int) *data.Set {
	out := &data.Set{Dataset: s.Dataset, Split: s.Split, Classes: s.Classes, C: s.C, H: s.H, W: s.W}
	for _, i := range indices {
		out.Pixels, out.Labels = append(out.Pixels, s.Image(i)...), append(out.Labels, s.Labels[i])
	}
	return out
}
