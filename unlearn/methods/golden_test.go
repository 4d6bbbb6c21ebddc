package methods_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/kernels"
	_ "l2ul/unlearn/methods"
)

func TestMain(m *testing.M) {
	if err := kernels.Load(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if n := torch.Live(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors or generators were never freed\n", n)
		code = 1
	}
	os.Exit(code)
}

// small is one of the reference's networks of one block, under the keys of its state dict.
type small struct {
	nn.Base
	body, shortcut nn.Module // shortcut is nil in the plain network
	fc             *nn.LinearModule
}

func (m *small) Forward(x torch.Tensor) torch.Tensor {
	y := m.body.Forward(x)
	if m.shortcut != nil {
		y = y.Add(m.shortcut.Forward(x), 1)
	}
	return m.fc.Forward(y.Relu().AdaptiveAvgPool2d([]int64{1, 1}).Flatten(1, -1))
}

func conv(in, out, kernel, stride int64) nn.Module {
	return nn.Conv2d(in, out, kernel, stride, kernel/2, 1, 1, false, "zeros")
}

func norm(n int64) nn.Module { return nn.BatchNorm2d(n, 1e-5, 0.1, true, true) }

// holder gives its children the names it is told; the empty module between them is for structure alone.
type holder struct{ nn.Base }

func (h *holder) Forward(torch.Tensor) torch.Tensor { panic("not a layer") }

func newSmall(name string) *small {
	m := &small{}
	switch name {
	case "tiny":
		c, b := conv(3, 8, 3, 1), norm(8)
		m.Child("conv", c)
		m.Child("bn", b)
		m.body, m.fc = nn.Sequential(c, b), nn.Linear(8, 5, true)
	case "block-a":
		block := &holder{}
		layers := []nn.Module{conv(3, 8, 3, 2), norm(8), conv(8, 8, 3, 1), norm(8)}
		m.body = nn.Sequential(layers[0], layers[1], nn.ReLU(false), layers[2], layers[3])
		m.shortcut = nn.Sequential(conv(3, 8, 1, 2), norm(8))
		for i, key := range []string{"conv1", "bn1", "conv2", "bn2"} {
			block.Child(key, layers[i])
		}
		block.Child("downsample", m.shortcut)
		m.Child("block", block)
		m.fc = nn.Linear(8, 5, true)
	case "block-b-basic", "block-b-bottleneck":
		block := &holder{}
		if name == "block-b-basic" {
			m.body = nn.Sequential(conv(3, 8, 3, 2), norm(8), nn.ReLU(false), conv(8, 8, 3, 1), norm(8))
			m.shortcut, m.fc = nn.Sequential(conv(3, 8, 1, 2), norm(8)), nn.Linear(8, 5, true)
		} else {
			m.body = nn.Sequential(conv(3, 4, 1, 1), norm(4), nn.ReLU(false), conv(4, 4, 3, 2), norm(4), nn.ReLU(false), conv(4, 16, 1, 1), norm(16))
			m.shortcut, m.fc = nn.Sequential(conv(3, 16, 1, 2), norm(16)), nn.Linear(16, 5, true)
		}
		block.Child("residual_function", m.body)
		block.Child("shortcut", m.shortcut)
		m.Child("block", block)
	}
	m.Child("fc", m.fc)
	return m
}

// golden is a file of reference values with the network it was made with.
type golden struct {
	*testing.T
	name  string
	file  *ckpt.File
	net   *small
	exact bool // same instruction set: bits must agree
}

// forEach runs fn in a scope for every small network of the reference.
func forEach(t *testing.T, fn func(g *golden)) {
	for _, name := range []string{"tiny", "block-a", "block-b-basic", "block-b-bottleneck"} {
		t.Run(name, func(t *testing.T) {
			file, err := ckpt.Load("../../scripts/golden/" + name + ".safetensors")
			if err != nil {
				t.Fatal(err)
			}
			torch.SetNumThreads(2)
			torch.Scope(func() {
				g := &golden{T: t, name: name, file: file}
				g.exact = file.Metadata["cpu_capability"] == torch.Build().CPUCapability && strings.HasPrefix(file.Metadata["torch"], torch.Build().Version)
				if !g.exact {
					t.Logf("made with %s on %s, here %s on %s: compared with tolerance", file.Metadata["torch"], file.Metadata["cpu_capability"], torch.Build().Version, torch.Build().CPUCapability)
				}
				fn(g)
			})
		})
	}
}

// fresh returns the network as the reference began with it.
func (g *golden) fresh() *small {
	net := newSmall(g.name)
	weights := &ckpt.File{}
	for _, t := range g.file.Tensors {
		if name, ok := strings.CutPrefix(t.Name, "net."); ok {
			t.Name = name
			weights.Tensors = append(weights.Tensors, t)
		}
	}
	if err := nn.Restore(net, weights, true); err != nil {
		g.Fatal(err)
	}
	nn.ToMemoryFormat(net, torch.ChannelsLast)
	return net
}

func (g *golden) tensor(name string) torch.Tensor {
	t, ok := g.file.Lookup(name)
	if !ok {
		g.Fatalf("the reference has no %s", name)
	}
	named, err := nn.Unpack(&ckpt.File{Tensors: []ckpt.Tensor{*t}})
	if err != nil {
		g.Fatal(err)
	}
	if named[0].Tensor.Dim() == 4 {
		return named[0].Tensor.Contiguous(torch.ChannelsLast)
	}
	return named[0].Tensor
}

// equal holds got against the reference: bits on the instruction set it was made with, else rtol of the largest value.
func (g *golden) equal(what string, got, want torch.Tensor, rtol float64) {
	g.Helper()
	got, want = got.Detach().CastTo(torch.Double).Flatten(0, -1), want.CastTo(torch.Double).Flatten(0, -1)
	if torch.Equal(got, want) {
		return
	}
	diff := got.Sub(want, 1).Abs().Max().Item()
	if g.exact || !(diff <= rtol*want.Abs().Max().Item()) {
		g.Errorf("%s: differs by up to %g", what, diff)
	}
}

func flat(ts []torch.Tensor) torch.Tensor {
	parts := make([]torch.Tensor, len(ts))
	for i, t := range ts {
		parts[i] = t.Detach().Contiguous(torch.Contiguous).View(-1)
	}
	return torch.Cat(parts, 0)
}

func (g *golden) forget(goal string) *unlearn.Examples {
	return &unlearn.Examples{X: g.tensor("x"), Y: g.tensor(goal), Part: data.PartForget}
}

func TestAttackGolden(t *testing.T) {
	forEach(t, func(g *golden) {
		net := g.fresh()
		defer net.Free()
		var cases map[string][]any
		if err := json.Unmarshal([]byte(g.file.Metadata["pgd"]), &cases); err != nil {
			g.Fatal(err)
		}
		labels := ints(g.tensor("y"))
		for name, c := range cases {
			for _, iters := range []int{0, 1, 10, 100} {
				want := fmt.Sprintf("pgd.%s.delta%d", name, iters)
				if _, ok := g.file.Lookup(want); !ok {
					continue
				}
				job := &attack.Job{Net: net, X: g.tensor("x"), Labels: labels, Classes: 5, Chunk: 64, Options: attack.Options{
					Eps: c[0].(float64), Step: c[1].(float64), Iters: iters, Num: "4", Norm: c[3].(string), Targeted: true,
				}}
				set, err := job.Plan()
				if err != nil {
					g.Fatal(err)
				}
				if err := job.Run(t.Context(), set, nil); err != nil {
					g.Fatal(err)
				}
				x := g.tensor("x").IndexSelect(0, g.tensor("pair.source"))
				// 100 iterations amplify rounding where the instruction set differs.
				g.equal(want, set.X, x.Add(g.tensor(want), 1).Clamp(0, 1), []float64{1e-6, 1e-5, 1e-3, 0.2}[slices.Index([]int{0, 1, 10, 100}, iters)])
				g.equal("targets", set.Targets(), g.tensor("pair.target"), 0)
				set.Free()
			}
		}
	})
}

// The pairs do not depend on how they are cut into chunks, nor on an interruption.
func TestAttackChunks(t *testing.T) {
	forEach(t, func(g *golden) {
		net := g.fresh()
		defer net.Free()
		attacked := func(chunk int, stopAfter int) *attack.Set {
			job := &attack.Job{Net: net, X: g.tensor("x"), Labels: ints(g.tensor("y")), Classes: 5, Chunk: chunk, Options: attack.Options{
				Eps: 1.5, Step: 0.1, Iters: 10, Num: "4", Norm: "l2", Targeted: true,
			}}
			set, err := job.Plan()
			if err != nil {
				g.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err = job.Run(ctx, set, func() error {
				if stopAfter > 0 && set.Done >= stopAfter {
					cancel()
				}
				return nil
			})
			if stopAfter > 0 {
				if err == nil || set.Done >= len(set.Pairs) {
					g.Fatalf("the attack was not interrupted: %v, %d pairs", err, set.Done)
				}
				err = job.Run(t.Context(), set, nil)
			}
			if err != nil {
				g.Fatal(err)
			}
			return set
		}
		all := attacked(24, 0)
		for _, other := range []*attack.Set{attacked(5, 0), attacked(1, 0), attacked(7, 10)} {
			if diff := other.X.Sub(all.X, 1).Abs().Max().Item(); diff > 1e-5 || g.name == "tiny" && diff != 0 {
				g.Errorf("chunks change the examples by up to %g", diff)
			}
			other.Free()
		}
		all.Free()
	})
}

func TestImportanceGolden(t *testing.T) {
	forEach(t, func(g *golden) {
		cases := map[string]importance.Options{
			"mas": {Kind: "mas"}, "mas-plain": {Kind: "mas", Norm: "plain"}, "uniform": {Kind: "uniform"},
			"mas-batch": {Kind: "mas-batch", Accumulate: true}, "mas-batch-noacc": {Kind: "mas-batch"},
			"mas-batch-eval":    {Kind: "mas-batch", Accumulate: true, BN: "eval"},
			"mas-batch-squared": {Kind: "mas-batch", Accumulate: true, Norm: "squared"},
			"fisher-emp":        {Kind: "fisher-emp"}, "fisher-true": {Kind: "fisher-true"}, "fisher-true-16": {Kind: "fisher-true", Samples: 16},
		}
		for name, o := range cases {
			net := g.fresh()
			before := flat(buffers(net))
			job := &importance.Job{Net: net, Params: net.Parameters(), Images: g.forget("y"), Slice: 4, Options: o}
			omega, err := job.Run(t.Context(), nil)
			if err != nil {
				g.Fatal(err)
			}
			g.equal("omega."+name, flat(omega), g.tensor("omega."+name), 1e-5)
			g.equal("anchor."+name, flat(importance.Anchors(omega)), g.tensor("anchor."+name), 1e-5)
			if !torch.Equal(before, flat(buffers(net))) {
				g.Errorf("%s changed the running statistics", name)
			}
			net.Free()
		}
		if torch.Equal(g.tensor("omega.mas-batch"), g.tensor("omega.mas-batch-noacc")) {
			g.Error("accumulation makes no difference in the reference")
		}
	})
}

// reference is what the reference says of a run in its metadata.
type reference struct {
	Outcome       string
	Steps, Passes int
	Settings      struct {
		Method      string
		Goal        string
		BN          string `json:"bn"`
		BNAdv       string `json:"bn_adv"`
		LossWeights string `json:"loss_weights"`
		LR          float64
		ForgetBatch int `json:"b_f"`
		MaxSteps    int `json:"max_steps"`
		Passes      int
	}
}

// runs lists the runs of the reference.
func (g *golden) runs() map[string]reference {
	out := map[string]reference{}
	for key, text := range g.file.Metadata {
		if !strings.HasPrefix(text, `{"outcome"`) {
			continue
		}
		var r reference
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			g.Fatal(err)
		}
		out[key] = r
	}
	return out
}

// task sets up a run of the reference.
func (g *golden) task(r reference) (*unlearn.Method, *unlearn.Task, *unlearn.Options) {
	s := r.Settings
	o := &unlearn.Options{
		Goal: unlearn.Misclassify, LR: s.LR, Momentum: 0.9, WeightDecay: 1e-4, ForgetBatch: 4, AdvBatch: 10, RetainBatch: 10,
		LossWeights: unlearn.BySample, BN: unlearn.BNTrain, BNDriver: unlearn.BNMode(s.BNAdv), StopCheck: "auto", MaxPasses: 1000, MaxSteps: s.MaxSteps,
	}
	if s.Goal != "" {
		o.Goal = unlearn.Goal(s.Goal)
	}
	if s.BN != "" {
		o.BN = unlearn.BNMode(s.BN)
	}
	if s.LossWeights != "" {
		o.LossWeights = unlearn.LossWeights(s.LossWeights)
	}
	if s.ForgetBatch > 0 {
		o.ForgetBatch = s.ForgetBatch
	}
	if s.Passes > 0 {
		o.MaxPasses = s.Passes
	}
	labels := "y"
	if o.Goal == unlearn.Relabel {
		labels = "goal"
	}
	m, err := unlearn.FindMethod(s.Method)
	if err != nil {
		g.Fatal(err)
	}
	task := &unlearn.Task{Net: g.fresh(), Classes: 5, Forget: g.forget(labels), EvalBatch: 1024}
	switch m.Driver {
	case unlearn.ByForget:
	case unlearn.ByAdversarial:
		task.Driver = &unlearn.Examples{X: g.tensor("attack.x_adv"), Y: g.tensor("attack.target")}
	case unlearn.ByRetain:
		task.Driver = &unlearn.Examples{X: g.tensor("retain.x"), Y: g.tensor("retain.y"), Part: data.PartRetain}
	}
	if m.Anchored {
		o.Lambda = 1
		task.Anchors = g.split(g.tensor("anchor.mas"), task.Net)
	}
	return m, task, o
}

func (g *golden) split(all torch.Tensor, net nn.Module) []torch.Tensor {
	var out []torch.Tensor
	at := int64(0)
	for _, p := range net.Root().Parameters() {
		part := all.Narrow(0, at, p.Numel()).View(p.Shape()...)
		if p.Dim() == 4 {
			part = part.Contiguous(torch.ChannelsLast)
		}
		out = append(out, part)
		at += p.Numel()
	}
	return out
}

func TestRunsGolden(t *testing.T) {
	forEach(t, func(g *golden) {
		runs := g.runs()
		if len(runs) < 20 {
			g.Fatalf("only %d runs in the reference", len(runs))
		}
		for name, want := range runs {
			g.replay(name, want)
		}
	})
}

func (g *golden) replay(name string, want reference) {
	m, task, o := g.task(want)
	net := task.Net.(*small)
	defer net.Free()
	var losses, drivers, forgets []float64
	var hits []int64
	task.Observe = func(r unlearn.Record) {
		losses, forgets = append(losses, r.Loss), append(forgets, r.ForgetLoss)
		if task.Driver != nil {
			drivers = append(drivers, r.DriverLoss)
		}
		if r.Hits >= 0 {
			hits = append(hits, r.Hits)
		}
	}
	task.Save = func(s *unlearn.State, _ bool) error {
		g.state(fmt.Sprintf("%s.%d", name, s.Step), net, s)
		return nil
	}
	res, err := unlearn.Forget(g.Context(), m, task, o)
	if err != nil {
		g.Fatalf("%s: %v", name, err)
	}
	loop := strings.HasPrefix(name, "loop.")
	if string(res.Outcome) != want.Outcome {
		g.Errorf("%s: outcome %s after %d steps, want %s", name, res.Outcome, res.Steps, want.Outcome)
		return
	}
	if want.Outcome == "diverged" {
		return // the reference counts the step that failed, and logs its loss
	}
	if g.exact && (res.Steps != want.Steps || res.Passes != want.Passes) {
		g.Errorf("%s: %d steps in %d passes, want %d in %d", name, res.Steps, res.Passes, want.Steps, want.Passes)
	}
	if !g.exact && loop {
		return
	}
	sign := -1.0
	if o.Goal == unlearn.Relabel {
		sign = 1
	}
	for i := range forgets {
		forgets[i] *= sign // the reference logs the plain cross-entropy
	}
	g.equal(name+".loss", torch.FromSlice(losses), g.tensor(name+".loss"), 1e-5)
	g.equal(name+".loss_forget", torch.FromSlice(forgets), g.tensor(name+".loss_forget"), 1e-5)
	if drivers != nil {
		g.equal(name+".loss_driver", torch.FromSlice(drivers), g.tensor(name+".loss_driver"), 1e-5)
	}
	reference := ints64(g.tensor(name + ".hits"))
	if n := min(len(hits), len(reference)); !slices.Equal(hits[:n], reference[:n]) {
		g.Errorf("%s: hits %v, want %v", name, hits, reference)
	}
}

// state compares weights, momenta and statistics where the reference kept them.
func (g *golden) state(at string, net *small, s *unlearn.State) {
	if _, ok := g.file.Lookup(at + ".parameters"); !ok {
		return
	}
	torch.Scope(func() {
		g.equal(at+".parameters", flat(net.Parameters()), g.tensor(at+".parameters"), 1e-5)
		var momenta []torch.Tensor
		for _, t := range s.Tensors {
			if strings.HasPrefix(t.Name, "momentum.") {
				momenta = append(momenta, t.Tensor)
			}
		}
		g.equal(at+".momentum", flat(momenta), g.tensor(at+".momentum"), 1e-4)
		var running, tracked []torch.Tensor
		for _, b := range net.NamedBuffers() {
			if strings.HasSuffix(b.Name, "num_batches_tracked") {
				tracked = append(tracked, b.Tensor.Unsqueeze(0))
			} else {
				running = append(running, b.Tensor)
			}
		}
		g.equal(at+".running", flat(running), g.tensor(at+".running"), 1e-5)
		g.equal(at+".tracked", flat(tracked), g.tensor(at+".tracked"), 0)
	})
}

// A run that is interrupted after any step and resumed has the bits of one that is not.
func TestResumeIsExact(t *testing.T) {
	forEach(t, func(g *golden) {
		want := g.runs()["step.adv-imp"]
		whole := func(stopAt int) torch.Tensor {
			m, task, o := g.task(want)
			net := task.Net.(*small)
			defer net.Free()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var saved *unlearn.State
			task.Save = func(s *unlearn.State, force bool) error {
				if s.Step == stopAt {
					cancel()
				}
				if force {
					saved = keep(g, s)
				}
				return nil
			}
			res, err := unlearn.Forget(ctx, m, task, o)
			if err != nil {
				g.Fatal(err)
			}
			if stopAt > 0 {
				if res.Outcome != unlearn.Interrupted || saved == nil {
					g.Fatalf("outcome %s, state saved: %t", res.Outcome, saved != nil)
				}
				net.Free()
				_, task, _ = g.task(want)
				net = task.Net.(*small)
				defer net.Free()
				task.Resume = saved
				if res, err = unlearn.Forget(t.Context(), m, task, o); err != nil {
					g.Fatal(err)
				}
			}
			if res.Steps != want.Steps {
				g.Fatalf("%d steps", res.Steps)
			}
			return flat(append(net.Parameters(), buffers(net)[:2]...))
		}
		straight := whole(0)
		for stop := 1; stop < want.Steps; stop++ {
			if !torch.Equal(straight, whole(stop)) {
				g.Errorf("stopped after step %d, the weights differ", stop)
			}
		}
	})
}

// keep carries a state through host memory, as a checkpoint does.
func keep(g *golden, s *unlearn.State) *unlearn.State {
	tensors, err := nn.Unpack(nn.Pack(s.Tensors))
	if err != nil {
		g.Fatal(err)
	}
	torch.Keep() // the tensors live in the scope of the test: see below
	out := *s
	out.Tensors = tensors
	for _, t := range tensors {
		torch.Keep(t.Tensor)
	}
	return &out
}

func TestZeroLambdaIsADV(t *testing.T) {
	forEach(t, func(g *golden) {
		run := func(name string) torch.Tensor {
			m, task, o := g.task(g.runs()[name])
			defer task.Net.Root().Free()
			o.Lambda = 0
			if _, err := unlearn.Forget(t.Context(), m, task, o); err != nil {
				g.Fatal(err)
			}
			return flat(task.Net.Root().Parameters())
		}
		if !torch.Equal(run("step.adv"), run("step.adv-imp")) {
			g.Error("adv-imp with lambda 0 is not adv")
		}
	})
}

func TestAlready(t *testing.T) {
	forEach(t, func(g *golden) {
		m, task, o := g.task(g.runs()["step.adv"])
		defer task.Net.Root().Free()
		task.Forget = g.forget("goal") // labels that no image has
		before := flat(task.Net.Root().Parameters())
		res, err := unlearn.Forget(t.Context(), m, task, o)
		if err != nil {
			g.Fatal(err)
		}
		if res.Outcome != unlearn.Already || res.Steps != 0 || !torch.Equal(before, flat(task.Net.Root().Parameters())) {
			g.Errorf("outcome %s after %d steps", res.Outcome, res.Steps)
		}
	})
}

func TestDivergedKeepsTheLastFiniteWeights(t *testing.T) {
	forEach(t, func(g *golden) {
		m, task, o := g.task(g.runs()["loop.diverged"])
		defer task.Net.Root().Free()
		res, err := unlearn.Forget(t.Context(), m, task, o)
		if err != nil {
			g.Fatal(err)
		}
		finite := flat(task.Net.Root().Parameters()).IsFinite().All().ItemInt() == 1
		if res.Outcome != unlearn.Diverged || res.Reason == "" || !finite || math.IsNaN(res.Distance) {
			g.Errorf("outcome %s (%s), finite weights: %t", res.Outcome, res.Reason, finite)
		}
	})
}

func TestRetainedImagesAreNotRead(t *testing.T) {
	forEach(t, func(g *golden) {
		m, task, o := g.task(g.runs()["step.oracle"])
		defer task.Net.Root().Free()
		task.Meter = data.NewMeter(data.ForgetOnly, nil) // not what oracle declares
		task.Forget.Meter, task.Driver.(*unlearn.Examples).Meter = task.Meter, task.Meter
		_, err := unlearn.Forget(t.Context(), m, task, o)
		if _, ok := err.(*data.AccessError); !ok {
			g.Errorf("reading retained images under a forget-only regime: %v", err)
		}
	})
}

func buffers(net nn.Module) []torch.Tensor {
	var out []torch.Tensor
	for _, b := range net.Root().NamedBuffers() {
		out = append(out, b.Tensor.CastTo(torch.Float).Reshape(-1))
	}
	return out
}

func ints64(t torch.Tensor) []int64 { return torch.ToSlice[int64](t) }

func ints(t torch.Tensor) []int {
	var out []int
	for _, v := range ints64(t) {
		out = append(out, int(v))
	}
	return out
}
