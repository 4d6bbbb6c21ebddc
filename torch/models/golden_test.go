package models

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/optim"
)

// Every network after torch.manual_seed(0): size, keys in order, shapes, values, and where the generator stands afterwards;
// then logits and gradients in both modes. Its values are of PyTorch, most of them of torchvision's own networks.
func TestGolden(t *testing.T) {
	data, err := os.ReadFile(reference.Golden(t, "networks.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows map[string]json.RawMessage
	var about map[string]string
	if err := errors.Join(json.Unmarshal(data, &rows), json.Unmarshal(rows["about"], &about)); err != nil {
		t.Fatal(err)
	}
	here := reference.MadeHere(about)
	sameDraws := about["cpu_capability"] == torch.Build().CPUCapability // normal draws depend on it in the last bits
	delete(rows, "about")
	if known := slices.Sorted(maps.Keys(rows)); !slices.Equal(known, Names()) {
		t.Errorf("references of %v, networks %v", known, Names())
	}
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			if reference.Spared(name) {
				t.Skip("set L2UL_LONG=1 for the large networks")
			}
			type pass struct {
				SHA256       string // of logits, then gradients
				Logits, Sums []float64
			}
			var want struct {
				Next             float32 // the generator's next uniform
				Parameters, MACs int64
				Tensors          int
				Keys, SHA256     string
				Sums             []float64
				Eval, Train      pass
			}
			if err := json.Unmarshal(rows[name], &want); err != nil {
				t.Fatal(err)
			}
			torch.ManualSeed(0)
			m := newModel(t, name, Options{})
			card, _ := Info(name)
			params, state := m.Root().Parameters(), m.Root().StateDict()
			var count int64
			for _, p := range params {
				count += p.Numel()
			}
			if len(params) != want.Tensors || count != want.Parameters || card.Parameters != want.Parameters || card.MACs != want.MACs {
				t.Errorf("%d parameters with %d values; the card says %d, and %d MACs; want %d with %d and %d MACs",
					len(params), count, card.Parameters, card.MACs, want.Tensors, want.Parameters, want.MACs)
			}
			run(t, func() {
				if next := torch.Rand([]int64{1}, false).Item(); float32(next) != want.Next {
					t.Errorf("the next uniform is %g, want %g", next, want.Next)
				}
				var lines []string
				var values []torch.Tensor
				for _, n := range state {
					lines = append(lines, fmt.Sprint(n.Name, " ", n.Tensor.Dtype(), " ", n.Tensor.Shape()))
					values = append(values, n.Tensor)
				}
				if fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(lines, "\n")))) != want.Keys {
					t.Fatalf("other keys or shapes:\n%s", strings.Join(lines, "\n"))
				}
				for i, v := range values {
					v = v.Detach().CastTo(torch.Double)
					if sum := v.Sum().Item(); math.Abs(sum-want.Sums[i]) > 1e-6*v.Abs().Sum().Item() {
						t.Errorf("%s: sum %g, want %g", state[i].Name, sum, want.Sums[i])
					}
				}
				if sameDraws && joint(values) != want.SHA256 {
					t.Error("initial weights have other bits")
				}
			})

			head := params[len(params)-2] // the weights of the last layer
			torch.ManualSeed(3)
			smallnet.DrawHead(m)
			nn.ToMemoryFormat(m, torch.ChannelsLast)
			size := usualSize(card, 64)
			for _, mode := range []string{"eval", "train"} { // training changes the running statistics
				want := map[string]pass{"eval": want.Eval, "train": want.Train}[mode]
				run(t, func() {
					var x torch.Tensor
					torch.Seeded(torch.NewGenerator(1), func() { x = torch.Rand([]int64{2, 3, size, size}, false).Contiguous(torch.ChannelsLast) })
					wave := make([]float32, 2*card.Classes)
					for i := range wave {
						wave[i] = float32(i%7 - 3)
					}
					m.Root().Train(mode == "train")
					torch.ManualSeed(2) // of dropout
					logits := m.Forward(x)
					grads := torch.Grad([]torch.Tensor{logits.Mul(torch.FromSlice(wave, 2, int64(card.Classes))).Sum()}, params)
					features := m.Features(x)
					if got := features.Shape(); !slices.Equal(got, []int64{2, head.Size(1)}) {
						t.Errorf("features have shape %v, the last layer %v", got, head.Shape())
					} else if head.Dim() == 2 && mode == "eval" && !torch.Equal(F.Linear(features, head, params[len(params)-1]), logits) {
						t.Error("the logits are not what the last layer makes of the features")
					}
					if here && joint(append([]torch.Tensor{logits}, grads...)) != want.SHA256 {
						t.Errorf("in mode %s, logits or gradients have other bits", mode)
					}
					if mode == "train" {
						return // without the same bits, normalising few values enlarges rounding a hundredfold
					}
					got, largest := torch.ToSlice[float32](logits.Detach().Narrow(1, 0, int64(min(card.Classes, 5)))), logits.Abs().Max().Item()
					for i, v := range want.Logits {
						if math.Abs(float64(got[i])-v) > 1e-4*largest {
							t.Errorf("logit %d is %g, want %g", i, got[i], v)
						}
					}
					got64 := torch.ToSlice[float64](sums(grads))
					for i, v := range got64 {
						if want := want.Sums[i]; math.Abs(v-want) > 1e-3*got64[i|1] {
							t.Errorf("gradient %d: sum %g, want %g", i/2, v, want)
						}
					}
				})
			}
		})
	}
}

