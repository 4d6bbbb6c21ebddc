package nn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// run is torch.Run on the CPU for tests.
func run(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// block has parameters, a buffer, a constant and children, registered in a mixed order.
type block struct {
	Base
	norm *BatchNorm2dModule
	fc   *LinearModule
}

func newBlock() *block {
	m := &block{norm: BatchNorm2d(2, 1e-5, 0.1, true, true), fc: Linear(3, 2, true)}
	torch.Scope(func() {
		m.Child("norm", m.norm)
		m.Buffer("count", torch.Zeros([]int64{1}, false))
		m.Constant("scale", torch.Ones([]int64{1}, false))
		m.Param("gain", torch.Ones([]int64{1}, false))
		m.Child("tail", Sequential(ReLU(true), m.fc))
	})
	return m
}

func (m *block) Forward(x torch.Tensor) torch.Tensor { return m.fc.Forward(x) }

func names(list []Named) []string {
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = n.Name
	}
	return out
}

func TestStateDictOrder(t *testing.T) {
	m := newBlock()
	defer m.Free()
	for _, tt := range []struct {
		what string
		got  []Named
		want string
	}{
		{"state", m.StateDict(), "gain count norm.weight norm.bias norm.running_mean norm.running_var norm.num_batches_tracked tail.1.weight tail.1.bias"},
		{"parameters", m.NamedParameters(), "gain norm.weight norm.bias tail.1.weight tail.1.bias"},
		{"buffers", m.NamedBuffers(), "count norm.running_mean norm.running_var norm.num_batches_tracked"},
	} {
		if got := strings.Join(names(tt.got), " "); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.what, got, tt.want)
		}
	}
	for i, p := range m.Parameters() {
		if n := m.NamedParameters()[i]; p != n.Tensor || !p.RequiresGrad() {
			t.Errorf("parameter %d is not %s, or needs no gradient", i, n.Name)
		}
	}
	var paths []string
	for path := range Modules(m) {
		paths = append(paths, path)
	}
	if want := []string{"", "norm", "tail", "tail.0", "tail.1"}; !slices.Equal(paths, want) {
		t.Errorf("modules %q, want %q", paths, want)
	}
	for path := range Modules(m) {
		if path == "norm" {
			break // stopping early must not panic
		}
	}
}

// Names that would make two keys equal or unreadable are refused.
func TestNames(t *testing.T) {
	m := newBlock()
	defer m.Free()
	for _, name := range []string{"", "a.b", "norm", "count", "scale", "gain"} {
		var mistake *torch.Error
		if err := torch.Try(func() { m.Child(name, ReLU(false)) }); !errors.As(err, &mistake) || mistake.Code != torch.Argument {
			t.Errorf("a child named %q: %v", name, err)
		}
	}
}

