package optim

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// run is torch.Run on the CPU for tests.
func run(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(torch.CPU, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// settings are the cases of the update rule.
var settings = []struct {
	name                                 string
	lr, momentum, dampening, weightDecay float64
	nesterov                             bool
}{
	{"plain", 0.1, 0, 0, 0, false},
	{"decay", 0.1, 0, 0, 0.01, false},
	{"momentum", 0.1, 0.9, 0, 0, false},
	{"dampening", 0.1, 0.9, 0.3, 0.01, false},
	{"nesterov", 0.1, 0.9, 0, 0.01, true},
}

// The rule of SGD's documentation, in float64 without libtorch. The second parameter has no gradient at the first step.
func TestSGD(t *testing.T) {
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			run(t, func() {
				p := []float64{1, -2}
				v := []float64{0, 0}
				started := []bool{false, false}
				params := make([]torch.Tensor, len(p))
				for i := range p {
					params[i] = torch.NewTensor([]float64{p[i]}).SetRequiresGrad(true)
				}
				opt := SGD(s.lr, s.momentum, s.dampening, s.weightDecay, s.nesterov)
				defer opt.Free()
				opt.AddParameters(params[:1])
				opt.AddParameters(params[1:])
				for step := range 4 {
					lr := s.lr / float64(step+1)
					opt.SetLR(lr)
					opt.ZeroGrad()
					for i := range p {
						if i == 1 && step == 0 {
							continue
						}
						g := math.Sin(float64(3*step + i))
						params[i].MulScalar(g).Sum().Backward()
						d := g + s.weightDecay*p[i]
						if s.momentum != 0 {
							if !started[i] {
								v[i], started[i] = d, true
							} else {
								v[i] = s.momentum*v[i] + (1-s.dampening)*d
							}
							if s.nesterov {
								d += s.momentum * v[i]
							} else {
								d = v[i]
							}
						}
						p[i] -= lr * d
					}
					opt.Step()
					for i := range p {
						if got := params[i].Item(); math.Abs(got-p[i]) > 1e-14 {
							t.Errorf("step %d: parameter %d is %.17g, want %.17g", step, i, got, p[i])
						}
					}
				}
				opt.ZeroGrad()
				opt.Step() // without any gradient nothing moves
				if got := params[0].Item(); opt.LR() != s.lr/4 || math.Abs(got-p[0]) > 1e-14 {
					t.Errorf("a step without gradients moved the parameter to %g", got)
				}
			})
		})
	}
}

// Bit for bit torch.optim.SGD, in float32, on a size that uses vectors and a rest, and on a channels-last weight.
func TestLikePyTorch(t *testing.T) {
	var script strings.Builder
	script.WriteString(`
start = torch.randn(1003, generator=torch.Generator().manual_seed(1))
image = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(2))
def trial(name, **settings):
    p = start.clone().requires_grad_(); q = image.contiguous(memory_format=torch.channels_last).requires_grad_()
    opt = torch.optim.SGD([p, q], **settings)
    for step in range(4):
        opt.zero_grad()
        ((p * p).sum() + (q.sin()).sum()).backward()
        opt.step()
    save(name + "/p", p); save(name + "/q", q)
    if settings["momentum"]: save(name + "/m", opt.state[q]["momentum_buffer"])
def rates(make):
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1); s = make(opt); out = []
    for _ in range(40):
        out.append(opt.param_groups[0]["lr"]); opt.step(); s.step()
    return torch.tensor(out, dtype=torch.float64)
from torch.optim.lr_scheduler import *
save("step", rates(lambda o: StepLR(o, 7, 0.3)))
save("cosine", rates(lambda o: CosineAnnealingLR(o, 33, 0.001)))
save("one cycle", rates(lambda o: OneCycleLR(o, 0.5, total_steps=41, cycle_momentum=False)))
save("steps", rates(lambda o: MultiStepLR(o, [3, 3, 20], 0.3)))
save("linear", rates(lambda o: LinearLR(o, 0.25, total_iters=11)))
save("late peak", rates(lambda o: OneCycleLR(o, 0.5, total_steps=41, pct_start=1.0, div_factor=3, final_div_factor=7, cycle_momentum=False)))
`)
	for _, s := range settings {
		fmt.Fprintf(&script, "trial(%q, lr=%g, momentum=%g, dampening=%g, weight_decay=%g, nesterov=bool(%q))\n",
			s.name, s.lr, s.momentum, s.dampening, s.weightDecay, map[bool]string{true: "yes"}[s.nesterov])
	}
	want := reference.Run(t, script.String())
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			run(t, func() {
				var p, q torch.Tensor
				torch.Seeded(torch.NewGenerator(1), func() { p = torch.RandN([]int64{1003}, true) })
				torch.Seeded(torch.NewGenerator(2), func() { q = torch.RandN([]int64{8, 3, 5, 5}, false) })
				q = q.Contiguous(torch.ChannelsLast).SetRequiresGrad(true)
				opt := SGD(s.lr, s.momentum, s.dampening, s.weightDecay, s.nesterov)
				defer opt.Free()
				opt.AddParameters([]torch.Tensor{p, q})
				for range 4 {
					opt.ZeroGrad()
					p.Mul(p).Sum().Add(opSin.One(q).Sum(), 1).Backward()
					opt.Step()
				}
				reference.Equal(t, want, s.name+"/p", p)
				reference.Equal(t, want, s.name+"/q", q)
				if s.momentum != 0 {
					reference.Equal(t, want, s.name+"/m", opt.State()[1].Tensor)
				}
			})
		})
	}
	checkRates(t, StepLR(0.1, 7, 0.3), want, "step", 1)
	checkRates(t, CosineAnnealingLR(0.1, 33, 0.001), want, "cosine", 1)
	checkRates(t, OneCycleLR(0.5, 41, 0.3, 25, 1e4), want, "one cycle", 1)
	checkRates(t, OneCycleLR(0.5, 41, 1, 3, 7), want, "late peak", 1)
	checkRates(t, MultiStepLR(0.1, []int{3, 3, 20}, 0.3), want, "steps", 1)
	checkRates(t, LinearLR(0.1, 0.25, 11), want, "linear", 1)
}

