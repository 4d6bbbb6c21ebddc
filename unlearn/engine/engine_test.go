package engine

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/torch/nn"
)

// job runs fn as a job on the CPU.
func job(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// newNet makes a network with seeded weights and running statistics that are not those of a fresh one.
func newNet(t *testing.T, name string) nn.Module {
	t.Helper()
	net, err := models.New(name, models.Options{Classes: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Root().Free)
	for _, b := range net.Root().NamedBuffers() {
		if strings.HasSuffix(b.Name, "running_mean") {
			b.Tensor.NormalI(0, 0.1)
		} else if strings.HasSuffix(b.Name, "running_var") {
			b.Tensor.UniformI(0.5, 2)
		}
	}
	smallnet.DrawHead(net)
	nn.ToMemoryFormat(net, torch.ChannelsLast)
	return net
}

func loss(logits torch.Tensor) torch.Tensor {
	y := torch.Zeros([]int64{logits.Size(0)}, false).CastTo(torch.Long)
	return logits.CrossEntropy(y, torch.Tensor{}, torch.ReduceSum, -100)
}

// gradient is that of loss, by autograd.
func gradient(logits torch.Tensor) (grad torch.Tensor) {
	torch.EnableGrad(func() {
		logits = logits.Detach().SetRequiresGrad(true)
		grad = torch.Grad([]torch.Tensor{loss(logits)}, []torch.Tensor{logits})[0]
	})
	return grad
}

// backends are the two ways to compute a plan, our own convolutions and libtorch's, as they take turns on the CPU here: on
// CUDA there is only the second.
var backends = []struct {
	name    string
	library bool
}{{"ours", false}, {"libtorch", true}}

// freeze freezes net for mode Exact with one of the backends.
func freeze(net nn.Module, library bool) *Network {
	n := Freeze(net, Exact)
	n.library = library
	return n
}

func TestPlanIsTheNetwork(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
	}{{"l2ul-resnet18", 32}, {"cifar-resnet18", 20}, {"resnet18", 64}, {"resnet50", 70}, {"l2ul-resnet18", 33}, {"resnet20", 32}, {"resnet20", 27}} {
		for _, backend := range backends {
			testPlanIsTheNetwork(t, c.name, c.size, backend.name, backend.library)
		}
	}
}

func testPlanIsTheNetwork(t *testing.T, name string, size int64, backend string, library bool) {
	t.Run(fmt.Sprint(name, "-", size, "-", backend), func(t *testing.T) {
		job(t, func() {
			torch.ManualSeed(1)
			net := newNet(t, name)
			exact, reference := freeze(net, library), Freeze(net, Reference)
			defer exact.Thaw()
			defer reference.Thaw()
			for _, n := range []int64{3, 1, 7, 3} {
				x := torch.Rand([]int64{n, 3, size, size}, false).Contiguous(torch.ChannelsLast)
				if d := distance(exact.Logits(x), reference.Logits(x)); !(d < 1e-4) {
					t.Errorf("%d images: logits differ by %g", n, d)
				}
				// In a deep network some ReLU falls the other way for the last bit of its input.
				if d := distance(exact.InputGrad(x, gradient), reference.InputGrad(x, gradient)); !(d < 3e-2) {
					t.Errorf("%d images: gradients differ by %g", n, d)
				}
			}
			if why := exact.Fallback(); why != "" {
				t.Errorf("no plan: %s", why)
			} else if got := byLibrary(exact.plan); got != library {
				t.Errorf("libtorch convolves: %t", got)
			}
		})
	})
}

// Every network runs as a plan, or says which operator stands in the way.
func TestEveryNetwork(t *testing.T) {
	fallbacks := map[string]string{"vit_ti_16": "aten::reshape", "cifar-vit-ti": "aten::reshape", "swin_t": "aten::permute", "convnext_tiny": "aten::permute"}
	for _, name := range models.Names() {
		t.Run(name, func(t *testing.T) {
			if reference.Spared(name) {
				t.Skip("set L2UL_LONG=1 for the large networks")
			}
			job(t, func() {
				torch.ManualSeed(1)
				net := newNet(t, name)
				card, err := models.Info(name)
				if err != nil {
					t.Fatal(err)
				}
				size := int64(card.Size)
				if !card.FixedSize {
					size = min(size, 64) / 2
				}
				x := torch.Rand([]int64{3, 3, size, size}, false).Contiguous(torch.ChannelsLast)
				want := Freeze(net, Reference)
				defer want.Thaw()
				for _, backend := range backends {
					exact := freeze(net, backend.library)
					logits, grad := exact.Logits(x), exact.InputGrad(x, gradient)
					if d := distance(logits, want.Logits(x)); !(d < 1e-4) {
						t.Errorf("%s: logits differ by %g", backend.name, d)
					}
					if d := distance(grad, want.InputGrad(x, gradient)); !(d < 3e-2) {
						t.Errorf("%s: gradients differ by %g", backend.name, d)
					}
					if why := exact.Fallback(); !strings.Contains(why, fallbacks[name]) || (why == "") != (fallbacks[name] == "") {
						t.Errorf("%s: %q, want %q", backend.name, why, fallbacks[name])
					}
					exact.Thaw()
				}
			})
		})
	}
}

// Products of bfloat16 move the gradient, as far as rounding does and no further; logits stay those of mode exact.
func TestHalf(t *testing.T) {
	for _, backend := range backends {
		for _, name := range []string{"l2ul-resnet18", "resnet50", "resnet20"} {
			t.Run(backend.name+"/"+name, func(t *testing.T) {
				job(t, func() {
					torch.ManualSeed(1)
					net := newNet(t, name)
					half, exact := Freeze(net, BF16), freeze(net, backend.library)
					half.library = backend.library
					defer half.Thaw()
					defer exact.Thaw()
					x := torch.Rand([]int64{5, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
					if !torch.Equal(half.Logits(x), exact.Logits(x)) {
						t.Error("logits are not those of mode exact")
					}
					before := half.Bytes()
					if d := distance(half.InputGrad(x, gradient), exact.InputGrad(x, gradient)); !(d > 1e-3 && d < halfTolerance) {
						t.Errorf("the gradient differs from that of mode exact by %g", d)
					}
					if why := half.Fallback(); why != "" || half.Bytes() <= before {
						t.Errorf("no plan: %s", why)
					}
				})
			})
		}
	}
}

// Where bfloat16 has no plan, or one that is not the network's, gradients are those of mode exact.
func TestNoHalf(t *testing.T) {
	for why, odd := range map[string]func(x torch.Tensor) torch.Tensor{
		"aten::tanh":                    torch.Tensor.Tanh,
		"gradient is not the network's": func(x torch.Tensor) torch.Tensor { return x.Add(x, 1) },
	} {
		job(t, func() {
			base, calls := newNet(t, "resnet20"), 0
			net := Freeze(&opaque{forward: func(x torch.Tensor) torch.Tensor {
				calls++
				logits := base.Forward(x)
				if calls == 3 { // one trace and one comparison for the plan of mode exact, then the trace for bfloat16
					logits = odd(logits)
				}
				return logits
			}}, BF16)
			exact := Freeze(base, Exact)
			defer exact.Thaw()
			defer net.Thaw()
			x := torch.Rand([]int64{3, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
			if got := net.InputGrad(x, gradient).Clone(); !torch.Equal(got, exact.InputGrad(x, gradient)) {
				t.Errorf("%s: not the gradient of mode exact", why)
			}
			if said := net.Fallback(); net.climb != net.plan || !strings.Contains(said, "as in mode exact") || !strings.Contains(said, why) {
				t.Errorf("%q, want %q", said, why)
			}
		})
	}
}

// byLibrary says that a plan's convolutions are libtorch's.
func byLibrary(p *plan) bool {
	return slices.ContainsFunc(p.nodes, func(n *node) bool { _, ok := n.op.(*libraryConv); return ok })
}

// Where rounding might decide, the plan does not.
func TestCloseCallsAreTheReferences(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(4)
		net := newNet(t, "l2ul-resnet18")
		last := net.Root().Parameters()[len(net.Root().Parameters())-2] // the weights of the last layer, [10, 512]
		torch.NoGrad(func() { last.Select(0, 3).CopyI(last.Select(0, 7).MulScalar(1 + 1e-6)) })
		bias := net.Root().Parameters()[len(net.Root().Parameters())-1]
		torch.NoGrad(func() { bias.Select(0, 3).FillI(5); bias.Select(0, 7).FillI(5) })
		exact, reference := Freeze(net, Exact), Freeze(net, Reference)
		defer func() { exact.Thaw() }()
		defer reference.Thaw()
		x := torch.Rand([]int64{6, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
		if got, want := exact.Logits(x), reference.Logits(x); !torch.Equal(got, want) {
			t.Errorf("close calls are not the reference's: they differ by %g", got.Sub(want, 1).Abs().Max().Item())
		}
		torch.NoGrad(func() { bias.Select(0, 3).FillI(9) })
		exact.Thaw()
		exact = Freeze(net, Exact)
		if got := exact.Logits(x); torch.Equal(got, reference.Logits(x)) || closeCalls(got, closeMargin) != nil {
			t.Error("clear calls are computed twice")
		}
	})
}

// Products that round to TF32 decide no class: where they might, libtorch does, in float32. Here two classes lead together on
// all images, and the plan is made to exchange them.
func TestCoarseProductsDecideNoClass(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(6)
		net := newNet(t, "resnet20")
		params := net.Root().Parameters()
		weight, bias := params[len(params)-2], params[len(params)-1]
		x := torch.Rand([]int64{20, 3, 16, 16}, false).Contiguous(torch.ChannelsLast)
		reference := Freeze(net, Reference)
		defer reference.Thaw()
		first := reference.Logits(x).ArgMax(1, false).Select(0, 0).ItemInt()
		second := (first + 1) % 10
		torch.NoGrad(func() {
			weight.Select(0, second).CopyI(weight.Select(0, first))
			bias.Select(0, first).FillI(0.01)
			bias.Select(0, second).FillI(0)
		})
		largest := reference.Logits(x).Abs().Max().Item()
		const margin = 0.02
		for _, coarse := range []bool{false, true} {
			n := freeze(net, true)
			n.coarse = coarse
			defer n.Thaw()
			n.Logits(x) // makes the plan
			n.margin = margin
			n.plan.nodes[len(n.plan.nodes)-1].op.(*linear).bias.Select(0, second).FillI(0.01 + largest*margin/4)
			right := n.Logits(x).ArgMax(1, false).Eq(reference.Logits(x).ArgMax(1, false)).Sum().ItemInt()
			if want := map[bool]int64{false: 0, true: 20}[coarse]; right != want {
				t.Errorf("coarse %t: %d of 20 images have the class that they have in float32, want %d", coarse, right, want)
			}
		}
	})
}

// How far TF32 may move logits is judged by how far it moves those of the probe, here one by 0.003 of the largest. The margin is
// never less than what another order of sums needs; where there are no numbers, none is large enough.
func TestCoarseMargin(t *testing.T) {
	job(t, func() {
		for moved, want := range map[float64]float64{0.003: 8 * 0.003, 0: closeMargin, math.NaN(): math.NaN()} {
			calls := 0
			net := &opaque{forward: func(x torch.Tensor) torch.Tensor {
				logits := torch.Zeros([]int64{x.Size(0), 4}, false)
				logits.Select(1, 2).FillI(-5)
				if calls++; calls == 1 { // with TF32
					logits.Select(0, 6).Select(0, 1).FillI(5 * moved)
				}
				return logits
			}}
			got := float64(Freeze(net, Exact).coarseMargin(probe([]int64{3, 4, 4})))
			if !(math.Abs(got-want) <= 1e-6) && !(math.IsNaN(got) && math.IsNaN(want)) || calls != 2 {
				t.Errorf("moved by %g of the largest: margin %g, want %g; %d calls", moved, got, want, calls)
			}
		}
	})
}

// What the network was allowed to learn before it was frozen, it is afterwards.
func TestThawTracksAgain(t *testing.T) {
	job(t, func() {
		net := newNet(t, "l2ul-resnet18")
		params := net.Root().Parameters()
		params[0].SetRequiresGrad(false)
		frozen := Freeze(net, Exact)
		frozen.InputGrad(torch.Rand([]int64{2, 3, 32, 32}, false), gradient)
		for i, p := range params {
			if p.RequiresGrad() || p.Grad().Defined() {
				t.Fatalf("parameter %d is tracked", i)
			}
		}
		frozen.Thaw()
		for i, p := range params {
			if p.RequiresGrad() != (i != 0) {
				t.Errorf("parameter %d: requires grad %t", i, p.RequiresGrad())
			}
		}
		if net.Root().Training() || frozen.Bytes() != 0 {
			t.Error("the network trains, or memory is left")
		}
	})
}

// opaque does to images what no plan knows.
type opaque struct {
	nn.Base
	forward func(x torch.Tensor) torch.Tensor
}

func (m *opaque) Forward(x torch.Tensor) torch.Tensor { return m.forward(x) }

func TestEmptyBatch(t *testing.T) {
	job(t, func() {
		net := Freeze(newNet(t, "l2ul-resnet18"), Exact)
		defer net.Thaw()
		if got := net.Logits(torch.Zeros([]int64{0, 3, 32, 32}, false)); got.Size(0) != 0 || got.Size(1) != 10 {
			t.Errorf("logits of no images are %v", got)
		}
	})
}

// What a plan cannot be right about runs operator by operator, and says why.
func TestFallback(t *testing.T) {
	job(t, func() {
		weight := torch.RandN([]int64{5, 3 * 8 * 8}, false)
		head := func(x torch.Tensor) torch.Tensor { return x.Flatten(1, -1).Linear(weight, torch.Tensor{}) }
		some := func(x torch.Tensor) torch.Tensor { // takes images of any shape
			x = x.Flatten(1, -1)
			return x.Linear(torch.Ones([]int64{4, x.Size(1)}, false), torch.Tensor{})
		}
		filter, opConv := torch.RandN([]int64{4, 3, 3, 3}, false), torch.Define("aten::conv2d(Tensor input, Tensor weight) -> Tensor")
		calls := 0
		for name, c := range map[string]struct {
			forward func(x torch.Tensor) torch.Tensor
			why     string
		}{
			"operator": {func(x torch.Tensor) torch.Tensor { return head(x.Tanh()) }, "aten::tanh"},
			"read":     {func(x torch.Tensor) torch.Tensor { return head(x).MulScalar(x.Sum().Item()) }, "aten::sum"},
			"data":     {func(x torch.Tensor) torch.Tensor { torch.ToSlice[float32](x); return head(x) }, torch.ReadName},
			"no image": {func(torch.Tensor) torch.Tensor { return weight }, "does not come from the images"},
			"view": {func(x torch.Tensor) torch.Tensor {
				y := x.Add(x, 1)
				y.Flatten(1, -1).ReluI()
				return head(y.Add(x, 1))
			}, "has been flattened"},
			"sliced, then overwritten": {func(x torch.Tensor) torch.Tensor {
				y := x.Add(x, 1)
				opSlice.One(y, 2, nil, nil, 2).ReluI()
				return head(y)
			}, "flattened or sliced"},
			"sliced, then overwritten below": {func(x torch.Tensor) torch.Tensor {
				y := x.Add(x, 1)
				corner := opSlice.One(opSlice.One(y, 2, nil, nil, 2), 3, nil, nil, 2)
				y.ReluI()
				return head(y).Add(corner.Flatten(1, -1).Linear(weight.Narrow(1, 0, 48), torch.Tensor{}), 1)
			}, "flattened or sliced"},
			"sliced images":        {func(x torch.Tensor) torch.Tensor { return head(opSlice.One(x, 0, nil, nil, 1)) }, "dimension 0"},
			"sliced from the end":  {func(x torch.Tensor) torch.Tensor { return head(opSlice.One(x, -1, nil, nil, 1)) }, "dimension -1"},
			"part of the rows":     {func(x torch.Tensor) torch.Tensor { return some(opSlice.One(x, 2, 4, nil, 1)) }, "only whole rows"},
			"the first rows":       {func(x torch.Tensor) torch.Tensor { return some(opSlice.One(x, 2, nil, 4, 1)) }, "only whole rows"},
			"all but the last row": {func(x torch.Tensor) torch.Tensor { return some(opSlice.One(x, 2, 0, -4, 1)) }, "only whole rows"},
			"sliced vector":        {func(x torch.Tensor) torch.Tensor { return opSlice.One(head(x), 1, nil, nil, 1) }, "no image"},
			"padded rows":          {func(x torch.Tensor) torch.Tensor { return some(x.Pad([]int64{0, 0, 2, 2}, 0)) }, "padding [0 0 2 2]"},
			"padded images":        {func(x torch.Tensor) torch.Tensor { return some(x.Pad([]int64{0, 0, 0, 0, 0, 0, 0, 0}, 0)) }, "padding [0 0 0 0 0 0 0 0]"},
			"cropped channels":     {func(x torch.Tensor) torch.Tensor { return some(x.Pad([]int64{0, 0, 0, 0, -1, 0}, 0)) }, "padding [0 0 0 0 -1 0]"},
			"padded with ones":     {func(x torch.Tensor) torch.Tensor { return some(x.Pad([]int64{0, 0, 0, 0, 1, 0}, 1)) }, "with 1"},
			"defaults": {func(x torch.Tensor) torch.Tensor {
				return x.Flatten(1, -1).Linear(weight, torch.Tensor{}).Add(opConv.One(x, filter).Sum(), 1)
			}, "aten::conv2d"},
			"dilated": {func(x torch.Tensor) torch.Tensor {
				return some(x.Conv2d(filter, torch.Tensor{}, []int64{1, 1}, []int64{0, 0}, []int64{2, 2}, 1))
			}, "dilation"},
			"concatenated rows": {func(x torch.Tensor) torch.Tensor { return some(torch.Cat([]torch.Tensor{x, x}, 2)) }, "dimension 2"},
			"concatenated with a constant": {func(x torch.Tensor) torch.Tensor {
				return some(torch.Cat([]torch.Tensor{x, torch.Ones(x.Shape(), false)}, 1))
			}, "part 2"},
			"scaled": {func(x torch.Tensor) torch.Tensor { return head(x.Add(x, 2)) }, "unscaled"},
			"moody": {func(x torch.Tensor) torch.Tensor {
				if calls++; calls%2 == 0 {
					x = x.Relu().Add(x, 1)
				}
				return head(x)
			}, "logits are not the network's"},
		} {
			net := Freeze(&opaque{forward: c.forward}, Exact)
			x := torch.RandN([]int64{2, 3, 8, 8}, false)
			logits := net.Logits(x)
			if why := net.Fallback(); !strings.Contains(why, c.why) {
				t.Errorf("%s: %q, want %q", name, why, c.why)
			}
			if name != "moody" && !torch.Equal(logits, c.forward(x)) {
				t.Errorf("%s: other logits", name)
			}
			net.Thaw()
		}
	})
}

// Layers in orders that the usual networks do not have.
func TestLayers(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(3)
		weight := func(shape ...int64) torch.Tensor { return torch.RandN(shape, false).MulScalar(0.2) }
		one, zero := []int64{1, 1}, []int64{0, 0}
		none := torch.Tensor{}
		w1, w2, w3, bias := weight(32, 3, 3, 3), weight(32, 32, 3, 3), weight(32, 32, 1, 1), weight(32)
		full, small, last, lastBias := weight(7, 32*36), weight(3, 7), weight(4, 32), weight(4)
		scale := torch.Rand([]int64{32}, false).AddScalar(0.5)
		norm := func(x torch.Tensor) torch.Tensor { return x.BatchNorm(scale, bias, bias, scale, false, 0.1, 1e-5) }
		conv := func(x, w, b torch.Tensor) torch.Tensor {
			return x.Conv2d(w, b, one, []int64{w.Size(2) / 2, w.Size(3) / 2}, one, 1)
		}
		head := func(x torch.Tensor) torch.Tensor {
			return x.AdaptiveAvgPool2d(one).Flatten(1, -1).Linear(last, lastBias)
		}
		wide, four, mosaic := weight(4, 40*4*6), weight(4, 128), weight(4, 32*35)
		deep, grouped := weight(32, 1, 3, 3), weight(32, 8, 3, 3)
		for name, forward := range map[string]func(x torch.Tensor) torch.Tensor{
			"activation first": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, none)
				return head(y.Add(conv(norm(y).Relu(), w2, bias), 1))
			},
			"two readers of a convolution": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, bias)
				return head(conv(y.Relu(), w2, none).Add(norm(y), 1).Relu())
			},
			"a value added to itself": func(x torch.Tensor) torch.Tensor { y := conv(x, w1, none); return head(y.Add(y, 1).Relu()) },
			"pool with another reader": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, bias).Relu()
				return head(y.MaxPool2d([]int64{3, 3}, one, one, one, false).Add(conv(y, w3, none), 1))
			},
			"pooling without padding": func(x torch.Tensor) torch.Tensor {
				return conv(x, w1, none).MaxPool2d([]int64{2, 2}, []int64{2, 2}, zero, one, false).Flatten(1, -1).Linear(full, none)
			},
			"a hidden layer": func(x torch.Tensor) torch.Tensor {
				return conv(x, w1, none).MaxPool2d([]int64{2, 2}, []int64{2, 2}, zero, one, false).Flatten(1, -1).Linear(full, none).Relu().Linear(small, none)
			},
			"a sampled value with another reader": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, none).Relu()
				short := opSlice.One(opSlice.One(y, 2, nil, nil, 3), 3, 0, 12, 2).Pad([]int64{0, 0, 0, 0, 3, 5}, 0).Relu()
				return head(conv(y, w3, none)).Add(short.Flatten(1, -1).Linear(wide, none), 1)
			},
			"groups of channels": func(x torch.Tensor) torch.Tensor {
				y := norm(conv(x, w1, none)).Relu()
				return head(norm(y.Conv2d(deep, bias, []int64{2, 2}, one, one, 32)).Add(y.Conv2d(grouped, none, []int64{2, 2}, one, one, 4), 1).Relu())
			},
			"values up to six": func(x torch.Tensor) torch.Tensor {
				y := norm(conv(x, w1.MulScalar(8), bias))
				z := y.Relu6()
				y = conv(y, w3, none)
				y.Relu6I()
				return head(z.Add(y, 1))
			},
			"concatenated": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, none).Relu()
				z := conv(y, w3, bias)
				return torch.Cat([]torch.Tensor{y, z.Relu(), y, norm(z)}, 1).AdaptiveAvgPool2d(one).Flatten(1, -1).Linear(four, none)
			},
			"averages of windows": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, none).Relu()
				z := y.AvgPool2d([]int64{3, 2}, []int64{2, 2}, []int64{1, 0}).Add(y.AdaptiveAvgPool2d([]int64{6, 6}), 1)
				return z.AdaptiveAvgPool2d([]int64{5, 7}).Flatten(1, -1).Linear(mosaic, none)
			},
			"windows beyond the edge": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, bias).Relu()
				return head(y.MaxPool2d([]int64{3, 3}, []int64{2, 2}, zero, one, true).MaxPool2d([]int64{2, 2}, []int64{3, 3}, one, one, true))
			},
			"in place": func(x torch.Tensor) torch.Tensor {
				y := conv(x, w1, none)
				y.ReluI()
				z := conv(y, w3, none)
				z.AddI(y, 1)
				z.ReluI()
				return head(z)
			},
		} {
			for _, backend := range backends {
				exact, reference := freeze(&opaque{forward: forward}, backend.library), Freeze(&opaque{forward: forward}, Reference)
				for _, n := range []int64{2, 5} {
					x := torch.RandN([]int64{n, 3, 12, 12}, false)
					if d := distance(exact.Logits(x), reference.Logits(x)); !(d < 1e-5) {
						t.Errorf("%s, %s: logits differ by %g", name, backend.name, d)
					}
					if d := distance(exact.InputGrad(x, gradient), reference.InputGrad(x, gradient)); !(d < 1e-4) {
						t.Errorf("%s, %s: gradients differ by %g", name, backend.name, d)
					}
				}
				if why := exact.Fallback(); why != "" {
					t.Errorf("%s, %s: no plan: %s", name, backend.name, why)
				}
				exact.Thaw()
			}
			half(t, name, forward)
		}
	})
}