func TestConstructorErrors(t *testing.T) {
	for _, tt := range []struct {
		make func()
		want string
	}{
		{func() { Conv2d(3, 8, 3, 1, 1, 1, 1, false, "circular") }, `padding mode "circular" is not supported; use zeros`},
		{func() { Conv2d(3, 8, 3, 0, 1, 1, 1, false, "zeros") }, "stride 0"},
		{func() { Conv2d(3, 8, 3, 1, 1, 1, 2, false, "zeros") }, "2 groups do not divide"},
		{func() { Linear(0, 1, true) }, "sizes 0 to 1"},
		{func() { BatchNorm2d(0, 1e-5, 0.1, true, true) }, "0 features"},
		{func() { BatchNorm2d(1, 1e-5, math.NaN(), true, true) }, "momentum NaN"},
		{func() { LayerNorm(0, 1e-5) }, "size 0"},
		{func() { MultiheadAttention(10, 3) }, "10 values in 3 heads"},
		{func() { StochasticDepth(1) }, "probability 1"},
		{func() { MaxPool2d(0, 0, 0, 1, false) }, "kernel 0"},
		{func() { AdaptiveAvgPool2d(0, 1) }, "output 0x1"},
	} {
		if err := torch.Try(tt.make); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}

// PyTorch: torch.manual_seed(0); nn.Conv2d(1, 2, 2) then nn.Linear(2, 3); printed with 9 digits.
func TestInitialDraws(t *testing.T) {
	check := func(what string, got torch.Tensor, want []float32) {
		t.Helper()
		if values := torch.ToSlice[float32](got); !slices.Equal(values, want) {
			t.Errorf("%s is %v, PyTorch draws %v", what, values, want)
		}
	}
	draw := func() {
		conv, linear := Conv2d(1, 2, 2, 1, 0, 1, 1, true, "zeros"), Linear(2, 3, true)
		defer conv.Free()
		defer linear.Free()
		check("conv.weight", conv.Weight, []float32{-0.00374341011, 0.268221796, -0.411522567, -0.367969513, -0.192577183, 0.134078681, -0.00990658998, 0.396444738})
		check("conv.bias", conv.Bias, []float32{-0.0443720222, 0.132306278})
		check("linear.weight", linear.Weight, []float32{-0.213696912, -0.138992712, -0.675533414, -0.468304157, -0.291485757, 0.0261937603})
		check("linear.bias", linear.Bias, []float32{0.279544204, 0.424280167, -0.479376733})
	}
	torch.ManualSeed(0)
	draw()
	run(t, func() { torch.Seeded(torch.NewGenerator(0), draw) })
}

// Every layer, mode and loss against PyTorch live.
func TestLikePyTorch(t *testing.T) {
	want := reference.Run(t, `
torch.manual_seed(3)
conv = nn.Conv2d(6, 8, 3, 2, 1, 2, groups=2)
for n, p in conv.named_parameters(): save("conv." + n, p)
linear = nn.Linear(8, 5)
for n, p in linear.named_parameters(): save("linear." + n, p)
for mode in "fan_in", "fan_out":
    w = torch.empty(8, 6, 3, 3)
    save("normal." + mode, nn.init.kaiming_normal_(w, mode=mode, nonlinearity="relu"))
    save("uniform." + mode, nn.init.kaiming_uniform_(w, a=0.3, mode=mode))
save("linear gain", nn.init.kaiming_normal_(w, nonlinearity="linear"))
save("normal", nn.init.normal_(w, 1, 2)); save("uniform", nn.init.uniform_(w, -3, 2))
save("xavier", nn.init.xavier_uniform_(w))
for std in 0.02, 0.5, 2.0: save("truncated %g" % std, nn.init.trunc_normal_(w, std=std))
x = torch.rand(4, 6, 9, 9); save("x", x)
bn = nn.BatchNorm2d(8, eps=1e-3, momentum=0.3)
nn.init.uniform_(bn.weight); nn.init.uniform_(bn.bias)
net = nn.Sequential(conv, bn, nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), linear)
def step(name):
    net.zero_grad(); z = net(x); save(name + ".z", z)
    F.cross_entropy(z, torch.tensor([4, 0, 1, 4])).backward()
    for n, p in net.named_parameters(): save(name + ".grad." + n, p.grad)
    for n, p in net.state_dict().items(): save(name + "." + n, p)
step("train"); step("again")
bn.eval(); step("eval")
frozen = nn.BatchNorm2d(8, eps=1e-3, momentum=0.3, track_running_stats=False); frozen.weight, frozen.bias = bn.weight, bn.bias
save("frozen.z", linear(F.max_pool2d(frozen(conv(x)).relu(), 3, 1, 1).mean((2, 3))))
z = net(x); y = torch.tensor([4, 0, -1, 4]); w = torch.tensor([1, 2, 3, 4, 5.])
for reduction in "mean", "sum", "none":
    save("ce." + reduction, F.cross_entropy(z, y, w, ignore_index=-1, reduction=reduction))
    save("nll." + reduction, F.nll_loss(F.log_softmax(z, 1), y, ignore_index=-1, reduction=reduction))
`)
	torch.ManualSeed(3)
	conv := Conv2d(6, 8, 3, 2, 1, 2, 2, true, "zeros")
	linear := Linear(8, 5, true)
	for name, m := range map[string]Module{"conv.": conv, "linear.": linear} {
		for _, p := range m.Root().StateDict() {
			reference.Equal(t, want, name+p.Name, p.Tensor)
		}
	}
	run(t, func() {
		checkInitializers(t, want)
		x := torch.Rand([]int64{4, 6, 9, 9}, false)
		reference.Equal(t, want, "x", x)
		bn := BatchNorm2d(8, 1e-3, 0.3, true, true)
		for _, p := range bn.Parameters() {
			torch.NoGrad(func() { p.UniformI(0, 1) })
		}
		net := Sequential(conv, bn, ReLU(true), MaxPool2d(3, 1, 1, 1, false), AdaptiveAvgPool2d(1, 1), Flatten(), linear)
		defer net.Free()
		step := func(name string) {
			net.ZeroGrad()
			z := net.Forward(x)
			reference.Equal(t, want, name+".z", z)
			F.CrossEntropy(z, torch.NewTensor([]int64{4, 0, 1, 4}), torch.Tensor{}, -100, "mean").Backward()
			for _, p := range net.NamedParameters() {
				reference.Equal(t, want, name+".grad."+p.Name, p.Tensor.Grad())
			}
			for _, n := range net.StateDict() {
				reference.Equal(t, want, name+"."+n.Name, n.Tensor)
			}
		}
		step("train")
		step("again")
		SetBatchNorm(net, BatchNormEval)
		step("eval")
		SetBatchNorm(net, BatchNormFrozenStats)
		reference.Equal(t, want, "frozen.z", net.Forward(x))

		SetBatchNorm(net, BatchNormEval)
		z, y := net.Forward(x), torch.NewTensor([]int64{4, 0, -1, 4})
		w := torch.NewTensor([]float32{1, 2, 3, 4, 5})
		for _, reduction := range []string{"mean", "sum", "none"} {
			reference.Equal(t, want, "ce."+reduction, F.CrossEntropy(z, y, w, -1, reduction))
			reference.Equal(t, want, "nll."+reduction, F.NllLoss(F.LogSoftmax(z, 1), y, torch.Tensor{}, -1, reduction))
		}
		for n, p := range net.StateDict() {
			if p.Name == "1.num_batches_tracked" && p.Tensor.ItemInt() != 2 {
				t.Errorf("tensor %d: %d batches were tracked, want 2", n, p.Tensor.ItemInt())
			}
		}
	})
}

func checkInitializers(t *testing.T, want *ckpt.File) {
	t.Helper()
	w := torch.Empty([]int64{8, 6, 3, 3}, false)
	for _, mode := range []string{"fan_in", "fan_out"} {
		initializer.KaimingNormal(w, 0, mode, "relu")
		reference.Equal(t, want, "normal."+mode, w)
		initializer.KaimingUniform(w, 0.3, mode, "leaky_relu")
		reference.Equal(t, want, "uniform."+mode, w)
	}
	initializer.KaimingNormal(w, 0, "fan_in", "linear")
	reference.Equal(t, want, "linear gain", w)
	initializer.Normal(w, 1, 2)
	reference.Equal(t, want, "normal", w)
	initializer.Uniform(w, -3, 2)
	reference.Equal(t, want, "uniform", w)
	initializer.XavierUniform(w)
	reference.Equal(t, want, "xavier", w)
	for _, std := range []float64{0.02, 0.5, 2} { // cut nowhere, sometimes, often
		initializer.TruncNormal(w, std)
		reference.Equal(t, want, fmt.Sprintf("truncated %g", std), w)
	}
}

// The layers of transformers against PyTorch live: draws, values and gradients in both modes.
func TestTransformerLayersLikePyTorch(t *testing.T) {
	want := reference.Run(t, `
import torchvision
torch.manual_seed(3)
attention = nn.MultiheadAttention(12, 3, batch_first=True)
net = nn.Sequential(nn.LayerNorm(12, eps=1e-6), attention, nn.GELU(), torchvision.ops.StochasticDepth(0.4, "row"))
for n, p in net.state_dict().items(): save(n, p)
x = torch.rand(8, 5, 12).requires_grad_()
for mode in "train", "eval":
    net.train(mode == "train"); net.zero_grad(); x.grad = None
    y = net[0](x); y = attention(y, y, y, need_weights=False)[0]; y = net[3](net[2](y))
    y.square().sum().backward()
    save(mode, y); save(mode + ".x", x.grad)
    for n, p in net.named_parameters(): save(mode + "." + n, p.grad)
`)
	torch.ManualSeed(3)
	net := Sequential(LayerNorm(12, 1e-6), MultiheadAttention(12, 3), GELU(), StochasticDepth(0.4))
	run(t, func() {
		defer net.Free()
		for _, n := range net.StateDict() {
			reference.Equal(t, want, n.Name, n.Tensor)
		}
		x := torch.Rand([]int64{8, 5, 12}, false).SetRequiresGrad(true)
		for _, mode := range []string{"train", "eval"} {
			net.Train(mode == "train")
			net.ZeroGrad()
			x.SetGrad(torch.Tensor{})
			y := net.Forward(x)
			y.Square().Sum().Backward()
			reference.Equal(t, want, mode, y)
			reference.Equal(t, want, mode+".x", x.Grad())
			for _, p := range net.NamedParameters() {
				reference.Equal(t, want, mode+"."+p.Name, p.Tensor.Grad())
			}
		}
	})
}

// Attention in float64 against its definition, head by head (Vaswani et al., 2017, section 3.2).
func TestMultiheadAttention(t *testing.T) {
	const n, places, width, heads = 2, 4, 6, 3
	m := MultiheadAttention(width, heads)
	defer m.Free()
	run(t, func() {
		m.replaceData(func(t torch.Tensor) torch.Tensor { return torch.RandN(t.Shape(), false).CastTo(torch.Double) })
		x := torch.RandN([]int64{n, places, width}, false).CastTo(torch.Double)
		w, b := torch.ToSlice[float64](m.InProjWeight), torch.ToSlice[float64](m.InProjBias)
		out, bias := torch.ToSlice[float64](m.out.Weight), torch.ToSlice[float64](m.out.Bias)
		in, got := torch.ToSlice[float64](x), torch.ToSlice[float64](m.Forward(x).Contiguous(torch.Contiguous))
		for i := range n {
			// part 0, 1, 2 of place p: a query, a key, a value.
			project := func(part, p, c int) float64 {
				sum := b[part*width+c]
				for k := range width {
					sum += w[(part*width+c)*width+k] * in[(i*places+p)*width+k]
				}
				return sum
			}
			for p := range places {
				var joined [width]float64
				for h := range heads {
					const size = width / heads
					var weights [places]float64
					total := 0.0
					for q := range places {
						dot := 0.0
						for c := h * size; c < (h+1)*size; c++ {
							dot += project(0, p, c) * project(1, q, c)
						}
						weights[q] = math.Exp(dot / math.Sqrt(size))
						total += weights[q]
					}
					for c := h * size; c < (h+1)*size; c++ {
						for q := range places {
							joined[c] += weights[q] / total * project(2, q, c)
						}
					}
				}
				for c := range width {
					want := bias[c]
					for k := range width {
						want += out[c*width+k] * joined[k]
					}
					if v := got[(i*places+p)*width+c]; math.Abs(v-want) > 1e-12*max(1, math.Abs(want)) {
						t.Errorf("image %d, place %d, value %d is %g, want %g", i, p, c, v, want)
					}
				}
			}
		}
	})
}

// Stochastic depth leaves whole images out, as often as it should, and keeps the mean; a seed tells which.
func TestStochasticDepth(t *testing.T) {
	const n, p = 4000, 0.25
	run(t, func() {
		m := StochasticDepth(p)
		x := torch.Ones([]int64{n, 2, 1, 3}, false)
		draw := func(seed int64) (y torch.Tensor) {
			torch.Seeded(torch.NewGenerator(seed), func() { y = m.Forward(x) })
			return y
		}
		y, dropped := draw(2), 0
		values := torch.ToSlice[float32](y)
		for i := range n {
			image := values[6*i : 6*i+6]
			if slices.Min(image) != slices.Max(image) || image[0] != 0 && image[0] != float32(1/(1-p)) {
				t.Fatalf("image %d became %v", i, image)
			}
			if image[0] == 0 {
				dropped++
			}
		}
		if math.Abs(float64(dropped)-n*p) > 4*math.Sqrt(n*p*(1-p)) {
			t.Errorf("%d of %d images are left out, want about %g", dropped, n, n*p)
		}
		if !torch.Equal(draw(2), y) || torch.Equal(draw(3), y) {
			t.Error("the seed does not decide")
		}
		if !Drops(Sequential(m)) || Drops(Sequential(StochasticDepth(0))) {
			t.Error("Drops does not see it")
		}
		if m.Eval(); m.Forward(x) != x {
			t.Error("evaluation drops images")
		}
	})
}

// The three modes from the definition, in float64 and without PyTorch.
func TestBatchNormModes(t *testing.T) {
	const eps, momentum, gamma, beta = 1e-5, 0.1, 2.0, 0.5
	data := []float32{1, 2, 4, 9} // [2, 1, 1, 2]
	mean, variance := 4.0, 9.5    // variance over n; the running one takes n-1
	unbiased := variance * 4 / 3
	for _, tt := range []struct {
		mode            BatchNormMode
		center, spread  float64
		runMean, runVar float64
		batches         int64
	}{
		{mode: BatchNormTrain, center: mean, spread: variance, runMean: 0.9*3 + 0.1*mean, runVar: 0.9*7 + 0.1*unbiased, batches: 1},
		{mode: BatchNormFrozenStats, center: mean, spread: variance, runMean: 3, runVar: 7},
		{mode: BatchNormEval, center: 3, spread: 7, runMean: 3, runVar: 7},
	} {
		t.Run(tt.mode.String(), func(t *testing.T) {
			m := BatchNorm2d(1, eps, momentum, true, true)
			defer m.Free()
			run(t, func() {
				torch.NoGrad(func() {
					m.Weight.FillI(gamma)
					m.Bias.FillI(beta)
					m.RunningMean.FillI(3)
					m.RunningVar.FillI(7)
				})
				SetBatchNorm(m, tt.mode)
				y := m.Forward(torch.FromSlice(data, 2, 1, 1, 2))
				for i, got := range torch.ToSlice[float32](y) {
					want := gamma*(float64(data[i])-tt.center)/math.Sqrt(tt.spread+eps) + beta
					if math.Abs(float64(got)-want) > 1e-5 {
						t.Errorf("y[%d] = %g, want %g", i, got, want)
					}
				}
				gotMean, gotVar, batches := m.RunningMean.Item(), m.RunningVar.Item(), m.NumBatchesTracked.ItemInt()
				if math.Abs(gotMean-tt.runMean) > 1e-5 || math.Abs(gotVar-tt.runVar) > 1e-5 || batches != tt.batches {
					t.Errorf("running %g, %g after %d batches, want %g, %g after %d", gotMean, gotVar, batches, tt.runMean, tt.runVar, tt.batches)
				}
				y.Sum().Backward()
				if !m.Weight.Grad().Defined() || !m.Bias.Grad().Defined() {
					t.Error("weight or bias has no gradient")
				}
			})
		})
	}
}

// Train and Eval reach every module and put batch normalisation back.
func TestModeSwitches(t *testing.T) {
	m := newBlock()
	defer m.Free()
	check := func(what string, training bool, mode BatchNormMode) {
		t.Helper()
		for path, module := range Modules(m) {
			if b := module.Root(); b.Training() != training || b.batchNorm != mode {
				t.Errorf("after %s, %q: training %v, batch normalisation %v", what, path, b.Training(), b.batchNorm)
			}
		}
	}
	check("construction", true, BatchNormTrain)
	SetBatchNorm(m, BatchNormFrozenStats)
	check("SetBatchNorm", true, BatchNormFrozenStats)
	m.Eval()
	check("Eval", false, BatchNormEval)
	m.Train(true)
	check("Train", true, BatchNormTrain)
	if err := torch.Try(func() { SetBatchNorm(m, 7) }); err == nil {
		t.Error("mode 7 was taken")
	}
}

// One value per channel has no variance: an error in training, fine otherwise. Wrong dimensions are an error too.
func TestBatchNormInput(t *testing.T) {
	m := BatchNorm2d(2, 1e-5, 0.1, false, true)
	defer m.Free()
	run(t, func() {
		x := torch.Ones([]int64{1, 2, 1, 1}, false)
		if err := torch.Try(func() { m.Forward(x) }); err == nil || !strings.Contains(err.Error(), "more than one value per channel") {
			t.Errorf("training on one value: %v", err)
		}
		if n := m.NumBatchesTracked.ItemInt(); n != 0 {
			t.Errorf("the refused batch was counted: %d", n)
		}
		m.Eval()
		m.Forward(x)
		if err := torch.Try(func() { m.Forward(torch.Ones([]int64{4, 2}, false)) }); err == nil {
			t.Error("a matrix was normalised as images")
		}
	})
}

// Gradients of the functional forms in float64 against central differences.
func TestGradients(t *testing.T) {
	none := torch.Tensor{}
	one, two, three := []int64{1, 1}, []int64{2, 2}, []int64{3, 3}
	for _, tt := range []struct {
		name   string
		shapes [][]int64
		fn     func(in []torch.Tensor) torch.Tensor
	}{
		{"Conv2d", [][]int64{{2, 2, 5, 5}, {4, 1, 3, 3}, {4}}, func(in []torch.Tensor) torch.Tensor {
			return F.Conv2d(in[0], in[1], in[2], two, one, one, 2)
		}},
		{"Linear", [][]int64{{3, 4}, {2, 4}, {2}}, func(in []torch.Tensor) torch.Tensor { return F.Linear(in[0], in[1], in[2]) }},
		{"BatchNorm train", [][]int64{{3, 2, 2, 2}, {2}, {2}}, func(in []torch.Tensor) torch.Tensor {
			return F.BatchNorm(in[0], none, none, in[1], in[2], true, 0.1, 1e-5)
		}},
		{"BatchNorm eval", [][]int64{{3, 2, 2, 2}, {2}, {2}}, func(in []torch.Tensor) torch.Tensor {
			mean, variance := torch.NewTensor([]float64{0.3, 0.1}), torch.NewTensor([]float64{2, 0.5})
			return F.BatchNorm(in[0], mean, variance, in[1], in[2], false, 0.1, 1e-5)
		}},
		{"Relu", [][]int64{{10}}, func(in []torch.Tensor) torch.Tensor { return F.Relu(in[0].MulScalar(1), true) }},
		{"MaxPool2d", [][]int64{{2, 1, 6, 6}}, func(in []torch.Tensor) torch.Tensor {
			return F.MaxPool2d(in[0], three, two, one, one, false)
		}},
		{"AdaptiveAvgPool2d", [][]int64{{2, 2, 5, 4}}, func(in []torch.Tensor) torch.Tensor {
			return F.AdaptiveAvgPool2d(in[0], two)
		}},
		{"Gelu", [][]int64{{10}}, func(in []torch.Tensor) torch.Tensor { return F.Gelu(in[0]) }},
		{"LayerNorm", [][]int64{{3, 2, 4}, {4}, {4}}, func(in []torch.Tensor) torch.Tensor {
			return F.LayerNorm(in[0], []int64{4}, in[1], in[2], 1e-5)
		}},
		{"ScaledDotProductAttention", [][]int64{{2, 3, 4}, {2, 3, 4}, {2, 3, 4}}, func(in []torch.Tensor) torch.Tensor {
			return F.ScaledDotProductAttention(in[0], in[1], in[2])
		}},
		{"CrossEntropy", [][]int64{{4, 3}}, func(in []torch.Tensor) torch.Tensor {
			return F.CrossEntropy(in[0], torch.NewTensor([]int64{2, 0, 1, 1}), none, -100, "none")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, func() {
				torch.ManualSeed(5)
				in := make([]torch.Tensor, len(tt.shapes))
				for i, shape := range tt.shapes {
					in[i] = torch.RandN(shape, false).CastTo(torch.Double).SetRequiresGrad(true)
				}
				weights := torch.RandN(tt.fn(in).Shape(), false).CastTo(torch.Double)
				value := func() torch.Tensor { return tt.fn(in).Mul(weights).Sum() }
				grads := torch.Grad([]torch.Tensor{value()}, in)
				const h = 1e-6
				for i, x := range in {
					grad := torch.ToSlice[float64](grads[i])
					for j := range grad {
						at := func(delta float64) (v float64) {
							torch.NoGrad(func() {
								element := x.View(-1).Narrow(0, int64(j), 1)
								element.AddI(torch.Full([]int64{1}, delta, false), 1)
								v = value().Item()
								element.AddI(torch.Full([]int64{1}, -delta, false), 1)
							})
							return v
						}
						if want := (at(h) - at(-h)) / (2 * h); math.Abs(grad[j]-want) > 1e-6*max(1, math.Abs(want)) {
							t.Errorf("input %d, element %d: gradient %g, difference quotient %g", i, j, grad[j], want)
						}
					}
				}
			})
		})
	}
}

