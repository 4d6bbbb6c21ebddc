package unlearn_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	_ "l2ul/unlearn/methods"
)

// noCUDA is why there is no device, nil on a machine with a GPU.
var noCUDA error

func TestMain(m *testing.M) {
	noCUDA = cuda.Open() // before any test makes a tensor
	reference.TestMain(m)
}

// try is a run on the reference's plain network, made to be changed before it starts: 6 images to forget in slices of 4, 24
// adversarial ones in slices of 10.
type try struct {
	*testing.T
	g    *smallnet.Golden
	m    *unlearn.Method
	task *unlearn.Task
	o    *unlearn.Options
	log  []unlearn.Record
}

func newTry(t *testing.T, g *smallnet.Golden, method string) *try {
	t.Helper()
	m, err := unlearn.FindMethod(method)
	if err != nil {
		t.Fatal(err)
	}
	meter := data.NewMeter(m.Regime, nil)
	r := &try{T: t, g: g, m: m, task: &unlearn.Task{
		Net: g.Fresh(), Classes: smallnet.Classes, EvalBatch: chunk.Fixed(4), Meter: meter,
		Forget: &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y"), Part: data.PartForget, Meter: meter},
	}, o: &unlearn.Options{
		Goal: unlearn.Misclassify, LR: 1e-6, Momentum: 0.9, WeightDecay: 1e-4, Lambda: 1, ForgetBatch: 4, AdvBatch: 10, RetainBatch: 10,
		LossWeights: unlearn.BySample, BN: unlearn.BNTrain, StopCheck: "auto", MaxPasses: 2,
	}}
	switch m.Driver {
	case unlearn.ByForget:
	case unlearn.ByAdversarial:
		r.task.Driver = &unlearn.Examples{X: g.Tensor("attack.x_adv"), Y: g.Tensor("attack.target")}
	case unlearn.ByRetain:
		r.task.Driver = &unlearn.Examples{X: g.Tensor("retain.x"), Y: g.Tensor("retain.y"), Part: data.PartRetain, Meter: meter}
	}
	if m.Anchored {
		r.task.Anchors = g.Split(g.Tensor("anchor.mas"), r.task.Net.Root().Parameters())
	}
	r.task.Observe = func(rec unlearn.Record) { r.log = append(r.log, rec) }
	return r
}

func (r *try) run() *unlearn.Result {
	r.Helper()
	res, err := unlearn.Forget(r.Context(), r.m, r.task, r.o)
	if err != nil {
		r.Fatal(err)
	}
	if r.task.Net.Root().Training() {
		r.Error("the network is left in training mode")
	}
	return res
}

// tested lists the steps after which the goal was tested.
func (r *try) tested() (steps []int) {
	for _, rec := range r.log {
		if rec.Hits >= 0 {
			steps = append(steps, rec.Step)
		}
	}
	return steps
}

func onTiny(t *testing.T, fn func(g *smallnet.Golden)) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() { fn(g) })
}

func TestCaps(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, c := range []struct {
			method string
			change func(o *unlearn.Options)
			steps  int
			passes int
			tested []int
		}{
			{"neggrad", func(*unlearn.Options) {}, 4, 2, []int{2, 4}},
			{"neggrad", func(o *unlearn.Options) { o.StopCheck = "step" }, 4, 2, []int{1, 2, 3, 4}},
			{"neggrad", func(o *unlearn.Options) { o.MaxPasses = 1 }, 2, 1, []int{2}},
			{"neggrad", func(o *unlearn.Options) { o.MaxSteps = 3 }, 3, 2, []int{2}},
			{"neggrad", func(o *unlearn.Options) { o.MaxSeconds = 1e-9 }, 1, 1, nil},
			{"neggrad", func(o *unlearn.Options) { o.ForgetBatch = 100 }, 2, 2, []int{1, 2}},
			{"adv", func(*unlearn.Options) {}, 6, 2, []int{1, 2, 3, 4, 5, 6}},
			{"adv", func(o *unlearn.Options) { o.StopCheck = "pass" }, 6, 2, []int{3, 6}},
			{"adv-imp", func(o *unlearn.Options) { o.AdvBatch = 24 }, 2, 2, []int{1, 2}},
			{"imp", func(*unlearn.Options) {}, 4, 2, []int{1, 2, 3, 4}},
			{"oracle", func(*unlearn.Options) {}, 4, 2, []int{1, 2, 3, 4}},
		} {
			r := newTry(t, g, c.method)
			c.change(r.o)
			res := r.run()
			if res.Outcome != unlearn.Capped || res.Steps != c.steps || res.Passes != c.passes || res.Hits != 6 || !slices.Equal(r.tested(), c.tested) {
				t.Errorf("%s %+v: %+v, tested after %v; want %d steps, %d passes, tested after %v", c.method, r.o, res, r.tested(), c.steps, c.passes, c.tested)
			}
		}
	})
}