// adams are the cases of Adam and AdamW.
var adams = []struct {
	name, class                        string
	lr, beta1, beta2, eps, weightDecay float64
	make                               func(lr, beta1, beta2, eps, weightDecay float64) *AdamOptimizer
}{
	{"adam", "Adam", 0.01, 0.9, 0.999, 1e-8, 0, Adam},
	{"adam, decay", "Adam", 0.1, 0.8, 0.99, 1e-3, 0.02, Adam},
	{"adamw", "AdamW", 0.01, 0.9, 0.999, 1e-8, 0.01, AdamW},
	{"adamw, no decay", "AdamW", 0.01, 0, 0.5, 1e-8, 0, AdamW},
}

// The rule of Adam's documentation, in float64 without libtorch. The second parameter has no gradient at the first step, so
// that it is a step behind.
func TestAdam(t *testing.T) {
	for _, s := range adams {
		t.Run(s.name, func(t *testing.T) {
			run(t, func() {
				p, m, v, steps := []float64{1, -2}, []float64{0, 0}, []float64{0, 0}, []float64{0, 0}
				params := []torch.Tensor{torch.NewTensor(p[:1]).SetRequiresGrad(true), torch.NewTensor(p[1:]).SetRequiresGrad(true)}
				opt := s.make(s.lr, s.beta1, s.beta2, s.eps, s.weightDecay)
				defer opt.Free()
				opt.AddParameters(params)
				for step := range 5 {
					lr := s.lr / float64(step+1)
					opt.SetLR(lr)
					opt.ZeroGrad()
					for i := range p {
						if i == 1 && step == 0 {
							continue
						}
						g := math.Sin(float64(3*step + i))
						params[i].MulScalar(g).Sum().Backward()
						if s.class == "AdamW" {
							p[i] -= lr * s.weightDecay * p[i]
						} else {
							g += s.weightDecay * p[i]
						}
						steps[i]++
						m[i] = s.beta1*m[i] + (1-s.beta1)*g
						v[i] = s.beta2*v[i] + (1-s.beta2)*g*g
						first, second := m[i]/(1-math.Pow(s.beta1, steps[i])), v[i]/(1-math.Pow(s.beta2, steps[i]))
						p[i] -= lr * first / (math.Sqrt(second) + s.eps)
					}
					opt.Step()
					for i := range p {
						if got := params[i].Item(); math.Abs(got-p[i]) > 1e-13 {
							t.Errorf("step %d: parameter %d is %.17g, want %.17g", step, i, got, p[i])
						}
					}
				}
				opt.ZeroGrad()
				opt.Step() // without any gradient nothing moves
				if got := params[0].Item(); math.Abs(got-p[0]) > 1e-13 {
					t.Errorf("a step without gradients moved the parameter to %g", got)
				}
			})
		})
	}
}

