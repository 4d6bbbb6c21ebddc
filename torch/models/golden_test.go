package models

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/optim"
)

// Every network after torch.manual_seed(0): keys in order, shapes, values, and where the generator stands afterwards.
func TestGoldenInit(t *testing.T) {
	data, err := os.ReadFile(reference.Golden(t, "init.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string]struct {
		CPU   string  `json:"cpu_capability"` // of "about"
		Next  float32 // the generator's next uniform
		State []struct {
			Key    string
			Shape  []int64
			Dtype  string
			Sum    float64
			SHA256 string
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	sameBits := golden["about"].CPU == torch.Build().CPUCapability // normal draws depend on it in the last bits
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			torch.ManualSeed(0)
			m := newModel(t, name, Options{})
			run(t, func() {
				if next := torch.Rand([]int64{1}, false).Item(); float32(next) != golden[name].Next {
					t.Errorf("the next uniform is %g, want %g", next, golden[name].Next)
				}
			})
			state := m.Root().StateDict()
			if len(state) != len(golden[name].State) {
				t.Fatalf("%d tensors, want %d", len(state), len(golden[name].State))
			}
			for i, want := range golden[name].State {
				got := state[i]
				if got.Name != want.Key || !slices.Equal(got.Tensor.Shape(), want.Shape) || got.Tensor.Dtype().String() != want.Dtype {
					t.Fatalf("tensor %d is %s %v, want %s %s%v", i, got.Name, got.Tensor, want.Key, want.Dtype, want.Shape)
				}
				run(t, func() {
					values := got.Tensor.CastTo(torch.Double)
					if sum := values.Sum().Item(); math.Abs(sum-want.Sum) > 1e-6*values.Abs().Sum().Item() {
						t.Errorf("%s: sum %g, want %g", got.Name, sum, want.Sum)
					}
				})
				if sum := sha256.Sum256(got.Tensor.Bytes()); sameBits && hex.EncodeToString(sum[:]) != want.SHA256 {
					t.Errorf("%s has other bits", got.Name)
				}
			}
		})
	}
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
		{"block-a", func() nn.Module { return newResidualBlock(8, 16, 2, false) }, 16},
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
