package analysis

import (
	"bytes"
	"context"
	"image/png"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// golden is a value of scripts/golden/analyses.py.
func golden(t *testing.T, name string) torch.Tensor {
	t.Helper()
	file, err := ckpt.Load(reference.Golden(t, "analyses.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	value, ok := file.Lookup(name)
	if !ok {
		t.Fatalf("the reference has no %s", name)
	}
	named, err := nn.Unpack(&ckpt.File{Tensors: []ckpt.Tensor{*value}})
	if err != nil {
		t.Fatal(err)
	}
	return named[0].Tensor
}

// numbers are those of a vector of the reference.
func numbers(t *testing.T, name string) []float64 {
	t.Helper()
	return torch.ToSlice[float64](golden(t, name).CastTo(torch.Double))
}

// near fails unless got is want, up to a part of the larger of 1 and want.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*max(1, math.Abs(want))) {
		t.Errorf("%s: %.9g, want %.9g", what, got, want)
	}
}

// scoped runs a test in a scope.
func scoped(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// network is resnet20 of a seed, as in the reference.
func network(t *testing.T, seed int64) Network {
	t.Helper()
	torch.ManualSeed(seed)
	net, err := models.New("resnet20", models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return frozen(t, net)
}

func frozen(t *testing.T, net models.Classifier) Network {
	still := engine.Freeze(net, engine.Exact)
	t.Cleanup(func() { still.Thaw(); net.Root().Free() })
	return Network{net, still}
}

// drawn are n images of the reference.
func drawn(n int64) (x torch.Tensor) {
	torch.Seeded(torch.NewGenerator(1), func() { x = torch.Rand([]int64{n, 3, 32, 32}, false) })
	return x
}

// subject is a run on random images of 10 classes: 3 to forget, 9 to retain and 8 to test with.
func subject(t *testing.T, before, after Network) *Subject {
	t.Helper()
	set := func(n int) *data.Set {
		s := &data.Set{Dataset: "drawn", C: 3, H: 32, W: 32, Pixels: make([]byte, n*3*32*32)}
		for c := range 10 {
			s.Classes = append(s.Classes, string(rune('a'+c)))
		}
		random := rand.New(rand.NewPCG(1, uint64(n)))
		for i := range s.Pixels {
			s.Pixels[i] = byte(random.Uint32())
		}
		for i := range n {
			s.Labels = append(s.Labels, i%10)
		}
		return s
	}
	train, test := set(12), set(8)
	spec, err := data.ParseSpec("ids:4,7,1")
	if err != nil {
		t.Fatal(err)
	}
	forget, err := spec.Resolve(train, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &Subject{
		Before: before, After: after, Classes: train.Classes, Forget: forget, Rest: data.Complement(12, forget.Indices), TestLen: 8,
		Train: data.NewLoader(train, torch.CPU, torch.ChannelsLast, 1<<30), Test: data.NewLoader(test, torch.CPU, torch.ChannelsLast, 1<<30),
		Shape: [3]int64{3, 32, 32}, Device: torch.CPU, Format: torch.ChannelsLast, Meter: data.NewMeter(data.ForgetOnly, nil),
		Batch: chunk.Fixed(5), Pairs: chunk.Fixed(5), Options: Options{Samples: 6, Images: 2, Grid: 7},
		Progress: func(string, string, int) (func(int), func()) { return func(int) {}, func() {} },
	}
	s.Forgotten = s.Train
	s.Attack.Eps, s.Attack.Step, s.Attack.Iters, s.Attack.Norm = 4, 0.5, 10, "l2"
	t.Cleanup(func() { s.Train.Free(); s.Test.Free() })
	s.Meter.Enter(data.PhaseAfter)
	return s
}

// run makes an analysis and checks what all have in common.
func run(t *testing.T, name string, s *Subject) *Finding {
	t.Helper()
	for _, a := range All() {
		if a.Name != name {
			continue
		}
		f, err := a.Run(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		if f.Title == "" || f.Reading == "" || f.Alt == "" || len(f.Pictures) == 0 {
			t.Errorf("%s leaves out a title, how to read it, an outcome in words or pictures: %+v", name, f)
		}
		for _, p := range f.Pictures {
			img, err := png.Decode(bytes.NewReader(p.PNG))
			if err != nil || img.Bounds().Dx() < 300 || !bytes.Contains(p.SVG, []byte("</svg>")) || p.Title == "" || p.Alt == "" ||
				p.Name != name && !strings.HasPrefix(p.Name, name+"-") {
				t.Errorf("picture %q of %s: %v, %d bytes of SVG, title %q, alt %q", p.Name, name, err, len(p.SVG), p.Title, p.Alt)
			}
		}
		return f
	}
	t.Fatalf("no analysis is named %s", name)
	return nil
}

func TestBest(t *testing.T) {
	for _, tt := range []struct {
		values        []float64
		first, second int
	}{
		{[]float64{3}, 0, -1},
		{[]float64{1, 2}, 1, 0},
		{[]float64{2, 2, 2}, 0, 1},
		{[]float64{1, 5, 3, 4}, 1, 3},
		{[]float64{5, 1, 3, 6}, 3, 0},
	} {
		if first, second := best(tt.values); first != tt.first || second != tt.second {
			t.Errorf("best(%v) = %d, %d, want %d, %d", tt.values, first, second, tt.first, tt.second)
		}
	}
}