// Bit for bit torch.optim.Adam and AdamW, parameter by parameter (foreach=False), clip_grad_norm_ and AveragedModel.
func TestAdamLikePyTorch(t *testing.T) {
	var script strings.Builder
	script.WriteString(`
start = torch.randn(1003, generator=torch.Generator().manual_seed(1))
image = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(2))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(start.clone()); self.q = nn.Parameter(image.contiguous(memory_format=torch.channels_last))
def trial(name, make, limit, **settings):
    net = Net(); opt = make(net.parameters(), foreach=False, **settings)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(30):
        opt.zero_grad()
        ((net.p * net.p).sum() + net.q.sin().sum()).backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), limit, foreach=False)
        opt.step(); average.update_parameters(net)
    save(name + "/p", net.p); save(name + "/q", net.q); save(name + "/norm", norm)
    for key in ("step", "exp_avg", "exp_avg_sq"): save(name + "/" + key, opt.state[net.q][key])
    save(name + "/average", average.module.q)
`)
	limits := []float64{0.5, 30, 1e9, 5} // the last but one clips nothing
	for i, s := range adams {
		fmt.Fprintf(&script, "trial(%q, torch.optim.%s, %g, lr=%g, betas=(float(%g), float(%g)), eps=%g, weight_decay=%g)\n",
			s.name, s.class, limits[i], s.lr, s.beta1, s.beta2, s.eps, s.weightDecay)
	}
	want := reference.Run(t, script.String())
	for i, s := range adams {
		t.Run(s.name, func(t *testing.T) {
			run(t, func() {
				var p, q, norm torch.Tensor
				torch.Seeded(torch.NewGenerator(1), func() { p = torch.RandN([]int64{1003}, true) })
				torch.Seeded(torch.NewGenerator(2), func() { q = torch.RandN([]int64{8, 3, 5, 5}, false) })
				q = q.Contiguous(torch.ChannelsLast).SetRequiresGrad(true)
				opt := s.make(s.lr, s.beta1, s.beta2, s.eps, s.weightDecay)
				defer opt.Free()
				opt.AddParameters([]torch.Tensor{p, q})
				average := NewAverage(0.9, []nn.Named{{Name: "q", Tensor: q}})
				defer average.Free()
				for range 30 {
					opt.ZeroGrad()
					p.Mul(p).Sum().Add(opSin.One(q).Sum(), 1).Backward()
					norm = ClipGradNorm([]torch.Tensor{p, q}, limits[i])
					opt.Step()
					average.Update()
				}
				reference.Equal(t, want, s.name+"/p", p)
				reference.Equal(t, want, s.name+"/q", q)
				reference.Equal(t, want, s.name+"/norm", norm)
				reference.Equal(t, want, s.name+"/average", average.State()[0].Tensor)
				for k, name := range []string{"step", "exp_avg", "exp_avg_sq"} {
					reference.Equal(t, want, s.name+"/"+name, opt.State()[3+k].Tensor)
				}
			})
		})
	}
}

// Gradients are scaled together, or left alone where their norm is small enough: 3, 4 and 12 have the norm 13.
func TestClipGradNorm(t *testing.T) {
	run(t, func() {
		a, b := torch.NewTensor([]float64{0, 0}).SetRequiresGrad(true), torch.NewTensor([]float64{0}).SetRequiresGrad(true)
		idle := torch.NewTensor([]float64{0}).SetRequiresGrad(true)
		params := []torch.Tensor{a, idle, b}
		if got := ClipGradNorm(params, 1).Item(); got != 0 {
			t.Errorf("without gradients the norm is %g", got)
		}
		for _, limit := range []float64{100, 6.5} {
			a.SetGrad(torch.NewTensor([]float64{3, 4}))
			b.SetGrad(torch.NewTensor([]float64{12}))
			norm := ClipGradNorm(params, limit).Item()
			factor := min(1, limit/13)
			for i, got := range append(torch.ToSlice[float64](a.Grad()), b.Grad().Item()) {
				if want := []float64{3, 4, 12}[i] * factor; math.Abs(got-want) > 1e-5 || norm != 13 {
					t.Errorf("at most %g: gradient %g, want %g; norm %g", limit, got, want, norm)
				}
			}
		}
	})
}

