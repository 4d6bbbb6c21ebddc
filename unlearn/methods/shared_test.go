package methods_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
)

// sharedPath is a file of the values that somebody else made from the specification, $L2UL_SHARED or beside the repository.
func sharedPath(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("L2UL_SHARED")
	if root == "" {
		root = filepath.Join(filepath.Dir(reference.Golden(t, "")), "..", "..", "shared")
	}
	path := filepath.Join(root, "golden", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no independent values: %v", err)
	}
	return path
}

// independent runs a test on values that were made independently of the engine and of scripts/golden, with one thread and
// AVX-512. So they agree to rounding, which a hundred iterations of an attack amplify. names are those of the parameters.
func independent(t *testing.T, fn func(g *smallnet.Golden, names []string)) {
	file, err := ckpt.Load(sharedPath(t, "tiny.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	torch.SetNumThreads(1)
	defer torch.SetNumThreads(reference.Threads)
	torch.Scope(func() {
		g := &smallnet.Golden{TB: t, Name: "tiny", File: file}
		var names []string
		for _, p := range g.Fresh().NamedParameters() {
			names = append(names, p.Name)
		}
		fn(g, names)
	})
}

func TestIndependentAttack(t *testing.T) {
	independent(t, func(g *smallnet.Golden, _ []string) {
		net := g.Fresh()
		frozen := engine.Freeze(net, engine.Reference)
		defer frozen.Thaw()
		x := g.Tensor("x").IndexSelect(0, g.Tensor("pair.source"))
		for _, c := range []struct {
			name      string
			eps, step float64
			iters     int
			atol      float64
		}{
			{"eps1.5.alpha0.1.delta0", 1.5, 0.1, 0, 1e-7},
			{"eps1.5.alpha0.1.delta1", 1.5, 0.1, 1, 1e-6},
			{"eps1.5.alpha0.1.delta10", 1.5, 0.1, 10, 1e-5},
			{"eps1.5.alpha0.1.delta100", 1.5, 0.1, 100, 1e-2},
			{"eps0.delta1", 0, 0.1, 1, 0},
			{"alpha0.delta1", 1.5, 0, 1, 1e-6},
		} {
			o := attack.Options{Eps: c.eps, Step: c.step, Iters: c.iters, Norm: "l2", Targeted: true}
			delta := attack.Perturb(frozen, x, g.Tensor("pair.start"), g.Tensor("pair.target"), &o)
			if diff := delta.Sub(g.Tensor("pgd."+c.name), 1).Abs().Max().Item(); !(diff <= c.atol) {
				t.Errorf("%s: differs by up to %g", c.name, diff)
			}
		}
	})
}

func TestIndependentImportance(t *testing.T) {
	independent(t, func(g *smallnet.Golden, names []string) {
		for _, kind := range []string{"mas", "mas-plain", "mas-batch", "mas-batch-noacc", "fisher-emp", "fisher-true"} {
			o := importance.Options{Kind: strings.TrimSuffix(strings.TrimSuffix(kind, "-plain"), "-noacc"), Accumulate: kind == "mas-batch"}
			if kind == "mas-plain" {
				o.Norm = "plain"
			}
			net := g.Fresh()
			job := &importance.Job{Net: net, Params: net.Parameters(), Images: &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y")}, Slice: 4, Options: o}
			omega, err := job.Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for i, n := range names {
				g.Equal("omega."+kind+"."+n, omega[i], 1e-5)
				g.Equal("anchor."+kind+"."+n, (&importance.Options{}).Anchors(omega[i : i+1])[0], 1e-5)
			}
		}
	})
}

func TestIndependentSteps(t *testing.T) {
	independent(t, func(g *smallnet.Golden, names []string) {
		for _, method := range []string{"neggrad", "adv", "adv-imp", "imp"} {
			m, err := unlearn.FindMethod(method)
			if err != nil {
				t.Fatal(err)
			}
			task := &unlearn.Task{Net: g.Fresh(), Classes: smallnet.Classes, Forget: &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y")}, EvalBatch: chunk.Fixed(6)}
			if m.Driver == unlearn.ByAdversarial {
				x := g.Tensor("x").IndexSelect(0, g.Tensor("pair.source")).Add(g.Tensor("pgd.eps1.5.alpha0.1.delta100"), 1).Clamp(0, 1)
				task.Driver = &unlearn.Examples{X: x, Y: g.Tensor("pair.target")}
			}
			if m.Anchored {
				for _, n := range names {
					task.Anchors = append(task.Anchors, g.Tensor("anchor.mas."+n))
				}
			}
			var losses []float64
			task.Observe = func(r unlearn.Record) { losses = append(losses, r.Loss) }
			task.Save = func(s *unlearn.State, _ bool) error {
				if !slices.Contains([]int{1, 2, 5}, s.Step) {
					return nil
				}
				for _, n := range s.Tensors {
					if want := fmt.Sprintf("step.%s.%d.%s", method, s.Step, n.Name); g.Has(want) {
						g.Equal(want, n.Tensor, 1e-5)
					} else if !strings.HasPrefix(n.Name, "momentum.") {
						t.Errorf("no independent value of %s", want)
					}
				}
				return nil
			}
			res, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{
				Goal: unlearn.Misclassify, LR: 0.05, Momentum: 0.9, WeightDecay: 1e-4, Lambda: 1, ForgetBatch: 4, AdvBatch: 10,
				LossWeights: unlearn.BySample, BN: unlearn.BNTrain, StopCheck: "auto", MaxPasses: 10, MaxSteps: 6,
			})
			if err != nil || res.Steps < 6 {
				t.Fatalf("%s: %+v, %v", method, res, err)
			}
			g.Equal("step."+method+".loss", torch.FromSlice(losses[:5]), 1e-5)
		}
	})
}