// A run stops at the step at which the goal holds, and with a test a pass at the end of the pass.
func TestReached(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, c := range []struct {
			goal  unlearn.Goal
			check string
			hits  int64 // when the goal holds
		}{{unlearn.Misclassify, "step", 0}, {unlearn.Relabel, "step", 6}, {unlearn.Relabel, "pass", 6}} {
			r := newTry(t, g, "adv")
			r.o.LR, r.o.ForgetBatch, r.o.MaxPasses = 0.02, 6, 60
			if c.goal == unlearn.Relabel { // descent on the new labels, two steps a pass
				r = newTry(t, g, "neggrad")
				r.o.LR, r.o.MaxPasses = 0.05, 300
				r.task.Forget.Y = g.Tensor("goal")
			}
			r.o.Goal, r.o.StopCheck = c.goal, c.check
			res := r.run()
			last := r.log[len(r.log)-1]
			if res.Outcome != unlearn.Reached || res.Hits != c.hits || last.Hits != c.hits || last.Step != res.Steps || c.check == "pass" && res.Steps%2 != 0 {
				t.Errorf("%+v: %+v after %+v", c, res, last)
			}
			for _, rec := range r.log[:len(r.log)-1] {
				if rec.Hits == c.hits {
					t.Errorf("%+v: the goal held after step %d already", c, rec.Step)
				}
			}
			if !(res.Distance > 0) || res.Penalty != 0 {
				t.Errorf("%+v: distance %g, penalty %g", c, res.Distance, res.Penalty)
			}
		}
	})
}

// Where the cap falls between two tests, the result still says whether the goal holds.
func TestCapTestsTheGoal(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "neggrad")
		r.o.Goal, r.o.LR, r.o.MaxPasses = unlearn.Relabel, 0.05, 300
		r.o.StopCheck = "step"
		r.task.Forget.Y = g.Tensor("goal")
		steps := r.run().Steps
		r = newTry(t, g, "neggrad")
		r.o.Goal, r.o.LR, r.o.MaxSteps = unlearn.Relabel, 0.05, steps
		r.o.MaxPasses, r.o.StopCheck = 300, "pass"
		r.task.Forget.Y = g.Tensor("goal")
		if res := r.run(); res.Outcome != unlearn.Reached || res.Hits != 6 || res.Steps != steps {
			t.Errorf("%+v, want reached after %d steps", res, steps)
		}
	})
}

func TestAlready(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "adv-imp")
		r.task.Forget.Y = g.Tensor("goal") // labels that no image has
		before := smallnet.State(r.task.Net)
		res := r.run()
		if res.Outcome != unlearn.Already || res.Steps != 0 || res.Passes != 0 || res.Hits != 0 || res.Distance != 0 || res.Penalty != 0 {
			t.Errorf("%+v", res)
		}
		if !torch.Equal(before, smallnet.State(r.task.Net)) {
			t.Error("the network has changed")
		}
	})
}