// half holds a plan in bfloat16 by libtorch against the network: its gradient points the same way.
func half(t *testing.T, name string, forward func(x torch.Tensor) torch.Tensor) {
	t.Helper()
	net := &opaque{forward: forward}
	x := torch.RandN([]int64{5, 3, 12, 12}, false)
	p, err := lower(net, x, true, torch.BFloat16)
	if err != nil {
		t.Errorf("%s, bfloat16: no plan: %v", name, err)
		return
	}
	defer p.free()
	want := Freeze(net, Reference)
	if d := distance(p.logits(x), want.Logits(x)); !(d > 1e-4 && d < 2e-2) {
		t.Errorf("%s, bfloat16: logits differ by %g", name, d)
	}
	got := p.inputGrad(x, gradient)
	if d := distance(got, want.InputGrad(x, gradient)); got.Dtype() != torch.Float || !(d > 1e-4 && d < 0.2) {
		t.Errorf("%s, bfloat16: %v gradients differ by %g", name, got.Dtype(), d)
	}
}

// InputGrad reads images that lie where Input says without copying them, and leaves them alone.
func TestInput(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(5)
		net := newNet(t, "cifar-resnet18")
		for _, mode := range []Mode{Exact, Reference} {
			frozen := Freeze(net, mode)
			x := torch.Rand([]int64{4, 3, 20, 20}, false).Contiguous(torch.ChannelsLast)
			want := frozen.InputGrad(x, gradient).Clone()
			input := frozen.Input(x)
			input.CopyI(x)
			for range 2 {
				if got := frozen.InputGrad(input, gradient); !torch.Equal(got, want) || !torch.Equal(input, x) {
					t.Errorf("mode %s: another gradient, or the images have changed", mode)
				}
			}
			frozen.Thaw()
		}
	})
}