// Elements are brought to the limit one by one, from both sides.
func TestClipGradValue(t *testing.T) {
	run(t, func() {
		p, idle := torch.NewTensor([]float64{0, 0, 0}).SetRequiresGrad(true), torch.NewTensor([]float64{0}).SetRequiresGrad(true)
		ClipGradValue([]torch.Tensor{idle}, 1)
		p.SetGrad(torch.NewTensor([]float64{0.25, -3, 7}))
		ClipGradValue([]torch.Tensor{p, idle}, 0.5)
		if got := torch.ToSlice[float64](p.Grad()); !slices.Equal(got, []float64{0.25, -0.5, 0.5}) {
			t.Errorf("gradients %v", got)
		}
	})
}

// An average starts at the first update, follows, comes and goes by Swap, and goes on from its state; of counts it keeps the
// last.
func TestAverage(t *testing.T) {
	run(t, func() {
		p, n := torch.NewTensor([]float64{1}).SetRequiresGrad(true), torch.NewTensor([]int64{5})
		live := []nn.Named{{Name: "p", Tensor: p}, {Name: "n", Tensor: n}}
		values := func() [2]float64 { return [2]float64{p.Item(), n.Item()} }
		set := func(v float64) { torch.NoGrad(func() { p.FillI(v); n.FillI(v + 4) }) }
		a := NewAverage(0.75, live)
		defer a.Free()
		a.Swap()
		if len(a.State()) != 0 || values() != [2]float64{1, 5} {
			t.Errorf("an average of nothing has the state %v and changes the network to %v", a.State(), values())
		}
		for _, v := range []float64{8, 4, 12} {
			set(v)
			a.Update()
		}
		b := NewAverage(0.75, live)
		defer b.Free()
		state := a.State()
		slices.Reverse(state)
		if err := b.SetState(state); err != nil {
			t.Fatal(err)
		}
		for _, average := range []*Average{a, b} {
			average.Swap() // 8, 8 - 4/4 = 7, 7 + 5/4 = 8.25
			if values() != [2]float64{8.25, 16} {
				t.Errorf("the average is %v", values())
			}
			average.Swap()
			if values() != [2]float64{12, 16} {
				t.Errorf("behind the average was %v", values())
			}
		}
		wide := torch.NewTensor([]float64{1, 2})
		for _, wrong := range [][]nn.Named{live[:1], {live[0], live[0]}, {{Name: "p", Tensor: wide}, live[1]}} {
			if err := b.SetState(wrong); err == nil || b.State()[0].Tensor.Item() != 8.25 {
				t.Errorf("the state %v was taken: %v", wrong, err)
			}
		}
	})
}

var opSin = torch.Define("aten::sin(Tensor self) -> Tensor")