func TestFunctionalErrors(t *testing.T) {
	run(t, func() {
		x, y := torch.Ones([]int64{2, 3}, false), torch.NewTensor([]int64{0, 1})
		err := torch.Try(func() { F.CrossEntropy(x, y, torch.Tensor{}, -100, "average") })
		if err == nil || !strings.Contains(err.Error(), `reduction "average" is unknown; use mean, sum or none`) {
			t.Error(err)
		}
		w := torch.Empty([]int64{3}, false)
		for _, wrong := range []func(){
			func() { initializer.KaimingNormal(w, 0, "fan_in", "relu") },
			func() { initializer.KaimingNormal(x, 0, "fan_avg", "relu") },
			func() { initializer.KaimingUniform(x, 0, "fan_in", "gelu") },
		} {
			if err := torch.Try(wrong); err == nil {
				t.Error("a wrong initialiser was taken")
			}
		}
	})
}

func TestSnapshotRestore(t *testing.T) {
	m, other := newBlock(), newBlock()
	defer m.Free()
	defer other.Free()
	f := Snapshot(m)
	if f.Hash() == Snapshot(other).Hash() {
		t.Fatal("two networks were drawn alike: the test would prove nothing")
	}
	if err := Restore(other, f, true); err != nil {
		t.Fatal(err)
	}
	if f.Hash() != Snapshot(other).Hash() {
		t.Error("the restored network differs")
	}
	for _, p := range other.Parameters() {
		if !p.RequiresGrad() || !p.IsLeaf() {
			t.Error("a restored parameter is no leaf that needs gradients")
		}
	}
	run(t, func() {
		back, err := Unpack(f)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range m.StateDict() {
			if back[i].Name != n.Name || back[i].Tensor.Dtype() != n.Tensor.Dtype() || !torch.Equal(back[i].Tensor, n.Tensor) {
				t.Errorf("%s came back as %s %v", n.Name, back[i].Name, back[i].Tensor)
			}
		}
	})
}

