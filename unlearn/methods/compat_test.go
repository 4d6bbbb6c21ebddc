package methods_test

import (
	"fmt"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// published are the settings that --compat official-b8b335b makes of those of scripts/golden/compat.py, with starting points
// from the CPU and whatever else flags say.
func published(t *testing.T, flags map[string]string) (a attack.Options, i importance.Options, o unlearn.Options) {
	t.Helper()
	all := map[string][]string{
		"compat": {"official-b8b335b"}, "compat.rng": {"official-cpu"}, "eps": {"1.5"}, "step": {"0.1"}, "iters": {"6"}, "num-adv": {"5"},
		"lr": {"0.0005"}, "forget-batch": {"4"}, "adv-batch": {"8"}, "max-passes": {"3"},
	}
	for name, value := range flags {
		all[name] = []string{value}
	}
	catalog, err := run.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := catalog.Resolve("forget", config.Sources{Flags: all})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []any{&a, &i, &o} {
		if err := cfg.Decode(part); err != nil {
			t.Fatal(err)
		}
	}
	return a, i, o
}

// compatClasses are the classes of the reference's network: more than the published code aims at.
const compatClasses = 12

// Under --compat official-b8b335b the whole algorithm is that of a sequential program with the published code's quirks: targets,
// starts, examples, anchors, and 20 steps in one pass more than was asked for.
func TestCompatIsThePublishedCode(t *testing.T) {
	file := checkedIn(t, "compat")
	if reference.Live() {
		file = reference.Remake(t, "compat")
	}
	g := &smallnet.Golden{TB: t, Name: "compat", File: file, Exact: reference.MadeHere(file.Metadata)}
	settings, weighing, o := published(t, nil)
	torch.Scope(func() {
		net := g.FreshTiny(compatClasses)
		x, y := g.Tensor("x"), g.Tensor("y")
		frozen := engine.Freeze(net, engine.Reference)
		job := &attack.Job{
			Net: frozen, X: x, Labels: g.Ints("y"), Classes: compatClasses, Seed: 1, Slice: o.ForgetBatch, Chunk: chunk.Fixed(o.ForgetBatch),
			Options: settings,
		}
		set, err := job.Plan()
		if err != nil {
			t.Fatal(err)
		}
		defer set.Free()
		if err := job.Run(t.Context(), set, nil); err != nil {
			t.Fatal(err)
		}
		comparePairs(t, g, set)
		g.Equal("x_adv", set.X, 1e-5)
		// So has an attack on the pairs that it wrote down, as --pairs reads them, without a draw of its own.
		imported := *job
		imported.Seed, imported.Starts = 99, g.Tensor("start")
		for i, source := range g.Ints("source") {
			imported.Pairs = append(imported.Pairs, attack.Pair{Source: source, Repeat: g.Ints("repeat")[i], Target: g.Ints("target")[i]})
		}
		again, err := imported.Plan()
		if err != nil {
			t.Fatal(err)
		}
		defer again.Free()
		if err := imported.Run(t.Context(), again, nil); err != nil {
			t.Fatal(err)
		}
		if !torch.Equal(again.X, set.X) {
			t.Error("imported pairs give other examples")
		}
		frozen.Thaw()

		images := &unlearn.Examples{X: x, Y: y, Part: data.PartForget}
		omega, err := (&importance.Job{Net: net, Params: net.Parameters(), Images: images, Slice: o.ForgetBatch, Options: weighing}).Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		anchors := weighing.Anchors(omega)
		g.Equal("anchor", smallnet.Flat(anchors), 1e-5)

		m, err := unlearn.FindMethod("adv-imp")
		if err != nil {
			t.Fatal(err)
		}
		task := &unlearn.Task{
			Net: net, Classes: compatClasses, Forget: images, Anchors: anchors, EvalBatch: chunk.Fixed(1024),
			Driver: &unlearn.Examples{X: set.X, Y: set.Targets()},
		}
		var losses []float64
		var hits []int64
		task.Observe = func(r unlearn.Record) { losses, hits = append(losses, r.Loss), append(hits, r.Hits) }
		compared := 0
		task.Save = func(s *unlearn.State, _ bool) error {
			if at := fmt.Sprint(s.Step); g.Has(at + ".parameters") {
				compared++
				var momenta []torch.Tensor
				for _, named := range s.Tensors[len(s.Tensors)-len(net.Parameters()):] {
					momenta = append(momenta, named.Tensor)
				}
				running, _ := smallnet.Buffers(net)
				g.Equal(at+".parameters", smallnet.Flat(net.Parameters()), 1e-5)
				g.Equal(at+".momentum", smallnet.Flat(momenta), 1e-4)
				g.Equal(at+".running", smallnet.Flat(running), 1e-5)
			}
			return nil
		}
		res, err := unlearn.Forget(t.Context(), m, task, &o)
		if err != nil {
			t.Fatal(err)
		}
		if string(res.Outcome) != file.Metadata["outcome"] || fmt.Sprint(res.Steps) != file.Metadata["steps"] || compared < 2 {
			t.Errorf("%s after %d steps, %d states compared; the published code ends with %s after %s", res.Outcome, res.Steps, compared, file.Metadata["outcome"], file.Metadata["steps"])
		}
		g.Equal("loss", torch.FromSlice(losses), 1e-5)
		if want := torch.ToSlice[int64](g.Tensor("hits")); !slices.Equal(hits, want) {
			t.Errorf("hits %v, want %v", hits, want)
		}
	})
}

// comparePairs compares what the attack is asked for.
func comparePairs(t *testing.T, g *smallnet.Golden, set *attack.Set) {
	t.Helper()
	for name, of := range map[string]func(p attack.Pair) int{
		"source": func(p attack.Pair) int { return p.Source }, "repeat": func(p attack.Pair) int { return p.Repeat },
		"target": func(p attack.Pair) int { return p.Target },
	} {
		var got []int
		for _, p := range set.Pairs {
			got = append(got, of(p))
		}
		if want := g.Ints(name); !slices.Equal(got, want) {
			t.Errorf("%s %v, want %v", name, got, want)
		}
	}
}
