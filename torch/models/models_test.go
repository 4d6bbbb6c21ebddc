package models

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/optim"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// run is torch.Run on the CPU for tests.
func run(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

func newModel(t *testing.T, name string, o Options) Classifier {
	t.Helper()
	m, err := New(name, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Root().Free)
	return m
}

// Same seed, same bits as the PyTorch networks: initial weights, logits, gradients, and weights, buffers and momentum after
// steps of SGD.
func TestLikePyTorch(t *testing.T) {
	trials := []trial{{"l2ul-resnet18", "channels_last", 32}, {"resnet20", "channels_last", 32}, {"cifar-resnet18", "channels_last", 32}}
	for _, name := range Names() {
		if card, _ := Info(name); !reference.Spared(name) {
			trials = append(trials, trial{name, "contiguous_format", usualSize(card, 32)})
		}
	}
	if testing.Short() {
		trials = trials[:2]
	}
	for some := range slices.Chunk(trials, 12) { // a file of all would name more tensors than one may
		likePyTorch(t, some)
	}
}

// trial is a network and the images that it is tried on.
type trial struct {
	Name, Layout string
	Size         int64
}

func likePyTorch(t *testing.T, trials []trial) {
	t.Helper()
	list, err := json.Marshal(trials)
	if err != nil {
		t.Fatal(err)
	}
	want := reference.Run(t, `
import json, nets
y = torch.tensor([0, 1, 2, 3, 4, 9])
def keep(kind, tensors):
    for k, v in tensors.items(): save("%s/%s/%s/%s" % (name, layout, kind, k.removeprefix("net.")), v)
for trial in json.loads("""`+string(list)+`"""):
    name, layout, size = trial["Name"], trial["Layout"], trial["Size"]
    pixels = torch.rand(6, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    net = nets.new(name, 10).to(memory_format=getattr(torch, layout))
    x = pixels.contiguous(memory_format=getattr(torch, layout)).requires_grad_()
    keep("init", net.state_dict())
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(2):
        opt.zero_grad()
        z = net(x)
        F.cross_entropy(z, y).backward()
        if step == 0:
            keep("first", {"logits": z, "gradient by the images": x.grad})
            keep("grad", {k: p.grad for k, p in net.named_parameters()})
        opt.step()
    keep("after", net.state_dict())
    keep("momentum", {k: opt.state[p]["momentum_buffer"] for k, p in net.named_parameters()})
    keep("eval", {"logits": net.eval()(x)})
`)
	for _, trial := range trials {
		t.Run(trial.Name+"/"+trial.Layout, func(t *testing.T) {
			check := func(kind, key string, got torch.Tensor) {
				t.Helper()
				reference.Equal(t, want, trial.Name+"/"+trial.Layout+"/"+kind+"/"+key, got)
			}
			format := torch.Contiguous
			if trial.Layout == "channels_last" {
				format = torch.ChannelsLast
			}
			torch.ManualSeed(7)
			m := newModel(t, trial.Name, Options{Classes: 10})
			nn.ToMemoryFormat(m, format)
			state, params := m.Root().StateDict(), m.Root().NamedParameters()
			for _, n := range state {
				check("init", n.Name, n.Tensor)
			}
			opt := optim.SGD(0.1, 0.9, 0, 5e-4, false)
			defer opt.Free()
			opt.AddParameters(m.Root().Parameters())
			run(t, func() {
				var pixels torch.Tensor
				torch.Seeded(torch.NewGenerator(1), func() { pixels = torch.Rand([]int64{6, 3, trial.Size, trial.Size}, false) })
				x, y := pixels.Contiguous(format).SetRequiresGrad(true), torch.NewTensor([]int64{0, 1, 2, 3, 4, 9})
				for step := range 2 {
					torch.Scope(func() {
						opt.ZeroGrad()
						z := m.Forward(x)
						F.CrossEntropy(z, y, torch.Tensor{}, -100, "mean").Backward()
						if step == 0 {
							check("first", "logits", z)
							check("first", "gradient by the images", x.Grad())
							for _, p := range params {
								check("grad", p.Name, p.Tensor.Grad())
							}
						}
						opt.Step()
					})
				}
				for _, n := range state {
					check("after", n.Name, n.Tensor)
				}
				for i, n := range opt.State() {
					check("momentum", params[i].Name, n.Tensor)
				}
				m.Root().Eval()
				check("eval", "logits", m.Forward(x))
			})
		})
	}
}

// The order of the keys is that of torchvision, as trained files have it.
func TestTrainedWeights(t *testing.T) {
	shared := os.Getenv("L2UL_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(shared, "weights", "resnet18-cifar10-jpeg.safetensors")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no trained weights here (set L2UL_SHARED): %v", err)
	}
	f, err := ckpt.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	m := newModel(t, "l2ul-resnet18", Options{})
	if err := nn.Restore(m, f, true); err != nil {
		t.Fatal(err)
	}
	stored, _ := f.Lookup("fc.bias")
	run(t, func() {
		for _, n := range m.Root().StateDict() {
			if n.Name == "fc.bias" {
				want := torch.FromBytes(torch.Half, stored.Data, stored.Shape...).CastTo(torch.Float)
				if !torch.Equal(n.Tensor, want) || n.Tensor.Dtype() != torch.Float {
					t.Errorf("fc.bias is %v, not the stored numbers as float32", n.Tensor)
				}
			}
		}
	})

	wrong := newModel(t, "l2ul-resnet18", Options{Classes: 100})
	if err := nn.Restore(wrong, f, true); err == nil || !strings.Contains(err.Error(), "fc.weight is F16 [10 512] in the file and float32 [100 512] in the network") {
		t.Errorf("100 classes: %v", err)
	}
}