// A step whose loss or parameters are not finite is undone, running statistics too, and is named.
func TestDiverged(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		var good torch.Tensor
		r := newTry(t, g, "adv")
		r.o.LR = 1e36 // the first steps overflow nothing or the parameters, the next the loss
		r.task.Save = func(*unlearn.State, bool) error {
			good = torch.KeepOne(smallnet.State(r.task.Net))
			return nil
		}
		start := smallnet.State(r.task.Net)
		res := r.run()
		if !good.Defined() {
			good = start
		}
		if res.Outcome != unlearn.Diverged || !strings.Contains(res.Reason, fmt.Sprintf("step %d:", res.Steps+1)) || math.IsNaN(res.Distance) {
			t.Errorf("%+v", res)
		}
		if !torch.Equal(good, smallnet.State(r.task.Net)) {
			t.Error("the network is not what it was before the step")
		}
		// An image that is no number: the first loss is none either.
		r = newTry(t, g, "neggrad")
		x := g.Tensor("x").Clone()
		x.Select(0, 5).FillI(math.NaN())
		r.task.Forget.X = x
		r.o.StopCheck = "step"
		start = smallnet.State(r.task.Net)
		afterOne := torch.Tensor{}
		r.task.Save = func(s *unlearn.State, _ bool) error {
			afterOne = torch.KeepOne(smallnet.State(r.task.Net))
			return nil
		}
		res = r.run()
		if res.Outcome != unlearn.Diverged || res.Steps != 1 || !strings.Contains(res.Reason, "step 2: loss NaN") {
			t.Errorf("%+v", res)
		}
		if !torch.Equal(afterOne, smallnet.State(r.task.Net)) || torch.Equal(start, afterOne) {
			t.Error("the network is not what it was after step 1")
		}
	})
}

// When asked for, a run stops after a pass in which the driving images were classified below chance.
func TestCollapse(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, asked := range []bool{false, true} {
			r := newTry(t, g, "adv")
			wrong := torch.ToSlice[int64](g.Tensor("attack.target"))
			for i := range wrong {
				wrong[i] = (wrong[i] + 1) % smallnet.Classes
			}
			r.task.Driver.(*unlearn.Examples).Y = torch.FromSlice(wrong)
			r.o.StopOnDrop = asked
			res := r.run()
			if !asked && res.Outcome != unlearn.Capped || asked && (res.Outcome != unlearn.Diverged || res.Steps != 3 || !strings.Contains(res.Reason, "of 24 driving images")) {
				t.Errorf("asked %t: %+v", asked, res)
			}
		}
		r := newTry(t, g, "adv")
		r.o.StopOnDrop = true
		if res := r.run(); res.Outcome != unlearn.Capped {
			t.Errorf("the attack's examples reach their targets, yet: %+v", res)
		}
	})
}

// What one step may touch in each mode of batch normalisation.
func TestBatchNormModes(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, c := range []struct {
			mode, driver unlearn.BNMode
			forwards     int64 // that move the running statistics
			trainsBN     bool
			evalLoss     bool // the forget loss is the one of evaluation mode
		}{
			{mode: unlearn.BNTrain, forwards: 2, trainsBN: true},
			{mode: unlearn.BNTrain, driver: unlearn.BNEval, forwards: 1, trainsBN: true},
			{mode: unlearn.BNEval, driver: unlearn.BNTrain, forwards: 1, trainsBN: true},
			{mode: unlearn.BNFrozenStats, trainsBN: true},
			{mode: unlearn.BNEval, trainsBN: true, evalLoss: true},
			{mode: unlearn.BNFrozen, evalLoss: true},
			{mode: unlearn.BNFrozen, driver: unlearn.BNFrozenStats, evalLoss: true},
		} {
			r := newTry(t, g, "adv")
			r.o.BN, r.o.BNDriver, r.o.MaxSteps, r.o.LR = c.mode, c.driver, 1, 0.01
			running, tracked := smallnet.Buffers(r.task.Net)
			stats, count := smallnet.Flat(running).Clone(), tracked[0].Clone()
			weight := map[string]torch.Tensor{}
			for _, p := range r.task.Net.Root().NamedParameters() {
				weight[p.Name] = p.Tensor.Detach().Clone()
			}
			logits := r.task.Net.Forward(g.Tensor("x").Narrow(0, 0, 4)) // in evaluation mode
			loss := logits.CrossEntropy(g.Tensor("y").Narrow(0, 0, 4), torch.Tensor{}, torch.ReduceMean, -100).Item()
			r.run()
			if moved := tracked[0].Sub(count, 1).ItemInt(); moved != c.forwards || torch.Equal(stats, smallnet.Flat(running)) != (c.forwards == 0) {
				t.Errorf("%+v: %d forwards moved the statistics", c, moved)
			}
			for _, p := range r.task.Net.Root().NamedParameters() {
				isBN := strings.HasPrefix(p.Name, "bn.")
				if torch.Equal(weight[p.Name], p.Tensor.Detach()) == (!isBN || c.trainsBN) {
					t.Errorf("%+v: parameter %s: trained %t", c, p.Name, isBN && !c.trainsBN)
				}
			}
			if same := -r.log[0].ForgetLoss == loss; same != c.evalLoss {
				t.Errorf("%+v: loss %g, in evaluation mode %g", c, -r.log[0].ForgetLoss, loss)
			}
		}
	})
}