// edited returns a snapshot of m after a change to its list of tensors.
func edited(m Module, change func(list []ckpt.Tensor) []ckpt.Tensor) *ckpt.File {
	f := Snapshot(m)
	f.Tensors = change(f.Tensors)
	return f
}

func find(list []ckpt.Tensor, name string) *ckpt.Tensor {
	return &list[slices.IndexFunc(list, func(t ckpt.Tensor) bool { return t.Name == name })]
}

func TestRestoreRefuses(t *testing.T) {
	m := newBlock()
	defer m.Free()
	before := Snapshot(m).Hash()
	set := func(name string, d ckpt.DType, data []byte, shape ...int64) func([]ckpt.Tensor) []ckpt.Tensor {
		return func(list []ckpt.Tensor) []ckpt.Tensor {
			*find(list, name) = ckpt.Tensor{Name: name, DType: d, Shape: shape, Data: data}
			return list
		}
	}
	for _, tt := range []struct {
		name   string
		change func([]ckpt.Tensor) []ckpt.Tensor
		want   string
	}{
		{"renamed", func(list []ckpt.Tensor) []ckpt.Tensor {
			find(list, "tail.1.weight").Name = "head.1.weight"
			return list
		}, "1 missing: tail.1.weight (the file has head.1.weight); 1 unexpected: head.1.weight"},
		{"empty", func([]ckpt.Tensor) []ckpt.Tensor { return nil }, "8 missing: gain, count, norm.weight, norm.bias, norm.running_mean, norm.running_var, and 2 more"},
		{"shape", set("tail.1.bias", "F32", make([]byte, 12), 3), "1 different: tail.1.bias is F32 [3] in the file and float32 [2] in the network"},
		{"integers as weights", set("tail.1.bias", "I32", make([]byte, 8), 2), "tail.1.bias is I32 [2] in the file"},
		{"NaN", set("tail.1.bias", "F32", []byte{0, 0, 0, 0, 0, 0, 0xc0, 0x7f}, 2), "element 1 of tail.1.bias is NaN"},
		{"-Inf", set("tail.1.bias", "F32", []byte{0, 0, 0x80, 0xff, 0, 0, 0, 0}, 2), "element 0 of tail.1.bias is -Inf"},
		{"half NaN", set("tail.1.bias", "F16", []byte{0, 0, 1, 0x7c}, 2), "element 1 of tail.1.bias is NaN"},
		{"half Inf", set("tail.1.bias", "F16", []byte{0, 0x7c, 0, 0}, 2), "element 0 of tail.1.bias is +Inf"},
		{"bfloat16 -Inf", set("tail.1.bias", "BF16", []byte{0, 0, 0x80, 0xff}, 2), "element 1 of tail.1.bias is -Inf"},
		{"too large for float32", set("tail.1.bias", "F64", binaryFloat64(1, 1e300), 2), "element 1 of tail.1.bias is 1e+300"},
		{"float64 NaN", set("tail.1.bias", "F64", binaryFloat64(math.NaN(), 1), 2), "element 0 of tail.1.bias is NaN"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Restore(m, edited(m, tt.change), true)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if Snapshot(m).Hash() != before {
				t.Error("the refused weights changed the network")
			}
		})
	}
	var mismatch *MismatchError
	if err := Restore(m, &ckpt.File{}, true); !errors.As(err, &mismatch) || len(mismatch.Missing) != 8 {
		t.Errorf("no *MismatchError: %v", err)
	}
	if err := Restore(m, edited(m, func(list []ckpt.Tensor) []ckpt.Tensor {
		find(list, "gain").Name = "loss"
		return list
	}), false); err != nil {
		t.Errorf("not strict: %v", err)
	}
	if _, err := Unpack(&ckpt.File{Tensors: []ckpt.Tensor{{Name: "a", DType: "C64"}}}); err == nil {
		t.Error("a complex tensor was unpacked")
	}
}

