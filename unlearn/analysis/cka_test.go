package analysis

import (
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/unlearn/data"
)

var opQR = torch.Define("aten::linalg_qr(Tensor A, str mode=\"reduced\") -> (Tensor Q, Tensor R)")

// Both forms have NumPy's values, X is like itself and like X turned, and constant values are like nothing.
func TestLinearCKA(t *testing.T) {
	scoped(t, func() {
		for _, name := range []string{"narrow", "wide"} {
			x, y := golden(t, "cka."+name+".x"), golden(t, "cka."+name+".y")
			want := numbers(t, "cka."+name)[0]
			var turn torch.Tensor
			torch.Seeded(torch.NewGenerator(3), func() { turn, _ = opQR.Two(torch.RandN([]int64{x.Size(1), x.Size(1)}, false).CastTo(torch.Double)) })
			for _, gram := range []bool{false, true} {
				near(t, name+": CKA", *linearCKA(x, y, gram), want, 1e-6)
				near(t, name+": X with itself", *linearCKA(x, x, gram), 1, 1e-12)
				near(t, name+": X with 3·X·Q + 1", *linearCKA(x, torch.MM(x.CastTo(torch.Double), turn).MulScalar(3).AddScalar(1), gram), 1, 1e-6)
			}
			same := x.Select(0, 0).Unsqueeze(0).Expand(x.Shape()...)
			if linearCKA(x, same, true) != nil || linearCKA(same, x, false) != nil {
				t.Error("features that are the same for all images have a similarity")
			}
		}
	})
}

// Layers of two networks are those of PyTorch's hooks, by name, in order, and with NumPy's values.
func TestLayers(t *testing.T) {
	scoped(t, func() {
		file, err := ckpt.Load(reference.Golden(t, "analyses.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		names := strings.Fields(file.Metadata["layers"])
		want := numbers(t, "layers.cka")
		s := subject(t, network(t, 0), network(t, 1))
		x := drawn(24).Contiguous(torch.ChannelsLast)
		before, err := s.tapAll(t.Context(), s.Before, x, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		after, err := s.tapAll(t.Context(), s.After, x, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i, l := range before {
			if got = append(got, l.name); i < len(want) {
				near(t, l.name, *linearCKA(l.values, after[i].values, true), want[i], 1e-4)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("layers %q, want %q", got, names)
		}
	})
}

// Every network has layers to look at, ends with features and logits, and computes the same when it is not watched.
func TestTapEveryNetwork(t *testing.T) {
	blocks := map[string]int{
		"resnet18": 8, "l2ul-resnet18": 8, "cifar-resnet18": 8, "resnet20": 9, "wrn-28-10": 12, "vgg11": 13, "allcnn": 8, "cifar-vit-ti": 12,
		"mobilenet_v2": 19, "squeezenet1_1": 8, "densenet121": 7, "swin_t": 16, "convnext_tiny": 22,
	}
	for _, name := range models.Names() {
		if reference.Spared(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			scoped(t, func() {
				card, err := models.Info(name)
				if err != nil {
					t.Fatal(err)
				}
				size := int64(64)
				if card.FixedSize || card.Size < 64 {
					size = int64(card.Size)
				}
				net, err := models.New(name, models.Options{Classes: 5})
				if err != nil {
					t.Fatal(err)
				}
				n := frozen(t, net)
				torch.NoGrad(func() {
					x := torch.Rand([]int64{2, 3, size, size}, false).Contiguous(torch.ChannelsLast)
					layers := tap(n, x)
					last := layers[len(layers)-1]
					if last.name != "logits" || layers[len(layers)-2].name != "features" || !torch.Equal(last.values, net.Forward(x)) {
						t.Errorf("ends with %s and %s, or other logits than unwatched", layers[len(layers)-2].name, last.name)
					}
					inner := len(layers) - 2
					if layers[0].name == "stem" {
						inner--
					}
					if want := blocks[name]; inner == 0 || want != 0 && inner != want {
						var names []string
						for _, l := range layers {
							names = append(names, l.name)
						}
						t.Errorf("%d blocks, want %d: %q", inner, want, names)
					}
					for _, l := range layers {
						if l.values.Dim() != 2 || l.values.Size(0) != 2 || l.values.Size(1) > widest {
							t.Errorf("%s: shape %v", l.name, l.values.Shape())
						}
					}
				})
			})
		})
	}
}

// A large map is averaged over its places, wherever its layer keeps them.
func TestPooled(t *testing.T) {
	scoped(t, func() {
		for _, tt := range []struct {
			shape []int64
			width int64
			how   pooling
		}{
			{[]int64{2, 8, 4, 4}, 128, flattened},
			{[]int64{2, 8, 64, 64}, 8, spatialMean},
			{[]int64{2, 64, 64, 8}, 8, spatialMean},
			{[]int64{2, 4096, 8}, 8, spatialMean},
			{[]int64{2, 1 << 15}, 1 << 15, flattened},
		} {
			if values, how := pooled(torch.Ones(tt.shape, false)); values.Size(1) != tt.width || how != tt.how {
				t.Errorf("%v: %v by %s, want width %d by %s", tt.shape, values.Shape(), how, tt.width, tt.how)
			}
		}
	})
}

func TestCKA(t *testing.T) {
	scoped(t, func() {
		net := network(t, 0)
		s := subject(t, net, net)
		found := run(t, "cka", s).Data.(*CKA)
		for _, split := range found.Splits {
			for _, l := range split.Layers {
				if l.CKA == nil {
					t.Errorf("%s, %s: no value", split.Split, l.Layer)
				} else {
					near(t, string(split.Split)+", "+l.Layer, *l.CKA, 1, 1e-9)
				}
			}
		}
		reads := s.Meter.Reads()[data.PhaseAfter]
		if reads[data.PartForget] != 3 || reads[data.PartTest] != 6 || reads[data.PartRetain] != 0 {
			t.Errorf("reads: %v", reads)
		}
	})
}