// A step of training takes the same convolutions in another way, and gives them back.
func TestAccelerate(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(6)
		net := newNet(t, "l2ul-resnet18")
		x := torch.Rand([]int64{5, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
		gradients := func(mode Mode) []torch.Tensor {
			defer Accelerate(net, mode)()
			return torch.Grad([]torch.Tensor{loss(net.Forward(x))}, net.Root().Parameters())
		}
		want, again := gradients(Reference), gradients(Reference)
		got := gradients(Exact)
		after := gradients(Reference)
		changed := 0
		for i := range want {
			if !torch.Equal(want[i], again[i]) || !torch.Equal(want[i], after[i]) {
				t.Errorf("parameter %d: the reference does not repeat", i)
			}
			if !torch.Equal(got[i], want[i]) {
				changed++
			}
			if d := distance(got[i], want[i]); !(d < 2e-2) {
				t.Errorf("parameter %d: gradients differ by %g", i, d)
			}
			if got[i].IsContiguous(torch.ChannelsLast) != want[i].IsContiguous(torch.ChannelsLast) {
				t.Errorf("parameter %d: another memory format", i)
			}
		}
		if changed == 0 {
			t.Error("nothing was accelerated")
		}
		defer Accelerate(net, Exact)()
		tiles := map[int64]int{}
		for _, call := range torch.Trace(func() { net.Forward(x) }) {
			if call.Name == "l2ul::conv2d" {
				tiles[call.Args[2].(int64)]++
			}
		}
		// Of 20 convolutions the first has three channels; those to maps of 16x16, 8x8 and 4x4 with stride 1 are ten; strides and
		// the maps of 2x2 are the others.
		if want := map[int64]int{0: 9, 4: 10}; !maps.Equal(tiles, want) {
			t.Errorf("convolutions by tile: %v, want %v", tiles, want)
		}
	})
}