func binaryFloat64(values ...float64) []byte {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint64(data, math.Float64bits(v))
	}
	return data
}

// Other widths of floating point are converted, and a missing counter keeps its value.
func TestRestoreConverts(t *testing.T) {
	m := newBlock()
	defer m.Free()
	for _, tt := range []struct {
		dtype ckpt.DType
		data  []byte // 1.5 and -2
	}{
		{"F16", []byte{0x00, 0x3e, 0x00, 0xc0}},
		{"BF16", []byte{0xc0, 0x3f, 0x00, 0xc0}},
		{"F64", binaryFloat64(1.5, -2)},
	} {
		f := edited(m, func(list []ckpt.Tensor) []ckpt.Tensor {
			*find(list, "tail.1.bias") = ckpt.Tensor{Name: "tail.1.bias", DType: tt.dtype, Shape: []int64{2}, Data: tt.data}
			return slices.DeleteFunc(list, func(t ckpt.Tensor) bool { return t.Name == "norm.num_batches_tracked" })
		})
		torch.NoGrad(func() {
			m.fc.Bias.FillI(0)
			m.norm.NumBatchesTracked.FillI(5)
		})
		if err := Restore(m, f, true); err != nil {
			t.Errorf("%s: %v", tt.dtype, err)
		}
		if got := torch.ToSlice[float32](m.fc.Bias); !slices.Equal(got, []float32{1.5, -2}) || m.norm.NumBatchesTracked.ItemInt() != 5 {
			t.Errorf("%s: bias %v, %d batches", tt.dtype, got, m.norm.NumBatchesTracked.ItemInt())
		}
	}
}