// A slice of one image has no batch statistics once a layer has shrunk it to one pixel: refused before anything changes.
func TestSliceOfOneImage(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		onePixel := g.Tensor("x").Narrow(2, 0, 1).Narrow(3, 0, 1).Contiguous(g.Format)
		for _, c := range []struct {
			forget, adv int
			bn, driver  unlearn.BNMode
			refused     bool
		}{
			{4, 10, unlearn.BNTrain, "", false},
			{5, 10, unlearn.BNTrain, "", true},
			{1, 10, unlearn.BNTrain, "", true},
			{1, 10, unlearn.BNFrozenStats, "", true},
			{5, 10, unlearn.BNEval, "", false},
			{5, 10, unlearn.BNFrozen, "", false},
			{6, 23, unlearn.BNTrain, "", true},
			{6, 23, unlearn.BNTrain, unlearn.BNEval, false},
			{6, 23, unlearn.BNEval, unlearn.BNTrain, true},
		} {
			r := newTry(t, g, "adv")
			r.task.Forget.X = onePixel
			driver := r.task.Driver.(*unlearn.Examples)
			driver.X = driver.X.Narrow(2, 0, 1).Narrow(3, 0, 1).Contiguous(g.Format)
			r.o.ForgetBatch, r.o.AdvBatch, r.o.BN, r.o.BNDriver = c.forget, c.adv, c.bn, c.driver
			before := smallnet.State(r.task.Net)
			_, err := unlearn.Forget(t.Context(), r.m, r.task, r.o)
			var usage *unlearn.UsageError
			if errors.As(err, &usage) != c.refused || !c.refused && err != nil {
				t.Errorf("%+v: %v", c, err)
			}
			if c.refused && (!torch.Equal(before, smallnet.State(r.task.Net)) || r.task.Net.Root().Training()) {
				t.Errorf("%+v: the network has changed", c)
			}
		}
		// With more than one pixel left, one image has statistics.
		r := newTry(t, g, "neggrad")
		r.o.ForgetBatch = 1
		if res := r.run(); res.Steps != 12 {
			t.Errorf("%+v", res)
		}
	})
}

func TestNothingToLearnFrom(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "oracle")
		driver := r.task.Driver.(*unlearn.Examples)
		driver.X, driver.Y = driver.X.Narrow(0, 0, 0), driver.Y.Narrow(0, 0, 0)
		var usage *unlearn.UsageError
		if _, err := unlearn.Forget(t.Context(), r.m, r.task, r.o); !errors.As(err, &usage) || usage.ExitCode() != 2 {
			t.Errorf("no retained images: %v", err)
		}
	})
}