func TestNormalisation(t *testing.T) {
	named := newModel(t, "resnet20", Options{Mean: []float64{0.5, 0.4, 0.3}, Std: []float64{0.1, 0.2, 0.3}})
	bare := newModel(t, "resnet20", Options{Mean: []float64{0, 0, 0}, Std: []float64{1, 1, 1}})
	if err := nn.Restore(bare, nn.Snapshot(named), true); err != nil {
		t.Fatal(err) // normalisation has no keys
	}
	run(t, func() {
		named.Root().Eval()
		bare.Root().Eval()
		x := torch.Rand([]int64{2, 3, 32, 32}, false)
		var channels []torch.Tensor
		for c, s := range []struct{ mean, std float64 }{{0.5, 0.1}, {0.4, 0.2}, {0.3, 0.3}} {
			channels = append(channels, x.Narrow(1, int64(c), 1).AddScalar(-s.mean).DivScalar(s.std))
		}
		if got, want := named.Forward(x), bare.Forward(torch.Cat(channels, 1)); !torch.AllClose(got, want, 1e-4, 1e-5) {
			t.Errorf("normalising inside gives %v, outside %v", torch.ToSlice[float32](got), torch.ToSlice[float32](want))
		}
	})
}

// A network that is to be given weights draws none, and fits like any other.
func TestUndrawn(t *testing.T) {
	drawn := newModel(t, "resnet20", Options{})
	torch.ManualSeed(5)
	m := newModel(t, "resnet20", Options{Undrawn: true})
	run(t, func() {
		next := torch.Rand([]int64{1}, false).Item()
		torch.ManualSeed(5)
		if first := torch.Rand([]int64{1}, false).Item(); next != first {
			t.Errorf("the first uniform afterwards is %g, not %g: something was drawn", next, first)
		}
	})
	if err := nn.Restore(m, nn.Snapshot(drawn), true); err != nil || nn.Snapshot(m).Hash() != nn.Snapshot(drawn).Hash() {
		t.Errorf("%v, or other weights", err)
	}
	torch.ManualSeed(5)
	one := newModel(t, "resnet20", Options{})
	torch.ManualSeed(5)
	if two := newModel(t, "resnet20", Options{}); nn.Snapshot(one).Hash() != nn.Snapshot(two).Hash() || nn.Snapshot(one).Hash() == nn.Snapshot(drawn).Hash() {
		t.Error("drawing has not come back")
	}
}

// A network in channels-last computes the same function.
func TestChannelsLast(t *testing.T) {
	m := newModel(t, "resnet20", Options{})
	run(t, func() {
		m.Root().Eval()
		x := torch.Rand([]int64{4, 3, 32, 32}, false)
		want := m.Forward(x)
		nn.ToMemoryFormat(m, torch.ChannelsLast)
		if got := m.Forward(x.Contiguous(torch.ChannelsLast)); !torch.AllClose(got, want, 1e-4, 1e-5) {
			t.Error("the logits differ")
		}
	})
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options Options
		want    string
	}{
		{"resnet-18", Options{}, `unknown network "resnet-18"; did you mean "resnet18"?`},
		{"cifar-resnet5", Options{}, `did you mean "cifar-resnet50"?`},
		{"resnet20", Options{Classes: -1}, "network resnet20 with -1 classes: use 1 or more"},
		{"resnet20", Options{Mean: []float64{0.5}}, "give three numbers each"},
		{"resnet20", Options{Std: []float64{0.5, 0, 0.5}}, "std above 0"},
	} {
		if _, err := New(tt.name, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%q, %+v): %v, want %q", tt.name, tt.options, err, tt.want)
		}
	}
	m := newModel(t, "cifar-vit-ti", Options{})
	err := torch.Run(torch.CPU, func() error {
		m.Forward(torch.Zeros([]int64{2, 3, 32, 36}, false))
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "images [n, 3, 32, 32], got [2 3 32 36]") {
		t.Errorf("a transformer and images of another size: %v", err)
	}
	if _, err := Info("resnet21"); err == nil {
		t.Error("Info knows resnet21")
	}
}

func TestInfo(t *testing.T) {
	if len(Names()) == 0 || !slices.IsSorted(Names()) {
		t.Errorf("names %v", Names())
	}
	for _, name := range Names() {
		card, err := Info(name)
		if err != nil || card.Name != name || card.Summary == "" || card.Classes < 2 || card.Size < 32 || len(card.Mean) != 3 || len(card.Std) != 3 {
			t.Errorf("%s: %+v, %v", name, card, err)
		}
		card.Mean[0] = -1 // a copy
		if again, _ := Info(name); again.Mean[0] == -1 {
			t.Errorf("%s: Info gives away its own slice", name)
		}
	}
}

func ExampleNew() {
	err := torch.Run(torch.CPU, func() error {
		net, err := New("resnet20", Options{Classes: 4})
		if err != nil {
			return err
		}
		defer net.Root().Free()
		net.Root().Eval()
		pixels := torch.Rand([]int64{8, 3, 32, 32}, false)
		fmt.Println(net.Forward(pixels), net.Features(pixels))
		return nil
	})
	fmt.Println(err)
	// Output:
	// float32[8 4] float32[8 64]
	// <nil>
}