// Weights change their layout in place: same handles, same values, same output, gradients still reach them.
func TestToMemoryFormat(t *testing.T) {
	m := Sequential(Conv2d(3, 8, 3, 1, 1, 1, 1, false, "zeros"), BatchNorm2d(8, 1e-5, 0.1, true, true), Conv2d(8, 4, 1, 1, 0, 1, 1, true, "zeros"))
	defer m.Free()
	m.Eval()
	run(t, func() {
		x := torch.Rand([]int64{2, 3, 6, 6}, false)
		params, hash, y := m.Parameters(), Snapshot(m).Hash(), m.Forward(x)
		ToMemoryFormat(m, torch.ChannelsLast)
		if got := params[0].Strides(); !slices.Equal(got, []int64{27, 1, 9, 3}) {
			t.Errorf("the 3x3 weight has strides %v", got)
		}
		if got := params[3].Strides(); !slices.Equal(got, []int64{8, 1, 8, 8}) {
			t.Errorf("the 1x1 weight has strides %v", got)
		}
		if Snapshot(m).Hash() != hash || !slices.Equal(m.Parameters(), params) {
			t.Error("values or handles changed")
		}
		if got := m.Forward(x.Contiguous(torch.ChannelsLast)); !got.IsContiguous(torch.ChannelsLast) || !torch.AllClose(got, y, 1e-5, 1e-6) {
			t.Error("the output differs or is in another layout")
		}
		m.Forward(x).Sum().Backward()
		if g := params[0].Grad(); !g.Defined() || !slices.Equal(g.Shape(), []int64{8, 3, 3, 3}) {
			t.Error("no gradient after the change")
		}
		ToMemoryFormat(m, torch.Contiguous)
		if params[0].Grad().Defined() || !params[0].IsContiguous(torch.Contiguous) || !params[0].RequiresGrad() {
			t.Error("the way back left the gradient, the layout or no need for gradients")
		}
		m.To(torch.CPU)
		if Snapshot(m).Hash() != hash {
			t.Error("moving to where it was changed the network")
		}
	})
}