// Parameters that ask for no gradient are no part of it: not trained, not in the penalty, not in the state.
func TestFrozenParameters(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "adv")
		frozen := r.task.Net.Root().NamedParameters()[0]
		frozen.Tensor.SetRequiresGrad(false)
		for _, p := range unlearn.Trainable(r.task.Net, unlearn.BNTrain) {
			if p.Name == frozen.Name {
				t.Errorf("%s is trainable", p.Name)
			}
		}
		before, head := frozen.Tensor.Clone(), r.task.Net.Root().NamedParameters()[3]
		headBefore := head.Tensor.Detach().Clone()
		r.task.Save = func(s *unlearn.State, _ bool) error {
			for _, n := range s.Tensors {
				if n.Name == "momentum."+frozen.Name {
					t.Errorf("the state holds %s", n.Name)
				}
			}
			return nil
		}
		r.run()
		if !torch.Equal(before, frozen.Tensor) || torch.Equal(headBefore, head.Tensor.Detach()) {
			t.Errorf("%s changed, or %s did not", frozen.Name, head.Name)
		}
		for _, p := range r.task.Net.Root().Parameters() {
			p.SetRequiresGrad(false)
		}
		var usage *unlearn.UsageError
		if _, err := unlearn.Forget(t.Context(), r.m, r.task, r.o); !errors.As(err, &usage) {
			t.Errorf("nothing to train: %v", err)
		}
	})
}

// The reads of a run, counted by hand. A pass of neggrad is slices of 4 and 2 and a test of 6; the test before the first step
// is another 6. A pass of adv is three steps, whose forget slices go on through passes: 4 2 4, 2 4 2.
func TestReads(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		type counts map[data.Phase]map[data.Part]int64
		for method, want := range map[string]counts{
			"neggrad": {data.PhaseUnlearn: {data.PartForget: 12}, data.PhaseStopCheck: {data.PartForget: 6 + 2*6}},
			"imp":     {data.PhaseUnlearn: {data.PartForget: 12}, data.PhaseStopCheck: {data.PartForget: 6 + 4*6}},
			"adv":     {data.PhaseUnlearn: {data.PartForget: 18}, data.PhaseStopCheck: {data.PartForget: 6 + 6*6}},
			"adv-imp": {data.PhaseUnlearn: {data.PartForget: 18}, data.PhaseStopCheck: {data.PartForget: 6 + 6*6}},
			"oracle":  {data.PhaseUnlearn: {data.PartForget: 12, data.PartRetain: 24}, data.PhaseStopCheck: {data.PartForget: 6 + 4*6}},
		} {
			r := newTry(t, g, method)
			r.run()
			got := counts{}
			for phase, parts := range r.task.Meter.Reads() {
				for part, n := range parts {
					if n != 0 {
						if got[phase] == nil {
							got[phase] = map[data.Part]int64{}
						}
						got[phase][part] = n
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: reads (-want +got):\n%s", method, diff)
			}
		}
	})
}

// A method that declares less than it reads is stopped at the read.
func TestForbiddenRead(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "oracle")
		meter := data.NewMeter(data.ForgetOnly, nil)
		r.task.Meter, r.task.Forget.Meter, r.task.Driver.(*unlearn.Examples).Meter = meter, meter, meter
		before := smallnet.State(r.task.Net)
		_, err := unlearn.Forget(t.Context(), r.m, r.task, r.o)
		var forbidden *data.AccessError
		if !errors.As(err, &forbidden) || forbidden.Phase != data.PhaseUnlearn || forbidden.Part != data.PartRetain {
			t.Errorf("%v", err)
		}
		if !torch.Equal(before, smallnet.State(r.task.Net)) {
			t.Error("the network has changed")
		}
	})
}