// Rates that PyTorch's schedulers set (scripts/golden/make.py, streams).
func TestSchedules(t *testing.T) {
	golden, err := ckpt.Load(reference.Golden(t, "streams.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		schedule Schedule
		columns  int // the first is the learning rate
	}{
		{"rates.cosine", CosineAnnealingLR(0.01, 200, 0), 1},
		{"rates.step", StepLR(0.1, 30, 0.1), 1},
		{"rates.onecycle", OneCycleLR(0.005, 200, 0.3, 25, 1e4), 2},
	} {
		checkRates(t, tt.schedule, golden, tt.name, tt.columns)
	}
	momentum := OneCycleMomentum(0.85, 0.95, 200, 0.3)
	rates, _ := golden.Lookup("rates.onecycle")
	for step := range 200 {
		want := math.Float64frombits(binary.LittleEndian.Uint64(rates.Data[16*step+8:]))
		if got := momentum(step); math.Abs(got-want) > 1e-12 {
			t.Errorf("step %d has momentum %.17g, PyTorch %.17g", step, got, want)
		}
	}
	if golden, err = ckpt.Load(reference.Golden(t, "recipes.safetensors")); err != nil {
		t.Fatal(err)
	}
	checkRates(t, MultiStepLR(0.1, []int{91, 136}, 0.1), golden, "rates.multistep", 1)
	checkRates(t, SequentialLR(LinearLR(0.1, 0.01, 10), 10, CosineAnnealingLR(0.1, 30, 0)), golden, "rates.warmup", 1)
}

// checkRates compares a schedule with the first column of a float64 tensor.
func checkRates(t *testing.T, schedule Schedule, f *ckpt.File, name string, columns int) {
	t.Helper()
	stored, ok := f.Lookup(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	for i := 0; i < len(stored.Data); i += 8 * columns {
		step, want := i/(8*columns), math.Float64frombits(binary.LittleEndian.Uint64(stored.Data[i:]))
		if got := schedule(step); math.Abs(got-want) > 1e-12*math.Abs(want) {
			t.Errorf("%s: step %d has %.17g, PyTorch %.17g", name, step, got, want)
		}
	}
}

// A run that is interrupted, saved and resumed gives the bits of one that is not.
func TestResume(t *testing.T) {
	for name, newOptimizer := range map[string]func() Optimizer{
		"sgd":   func() Optimizer { return SGD(0.01, 0.9, 0, 5e-4, false) },
		"adamw": func() Optimizer { return AdamW(0.01, 0.9, 0.999, 1e-8, 5e-4) },
	} {
		t.Run(name, func(t *testing.T) { run(t, func() { testResume(t, newOptimizer) }) })
	}
}

func testResume(t *testing.T, newOptimizer func() Optimizer) {
	train := func(p torch.Tensor, opt Optimizer, steps int) {
		for range steps {
			opt.ZeroGrad()
			p.Mul(p).Sum().Backward()
			opt.Step()
		}
	}
	fresh := func(values torch.Tensor) (torch.Tensor, Optimizer) {
		p := values.Detach().Clone().SetRequiresGrad(true)
		opt := newOptimizer()
		opt.AddParameters([]torch.Tensor{p})
		return p, opt
	}
	start := torch.RandN([]int64{100}, false)
	whole, opt := fresh(start)
	defer opt.Free()
	train(whole, opt, 6)

	first, opt1 := fresh(start)
	defer opt1.Free()
	train(first, opt1, 2)
	saved := nn.Pack(opt1.State())
	second, opt2 := fresh(first)
	defer opt2.Free()
	state, err := nn.Unpack(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := opt2.SetState(state); err != nil {
		t.Fatal(err)
	}
	if err := opt2.SetState(state); err != nil { // replacing frees what was there
		t.Fatal(err)
	}
	train(second, opt2, 4)
	if !torch.Equal(whole, second) {
		t.Error("the resumed run has other bits")
	}

	forgetful, opt3 := fresh(first)
	defer opt3.Free()
	train(forgetful, opt3, 4)
	if torch.Equal(whole, forgetful) {
		t.Error("the state makes no difference: the test proves nothing")
	}

	short := append(slices.Clone(state), state[0])
	short[len(state)-1] = nn.Named{Name: state[len(state)-1].Name, Tensor: start.Narrow(0, 0, 50)}
	for what, wrong := range map[string][]nn.Named{
		"another parameter": {{Name: "1.momentum_buffer", Tensor: start}},
		"a negative one":    {{Name: "-1.exp_avg", Tensor: start}},
		"a stranger":        {{Name: "0.max_exp_avg_sq", Tensor: start}},
		"another shape":     short,
		"a part":            {{Name: "0.exp_avg", Tensor: start}}, // SGD has no such thing
	} {
		before := opt2.State()
		if err := opt2.SetState(wrong); err == nil || !slices.Equal(before, opt2.State()) {
			t.Errorf("%s was taken, or changed what was there: %v", what, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		make func()
		want string
	}{
		{func() { SGD(-1, 0, 0, 0, false) }, "learning rate -1"},
		{func() { SGD(math.Inf(1), 0, 0, 0, false) }, "learning rate +Inf"},
		{func() { SGD(1, math.NaN(), 0, 0, false) }, "momentum NaN"},
		{func() { SGD(1, 0.9, math.NaN(), 0, false) }, "dampening NaN"},
		{func() { SGD(1, 0.9, 0.1, 0, true) }, "nesterov needs momentum above 0 and dampening 0, got 0.9 and 0.1"},
		{func() { Adam(1, 1, 0, 0, 0) }, "betas 1 and 0"},
		{func() { AdamW(1, 0.9, math.NaN(), 0, 0) }, "betas 0.9 and NaN"},
		{func() { Adam(1, 0.9, 0.9, -1, 0) }, "eps -1"},
		{func() { ClipGradNorm(nil, 0) }, "at most 0"},
		{func() { ClipGradValue(nil, 0) }, "at most 0"},
		{func() { NewAverage(1, nil) }, "decay 1"},
		{func() { LinearLR(1, 2, 3) }, "a share of 2"},
		{func() { StepLR(1, 0, 1) }, "0 steps"},
		{func() { CosineAnnealingLR(1, 0, 0) }, "0 steps"},
		{func() { OneCycleLR(1, 10, 2, 25, 1e4) }, "share 2"},
		{func() { OneCycleLR(1, 10, 0.3, 25, 1e4)(10) }, "step 10 of a cycle of 10"},
	} {
		if err := torch.Try(tt.make); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
