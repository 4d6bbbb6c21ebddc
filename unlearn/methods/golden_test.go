package methods_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/unlearn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	_ "l2ul/unlearn/methods"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// record is what the reference says of a run in its metadata.
type record struct {
	Outcome       string
	Steps, Passes int
	Settings      struct {
		Method      string
		Goal        unlearn.Goal
		BN          unlearn.BNMode      `json:"bn"`
		BNAdv       unlearn.BNMode      `json:"bn_adv"`
		LossWeights unlearn.LossWeights `json:"loss_weights"`
		LR          float64
		ForgetBatch int `json:"b_f"`
		MaxSteps    int `json:"max_steps"`
		Passes      int
	}
}

// records lists the runs of the reference.
func records(g *smallnet.Golden) map[string]record {
	out := map[string]record{}
	for key, text := range g.File.Metadata {
		if !strings.HasPrefix(text, `{"outcome"`) {
			continue
		}
		r := record{}
		s := &r.Settings // what the reference's runs have in common
		s.Goal, s.BN, s.LossWeights, s.ForgetBatch, s.Passes = unlearn.Misclassify, unlearn.BNTrain, unlearn.BySample, 4, 1000
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			g.Fatal(err)
		}
		out[key] = r
	}
	return out
}

// setup makes ready to repeat a run of the reference.
func setup(g *smallnet.Golden, r record) (*unlearn.Method, *unlearn.Task, *unlearn.Options) {
	s := r.Settings
	o := &unlearn.Options{
		Goal: s.Goal, LR: s.LR, Momentum: 0.9, WeightDecay: 1e-4, Lambda: 1, ForgetBatch: s.ForgetBatch, AdvBatch: 10, RetainBatch: 10,
		LossWeights: s.LossWeights, BN: s.BN, BNDriver: s.BNAdv, StopCheck: "auto", MaxPasses: s.Passes, MaxSteps: s.MaxSteps,
	}
	labels := "y"
	if s.Goal == unlearn.Relabel {
		labels = "goal"
	}
	m, err := unlearn.FindMethod(s.Method)
	if err != nil {
		g.Fatal(err)
	}
	task := &unlearn.Task{
		Net: g.Fresh(), Classes: smallnet.Classes, EvalBatch: chunk.Fixed(1024),
		Forget: &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor(labels), Part: data.PartForget},
	}
	switch m.Driver {
	case unlearn.ByForget:
	case unlearn.ByAdversarial:
		task.Driver = &unlearn.Examples{X: g.Tensor("attack.x_adv"), Y: g.Tensor("attack.target")}
	case unlearn.ByRetain:
		task.Driver = &unlearn.Examples{X: g.Tensor("retain.x"), Y: g.Tensor("retain.y"), Part: data.PartRetain}
	}
	if m.Anchored {
		task.Anchors = g.Split(g.Tensor("anchor.mas"), task.Net.Root().Parameters())
	}
	return m, task, o
}

// Every method, goal, weighting and normalisation mode takes the steps of the reference: losses, weights, momenta and running
// statistics, stop step and outcome.
func TestRunsAreTheReferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) { replayAll(t, g) })
}

func replayAll(t *testing.T, g *smallnet.Golden) {
	all := records(g)
	if want := map[string]int{"tiny": 22}[g.Name]; len(all) < max(want, 8) {
		t.Fatalf("only %d runs in the reference", len(all))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		torch.Scope(func() { replay(t, g, name, all[name]) })
	}
}