// Dropout has the bits of aten::dropout, forward and backward, from whichever generator; in evaluation mode it is not there.
func TestDropout(t *testing.T) {
	aten := torch.Define("aten::dropout(Tensor input, float p, bool train) -> Tensor")
	run(t, func() {
		m := Dropout(0.3)
		for _, format := range []torch.MemoryFormat{torch.Contiguous, torch.ChannelsLast} {
			x := torch.RandN([]int64{4, 5, 3, 3}, false).Contiguous(format).SetRequiresGrad(true)
			slope := func(y torch.Tensor) torch.Tensor {
				return torch.Grad([]torch.Tensor{y.Square().Sum()}, []torch.Tensor{x})[0]
			}
			torch.ManualSeed(2)
			want := aten.One(x, 0.3, true)
			var got torch.Tensor
			torch.Seeded(torch.NewGenerator(2), func() { got = m.Forward(x) })
			if !torch.Equal(got, want) || !torch.Equal(slope(got), slope(want)) {
				t.Errorf("%v: not the values that PyTorch drops", format)
			}
			if other := m.Forward(x); torch.Equal(other, got) {
				t.Errorf("%v: the same values again", format)
			}
		}
		m.Eval()
		if x := torch.RandN([]int64{2, 2}, false); m.Forward(x) != x || !Drops(Sequential(Sequential(m))) || Drops(Sequential(Dropout(0))) {
			t.Error("evaluation drops values, or Drops does not see them")
		}
	})
	for _, p := range []float64{-0.1, 1, math.NaN()} {
		if err := torch.Try(func() { Dropout(p) }); err == nil || !strings.Contains(err.Error(), "[0, 1)") {
			t.Errorf("probability %g: %v", p, err)
		}
	}
}