// Buffers for more images than memory holds leave nothing behind, and what there was goes on.
func TestOutOfMemoryWhileBinding(t *testing.T) {
	job(t, func() {
		net := Freeze(newNet(t, "resnet20"), Exact)
		defer net.Thaw()
		x := torch.Rand([]int64{2, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
		want := net.InputGrad(x, gradient).Clone()
		before := torch.Live()
		many := x.Narrow(0, 0, 1).Expand(1<<36, 3, 32, 32)
		for range 2 {
			err := torch.Try(func() { net.Input(many) })
			if bad, ok := errors.AsType[*torch.Error](err); !ok || bad.Code != torch.OutOfMemory {
				t.Fatalf("2^36 images: %v", err)
			}
		}
		if live := torch.Live(); live > before {
			t.Errorf("%d tensors were alive, now %d", before, live)
		}
		if got := net.InputGrad(x, gradient); !torch.Equal(got, want) {
			t.Error("the gradient is another one afterwards")
		}
	})
}

// Memory that runs out while the gradient is being judged is no verdict: a smaller batch is asked about again.
func TestOutOfMemoryIsNoVerdict(t *testing.T) {
	for _, mode := range []Mode{Exact, BF16} {
		job(t, func() {
			base, full := newNet(t, "cifar-resnet18"), true
			net := Freeze(&opaque{forward: func(x torch.Tensor) torch.Tensor {
				if full && x.RequiresGrad() {
					panic(&torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "not enough memory"})
				}
				return base.Forward(x)
			}}, mode)
			defer net.Thaw()
			Freeze(base, Reference)
			x := torch.Rand([]int64{3, 3, 20, 20}, false).Contiguous(torch.ChannelsLast)
			if err := torch.Try(func() { net.InputGrad(x, gradient) }); err == nil {
				t.Fatal("memory did not run out")
			}
			full = false
			net.InputGrad(x, gradient)
			if net.back != accepted || net.Fallback() != "" {
				t.Errorf("mode %s: verdict %d, fallback %q", mode, net.back, net.Fallback())
			}
		})
	}
}