// usualSize is the size of images for a test: the network's own, or a smaller one if it can be.
func usualSize(card Card, most int) int64 {
	if card.FixedSize {
		return int64(card.Size)
	}
	return int64(min(card.Size, most))
}

// joint is the sha256 of all values, one tensor after the other.
func joint(list []torch.Tensor) string {
	h := sha256.New()
	for _, t := range list {
		h.Write(t.Bytes())
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// golden is a file of reference tensors.
type golden struct {
	t *testing.T
	*ckpt.File
}

func loadGolden(t *testing.T, name string) golden {
	t.Helper()
	f, err := ckpt.Load(reference.Golden(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return golden{t, f}
}

// tensor copies a reference into the current scope.
func (g golden) tensor(name string) torch.Tensor {
	g.t.Helper()
	stored, ok := g.Lookup(name)
	if !ok {
		g.t.Fatalf("no reference %s", name)
	}
	named, err := nn.Unpack(&ckpt.File{Tensors: []ckpt.Tensor{*stored}})
	if err != nil {
		g.t.Fatal(err)
	}
	return named[0].Tensor
}

// near compares values with a reference, relative to the largest of it.
func (g golden) near(name string, got torch.Tensor, tolerance float64) {
	g.t.Helper()
	want := g.tensor(name)
	got = got.CastTo(want.Dtype())
	scale := want.Abs().Max().Item()
	if worst := got.Sub(want, 1).Abs().Max().Item(); !(worst <= tolerance*scale) {
		g.t.Errorf("%s: off by %g, the largest value is %g", name, worst, scale)
	}
}

// flat lays tensors end to end, as the references are stored.
func flat(list []torch.Tensor) torch.Tensor {
	parts := make([]torch.Tensor, len(list))
	for i, t := range list {
		parts[i] = t.Contiguous(torch.Contiguous).View(-1)
	}
	return torch.Cat(parts, 0)
}

// sums lists Σv and Σ|v| of every tensor, in float64.
func sums(list []torch.Tensor) torch.Tensor {
	rows := make([]torch.Tensor, len(list))
	for i, t := range list {
		v := t.Detach().CastTo(torch.Double)
		rows[i] = torch.Stack([]torch.Tensor{v.Sum(), v.Abs().Sum()}, 0)
	}
	return torch.Stack(rows, 0)
}

// blockNet is one residual block on pixels with a classifier behind it.
type blockNet struct {
	nn.Base
	stem  nn.Module
	block nn.Module
	fc    *nn.LinearModule
}

func newBlockNet(block nn.Module, width int64) *blockNet {
	m := &blockNet{stem: conv(3, 8, 3, 1), block: block, fc: nn.Linear(width, 5, true)}
	m.Child("stem", m.stem)
	m.Child("block", m.block)
	m.Child("fc", m.fc)
	return m
}

func (m *blockNet) Forward(x torch.Tensor) torch.Tensor {
	return m.fc.Forward(globalAverage(m.block.Forward(m.stem.Forward(x))))
}

// One block of each kind, behind a convolution to 8 channels: logits and gradients in both modes.
func TestGoldenBlocks(t *testing.T) {
	for _, tt := range []struct {
		file  string
		make  func() nn.Module
		width int64
	}{
		{"block-a", func() nn.Module { return newResidualBlock(8, 16, 2, 0) }, 16},
		{"block-b-basic", func() nn.Module { return newCIFARBlock(8, 16, 2, false) }, 16},
		{"block-b-bottleneck", func() nn.Module { return newCIFARBlock(8, 8, 2, true) }, 32},
	} {
		t.Run(tt.file, func(t *testing.T) {
			g := loadGolden(t, tt.file+".safetensors")
			m := newBlockNet(tt.make(), tt.width)
			defer m.Free()
			run(t, func() {
				var weights []nn.Named
				for _, n := range m.StateDict() {
					weights = append(weights, nn.Named{Name: n.Name, Tensor: g.tensor("net." + n.Name)})
				}
				if err := nn.Restore(m, nn.Pack(weights), true); err != nil {
					t.Fatal(err)
				}
				y := g.tensor("y")
				for _, mode := range []string{"eval", "train"} {
					m.Train(mode == "train")
					x := g.tensor("x").SetRequiresGrad(true)
					logits := m.Forward(x)
					loss := F.CrossEntropy(logits, y, torch.Tensor{}, -100, "mean")
					grads := torch.Grad([]torch.Tensor{loss}, append([]torch.Tensor{x}, m.Parameters()...))
					g.near(mode+".logits", logits, 1e-5)
					g.near(mode+".loss", loss, 1e-5)
					g.near(mode+".grad.x", grads[0], 1e-5)
					g.near(mode+".grad", flat(grads[1:]), 1e-5)
				}
			})
		})
	}
}

// Whole networks in both memory formats: logits, gradients, and three steps of torch.optim.SGD. On a processor unlike the one
// that made the reference rounding differs from the first convolution on. resnet50 normalises over 16 values in its last
// stage, which enlarges that a hundredfold, and again with every step: there its first step counts, and more loosely.
func TestGoldenNetworks(t *testing.T) {
	g := loadGolden(t, "resnet.safetensors")
	here := reference.MadeHere(g.Metadata)
	for _, tt := range []struct {
		name    string
		n, size int64
		steps   int     // that another processor repeats
		slack   float64 // which it needs
	}{{"l2ul-resnet18", 8, 32, 3, 1}, {"resnet50", 4, 64, 1, 300}} {
		if here {
			tt.steps, tt.slack = 3, 1
		}
		for layout, format := range map[string]torch.MemoryFormat{"contiguous": torch.Contiguous, "channels_last": torch.ChannelsLast} {
			t.Run(tt.name+"/"+layout, func(t *testing.T) {
				g, tag := golden{t, g.File}, tt.name+"."+layout+"."
				torch.ManualSeed(0)
				m := newModel(t, tt.name, Options{})
				nn.ToMemoryFormat(m, format)
				params := m.Root().Parameters()
				opt := optim.SGD(0.01, 0.9, 0, 1e-4, false)
				defer opt.Free()
				opt.AddParameters(params)
				run(t, func() {
					var x torch.Tensor
					torch.Seeded(torch.NewGenerator(1), func() { x = torch.Rand([]int64{tt.n, 3, tt.size, tt.size}, false) })
					x, y := x.Contiguous(format), g.tensor(tt.name+".y")
					m.Root().Eval()
					g.near(tag+"eval.logits", m.Forward(x), 1e-5)
					m.Root().Train(true)
					for step := range tt.steps {
						opt.ZeroGrad()
						logits := m.Forward(x)
						loss := F.CrossEntropy(logits, y, torch.Tensor{}, -100, "mean")
						loss.Backward()
						if step == 0 {
							g.near(tag+"train.logits", logits, tt.slack*1e-5)
							grads := make([]torch.Tensor, len(params))
							for i, p := range params {
								grads[i] = p.Grad()
							}
							g.near(tag+"grad.sums", sums(grads), tt.slack*1e-5)
						}
						opt.Step()
						state := slices.Clone(params)
						for _, b := range m.Root().NamedBuffers() {
							state = append(state, b.Tensor)
						}
						after := fmt.Sprintf("%storch.%d.", tag, step+1)
						g.near(after+"loss", loss, tt.slack*1e-4)
						g.near(after+"sums", sums(state), tt.slack*1e-5)
					}
				})
			})
		}
	}
}