func TestFree(t *testing.T) {
	before := torch.Live()
	m := newBlock()
	if torch.Live() == before {
		t.Error("a module owns nothing")
	}
	m.Free()
	m.Free()
	if n := torch.Live() - before; n != 0 {
		t.Errorf("%d tensors outlive their module", n)
	}
}

func ExampleSequential() {
	net := Sequential(
		Conv2d(1, 4, 3, 1, 1, 1, 1, true, "zeros"),
		BatchNorm2d(4, 1e-5, 0.1, true, true),
		ReLU(true),
		AdaptiveAvgPool2d(1, 1),
		Flatten(),
		Linear(4, 10, true),
	)
	defer net.Free()
	err := torch.Run(torch.CPU, func() error {
		fmt.Println(net.Forward(torch.Rand([]int64{16, 1, 28, 28}, false)))
		return nil
	})
	fmt.Println(names(net.NamedParameters()), err)
	// Output:
	// float32[16 10]
	// [0.weight 0.bias 1.weight 1.bias 5.weight 5.bias] <nil>
}

func ExampleRestore() {
	trained, fresh := Linear(4, 2, true), Linear(4, 2, true)
	defer trained.Free()
	defer fresh.Free()
	fmt.Println(Restore(fresh, Snapshot(trained), true), Snapshot(fresh).Hash() == Snapshot(trained).Hash())
	fmt.Println(Restore(fresh, &ckpt.File{}, true))
	// Output:
	// <nil> true
	// the weights do not fit the network: 2 missing: weight, bias
}