// The driver's and forget slices of the reference's schedule: k 70, slices of 32, 1400 adversarial images in slices of 256.
func TestSchedule(t *testing.T) {
	file, err := ckpt.Load(reference.Golden(t, "streams.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	torch.Scope(func() {
		g := &smallnet.Golden{TB: t, File: file}
		for _, name := range []string{"neggrad", "adv"} {
			rows := torch.ToSlice[int64](g.Tensor("schedule." + name))
			method, err := unlearn.FindMethod(name)
			if err != nil {
				t.Fatal(err)
			}
			// Images whose one pixel is their index, and a network that notes what it sees.
			numbered := func(n int) *unlearn.Examples {
				return &unlearn.Examples{X: torch.Arange(0, float64(n), 1, false).CastTo(torch.Float).View(int64(n), 1, 1, 1), Y: torch.Zeros([]int64{int64(n)}, false).CastTo(torch.Long)}
			}
			net := &notes{}
			net.Param("weight", torch.Zeros([]int64{2}, false))
			defer net.Free()
			task := &unlearn.Task{Net: net, Classes: 2, Forget: numbered(70), EvalBatch: chunk.Fixed(1000)}
			if method.Driver == unlearn.ByAdversarial {
				task.Driver = numbered(1400)
			}
			var got []int64
			perPass, pass := 0, int64(0)
			task.Observe = func(r unlearn.Record) {
				seen := net.take()
				if task.Driver == nil {
					seen = append(slices.Clone(seen), seen...)
				}
				got = append(got, pass)
				got = append(got, seen...)
				last := int64(0)
				if perPass++; r.Hits >= 0 && (r.Step == len(rows)/6 || r.Step == len(rows)/12) {
					last, pass = 1, pass+1
				}
				got = append(got, last)
				if r.Pass != int(got[len(got)-6])+1 {
					t.Errorf("step %d is in pass %d", r.Step, r.Pass)
				}
			}
			if _, err := unlearn.Forget(t.Context(), method, task, &unlearn.Options{
				Goal: unlearn.Misclassify, LR: 1e-9, ForgetBatch: 32, AdvBatch: 256, LossWeights: unlearn.BySample, BN: unlearn.BNEval, StopCheck: "pass", MaxPasses: 2,
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, rows) {
				t.Errorf("%s: slices %v, want %v", name, got, rows)
			}
		}
	})
}

// notes is a network that keeps the first and last index of every batch it is trained on.
type notes struct {
	nn.Base
	seen []int64
}

func (m *notes) Forward(x torch.Tensor) torch.Tensor {
	if m.Training() {
		pixels := torch.ToSlice[float32](x.Reshape(-1))
		m.seen = append(m.seen, int64(pixels[0]), int64(pixels[len(pixels)-1])+1)
	}
	// All images look alike: class 0 wins by a hair.
	lead := torch.FromSlice([]float32{1, 0})
	return x.Reshape(-1, 1).MulScalar(0).Add(lead, 1).Add(m.Parameters()[0], 1)
}

func (m *notes) take() []int64 {
	seen := m.seen
	m.seen = nil
	return seen
}

// A run that is interrupted after any step, or before the first, and resumed has the bits of one that is not: parameters,
// running statistics, momenta, log and result, with dropout too.
func TestResume(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		for _, method := range []string{"neggrad", "adv-imp", "oracle"} {
			start := func() *try {
				r := newTry(t, g, method)
				r.o.LR = 0.001
				r.task.Net = nn.Sequential(r.task.Net, nn.Dropout(0.2))
				return r
			}
			want := start().finish()
			for stop := range want.Steps {
				torch.Scope(func() {
					r := start()
					state := r.stopAfter(stop)
					start().goOn(state, r, want, fmt.Sprintf("%s stopped after step %d", method, stop))
				})
			}
		}
	})
}

// A run that met a cap goes on under a higher one to the bits of a run that had this one from the start. One that is beyond
// its cap when it goes on ends where it is.
func TestResumeUnderAnotherCap(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, method := range []string{"neggrad", "adv-imp", "oracle"} {
			want := newTry(t, g, method).finish()
			for reason, limit := range map[string]func(o *unlearn.Options){
				"--max-steps 1":       func(o *unlearn.Options) { o.MaxSteps = 1 },
				"--max-steps 3":       func(o *unlearn.Options) { o.MaxSteps = 3 },
				"--max-passes 1":      func(o *unlearn.Options) { o.MaxPasses = 1 },
				"--max-seconds 1e-09": func(o *unlearn.Options) { o.MaxSeconds = 1e-9 },
			} {
				r, state := newTry(t, g, method), unlearn.State{}
				var file *ckpt.File
				limit(r.o)
				r.task.Save = func(s *unlearn.State, force bool) error {
					if force {
						state, file = *s, nn.Pack(s.Tensors)
					}
					return nil
				}
				capped := r.run()
				var err error
				if state.Tensors, err = nn.Unpack(file); err != nil {
					t.Fatal(err)
				}
				if capped.Outcome != unlearn.Capped || capped.Reason != reason || state.Step != capped.Steps {
					t.Errorf("%s, %s: %+v, saved at %+v", method, reason, capped, state)
				}

				newTry(t, g, method).goOn(&state, r, want, fmt.Sprintf("%s after %s", method, reason))

				lower := newTry(t, g, method)
				lower.task.Resume, lower.o.MaxSteps = &state, 1
				if got := lower.run(); got.Outcome != unlearn.Capped || got.Steps != capped.Steps || got.Hits != capped.Hits || lower.log != nil {
					t.Errorf("%s after %s, then under a lower cap: %+v", method, reason, got)
				}
			}
		}
	})
}