func replay(t *testing.T, g *smallnet.Golden, name string, want record) {
	m, task, o := setup(g, want)
	var log struct{ loss, driver, forget []float64 }
	hits := []int64{}
	task.Observe = func(r unlearn.Record) {
		forget := r.ForgetLoss // the reference logs the plain cross-entropy
		if o.Goal == unlearn.Misclassify {
			forget = -forget
		}
		log.loss, log.driver, log.forget = append(log.loss, r.Loss), append(log.driver, r.DriverLoss), append(log.forget, forget)
		if r.Hits >= 0 {
			hits = append(hits, r.Hits)
		}
	}
	compared := 0
	compare := func(s *unlearn.State) {
		if at := fmt.Sprintf("%s.%d", name, s.Step); g.Has(at + ".parameters") {
			compareState(g, at, task, s)
			compared++
		}
	}
	// The state after the last step is not offered, so the run goes a step further than the reference.
	steps := o.MaxSteps
	if steps > 0 {
		o.MaxSteps++
	}
	task.Save = func(s *unlearn.State, _ bool) error { compare(s); return nil }
	res, err := unlearn.Forget(t.Context(), m, task, o)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if string(res.Outcome) != want.Outcome {
		t.Errorf("%s: outcome %s after %d steps, want %s", name, res.Outcome, res.Steps, want.Outcome)
		return
	}
	if res.Outcome == unlearn.Diverged {
		// The reference counts the step that failed.
		if res.Steps != want.Steps-1 {
			t.Errorf("%s: %d finite steps, want %d", name, res.Steps, want.Steps-1)
		}
		return
	}
	ended := res.Steps
	if steps > 0 {
		ended--
		if compared == 0 {
			t.Errorf("%s: no state was compared", name)
		}
	}
	if !g.Exact && strings.HasPrefix(name, "loop.") {
		return // rounding may move the step at which a run stops
	}
	if ended != want.Steps || steps == 0 && res.Passes != want.Passes {
		t.Errorf("%s: %d steps in %d passes, want %d in %d", name, ended, res.Passes, want.Steps, want.Passes)
	}
	g.Equal(name+".loss", torch.FromSlice(log.loss[:ended]), 1e-5)
	g.Equal(name+".loss_forget", torch.FromSlice(log.forget[:ended]), 1e-5)
	if task.Driver != nil {
		g.Equal(name+".loss_driver", torch.FromSlice(log.driver[:ended]), 1e-5)
	}
	tests := torch.ToSlice[int64](g.Tensor(name + ".hits"))
	if len(hits) < len(tests) || !slices.Equal(hits[:len(tests)], tests) {
		t.Errorf("%s: hits %v, want %v", name, hits, tests)
	}
}

// compareState compares parameters, momenta and running statistics.
func compareState(g *smallnet.Golden, at string, task *unlearn.Task, s *unlearn.State) {
	torch.Scope(func() {
		g.Equal(at+".parameters", smallnet.Flat(task.Net.Root().Parameters()), 1e-5)
		var momenta []torch.Tensor
		for _, t := range s.Tensors {
			if strings.HasPrefix(t.Name, "momentum.") {
				momenta = append(momenta, t.Tensor)
			}
		}
		g.Equal(at+".momentum", smallnet.Flat(momenta), 1e-4)
		running, tracked := smallnet.Buffers(task.Net)
		g.Equal(at+".running", smallnet.Flat(running), 1e-5)
		g.Equal(at+".tracked", smallnet.Flat(tracked), 0)
	})
}

// Without its weight the penalty is no part of the arithmetic at all.
func TestZeroLambdaIsADV(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		run := func(name string, lambda float64) torch.Tensor {
			m, task, o := setup(g, records(g)[name])
			o.Lambda = lambda
			if _, err := unlearn.Forget(t.Context(), m, task, o); err != nil {
				t.Fatal(err)
			}
			return smallnet.State(task.Net)
		}
		adv := run("step.adv", 1)
		if !torch.Equal(adv, run("step.adv-imp", 0)) {
			t.Error("adv-imp with lambda 0 is not adv")
		}
		if torch.Equal(adv, run("step.adv-imp", 1)) {
			t.Error("the penalty makes no difference")
		}
	})
}

// The statistics move first with the driver's images, then with the forget slice: the other order gives others.
func TestOrderOfForwards(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		net := g.Fresh()
		net.Train(true)
		torch.NoGrad(func() {
			net.Forward(g.Tensor("x").Narrow(0, 0, 4))
			net.Forward(g.Tensor("attack.x_adv").Narrow(0, 0, 10))
		})
		running, _ := smallnet.Buffers(net)
		if torch.AllClose(smallnet.Flat(running), g.Tensor("step.adv.1.running"), 1e-4, 1e-6) {
			t.Error("the test cannot tell the orders apart")
		}
	})
}

func TestEveryMethodIsDeclared(t *testing.T) {
	var names []string
	for _, m := range unlearn.Methods() {
		names = append(names, m.Name)
		if m.Summary == "" || m.Source == "" || (m.Loss == nil) != (m.Scratch || m.Ladder != nil) {
			t.Errorf("%+v is declared in part", m)
		}
		readsRetain := slices.Contains(m.Regime, data.PartRetain)
		if readsRetain != (m.Driver == unlearn.ByRetain) || !slices.Contains(m.Regime, data.PartForget) {
			t.Errorf("%s: regime %v", m.Name, m.Regime)
		}
	}
	if want := []string{"adv", "adv-imp", "imp", "neggrad", "oracle", "rawp", "retrain"}; !slices.Equal(names, want) {
		t.Errorf("methods %v, want %v", names, want)
	}
	if _, err := unlearn.FindMethod("advimp"); err == nil || !strings.Contains(err.Error(), "adv-imp, imp, neggrad") {
		t.Errorf("an unknown method: %v", err)
	}
}
