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
	run(t, func() {
		train := func(p torch.Tensor, opt Optimizer, steps int) {
			for range steps {
				opt.ZeroGrad()
				p.Mul(p).Sum().Backward()
				opt.Step()
			}
		}
		fresh := func(values torch.Tensor) (torch.Tensor, *SGDOptimizer) {
			p := values.Detach().Clone().SetRequiresGrad(true)
			opt := SGD(0.01, 0.9, 0, 5e-4, false)
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

		for _, wrong := range [][]nn.Named{
			{{Name: "1.momentum_buffer", Tensor: start}},
			{{Name: "-1.momentum_buffer", Tensor: start}},
			{{Name: "0.exp_avg", Tensor: start}},
			{{Name: "0.momentum_buffer", Tensor: start.Narrow(0, 0, 50)}},
		} {
			before := opt2.State()
			if err := opt2.SetState(wrong); err == nil || !slices.Equal(before, opt2.State()) {
				t.Errorf("state %s was taken, or changed what was there: %v", wrong[0].Name, err)
			}
		}
	})
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