// finished is a run that nothing stopped.
type finished struct {
	*unlearn.Result
	try  *try
	last []byte // state that it offered
}

func (r *try) finish() *finished {
	f := &finished{try: r}
	r.task.Save = func(s *unlearn.State, _ bool) error { f.last = pack(r.T, s); return nil }
	f.Result = r.run()
	f.Seconds = 0
	return f
}

// stopAfter interrupts r after so many steps and returns the state that it leaves, as a file brings it back.
func (r *try) stopAfter(steps int) *unlearn.State {
	r.Helper()
	var state unlearn.State
	var file *ckpt.File
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if steps == 0 {
		cancel()
	}
	r.task.Save = func(s *unlearn.State, force bool) error {
		if s.Step == steps {
			cancel()
		}
		if force {
			state, file = *s, nn.Pack(s.Tensors)
		}
		return nil
	}
	res, err := unlearn.Forget(ctx, r.m, r.task, r.o)
	if err != nil || res.Outcome != unlearn.Interrupted || res.Steps != steps || file == nil {
		r.Fatalf("%s stopped after step %d: %+v, %v", r.m.Name, steps, res, err)
	}
	if state.Tensors, err = nn.Unpack(file); err != nil {
		r.Fatal(err)
	}
	return &state
}

// goOn runs r from the state that the run first left, and holds the two together against a run that nothing stopped.
func (r *try) goOn(state *unlearn.State, first *try, want *finished, what string) {
	r.Helper()
	r.task.Resume = state
	got := r.finish()
	if diff := cmp.Diff(want.Result, got.Result); diff != "" {
		r.Errorf("%s: result (-want +got):\n%s", what, diff)
	}
	if diff := cmp.Diff(want.try.log, append(first.log, r.log...)); diff != "" {
		r.Errorf("%s: log (-want +got):\n%s", what, diff)
	}
	if !torch.Equal(smallnet.State(want.try.task.Net), smallnet.State(r.task.Net)) || got.last != nil && !slices.Equal(want.last, got.last) {
		r.Errorf("%s: other weights, statistics or momenta", what)
	}
}

// pack is everything in a state, as bytes.
func pack(t *testing.T, s *unlearn.State) []byte {
	t.Helper()
	out := fmt.Appendf(nil, "%d %d %d %d %d %d %d", s.Step, s.Pass, s.Slice, s.Right, s.Seen, s.Hits, s.Witness)
	for _, n := range nn.Pack(s.Tensors).Tensors {
		out = append(append(out, n.Name...), n.Data...)
	}
	return out
}

func TestResumeNeedsEveryTensor(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, missing := range []string{"fc.bias", "bn.running_mean", "momentum.conv.weight"} {
			r := newTry(t, g, "neggrad")
			r.task.Save = func(s *unlearn.State, _ bool) error {
				again := newTry(t, g, "neggrad")
				again.task.Resume = &unlearn.State{Step: s.Step, Tensors: slices.DeleteFunc(slices.Clone(s.Tensors), func(n nn.Named) bool { return n.Name == missing })}
				if _, err := unlearn.Forget(t.Context(), again.m, again.task, again.o); err == nil || !strings.Contains(err.Error(), missing) {
					t.Errorf("a state without %s: %v", missing, err)
				}
				return nil
			}
			r.run()
		}
	})
}

func TestErrorsOfSaveEndTheRun(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		full := errors.New("no space left")
		r := newTry(t, g, "neggrad")
		r.task.Save = func(*unlearn.State, bool) error { return full }
		if _, err := unlearn.Forget(t.Context(), r.m, r.task, r.o); !errors.Is(err, full) || len(r.log) != 1 {
			t.Errorf("%v after %d steps", err, len(r.log))
		}
	})
}

// A parameter that the logits do not depend on is left to weight decay and the penalty.
func TestUnusedParameter(t *testing.T) {
	torch.Scope(func() {
		net := &notes{}
		net.Param("weight", torch.Zeros([]int64{2}, false))
		unused := net.Param("unused", torch.Ones([]int64{2}, false))
		defer net.Free()
		m, err := unlearn.FindMethod("neggrad")
		if err != nil {
			t.Fatal(err)
		}
		images := &unlearn.Examples{X: torch.Zeros([]int64{2, 1, 1, 1}, false), Y: torch.FromSlice([]int64{0, 0})}
		if _, err := unlearn.Forget(t.Context(), m, &unlearn.Task{Net: net, Classes: 2, Forget: images, EvalBatch: chunk.Fixed(2)}, &unlearn.Options{
			Goal: unlearn.Misclassify, LR: 0.5, WeightDecay: 0.5, ForgetBatch: 2, LossWeights: unlearn.BySample, BN: unlearn.BNTrain, StopCheck: "auto", MaxPasses: 1,
		}); err != nil {
			t.Fatal(err)
		}
		if got := torch.ToSlice[float32](unused.Detach()); !slices.Equal(got, []float32{0.75, 0.75}) {
			t.Errorf("the unused parameter is %v", got)
		}
	})
}

// Steps leave nothing behind.
func TestThousandSteps(t *testing.T) {
	torch.SetNumThreads(1) // two would mostly wait for each other on images this small
	defer torch.SetNumThreads(reference.Threads)
	onTiny(t, func(g *smallnet.Golden) {
		r := newTry(t, g, "adv-imp")
		r.o.MaxPasses, r.o.MaxSteps, r.o.StopCheck = 1000, 1000, "pass"
		live := map[int]bool{}
		r.task.Observe = func(rec unlearn.Record) {
			if rec.Step > 1 {
				live[torch.Live()] = true
			}
		}
		if res := r.run(); res.Steps != 1000 {
			t.Fatalf("%+v", res)
		}
		if len(live) != 1 {
			t.Errorf("live tensors during 1,000 steps: %v", slices.Sorted(maps.Keys(live)))
		}
	})
}

// A run that is stopped inside a pass and then collapses goes back to the last pass that stood the test, not to where it was
// stopped.
func TestCollapseAfterResume(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		collapsing := func() *try {
			r := newTry(t, g, "adv")
			wrong := torch.ToSlice[int64](g.Tensor("attack.target"))
			for i := range wrong {
				wrong[i] = (wrong[i] + 1) % smallnet.Classes
			}
			r.task.Driver.(*unlearn.Examples).Y = torch.FromSlice(wrong)
			r.o.StopOnDrop = true
			return r
		}
		whole := collapsing()
		want := whole.run()
		first := collapsing()
		first.o.MaxSteps = 2
		var state unlearn.State
		var file *ckpt.File
		first.task.Save = func(s *unlearn.State, force bool) error {
			if force {
				state, file = *s, nn.Pack(s.Tensors)
			}
			return nil
		}
		first.run()
		var err error
		if state.Tensors, err = nn.Unpack(file); err != nil {
			t.Fatal(err)
		}
		again := collapsing()
		again.task.Resume = &state
		got := again.run()
		got.Seconds, want.Seconds = 0, 0
		if d := cmp.Diff(want, got); d != "" || want.Outcome != unlearn.Diverged || !torch.Equal(smallnet.State(whole.task.Net), smallnet.State(again.task.Net)) {
			t.Errorf("other weights, or another end (-want +got):\n%s", d)
		}
	})
}
