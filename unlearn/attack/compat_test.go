package attack_test

import (
	"slices"
	"strings"
	"testing"

	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/unlearn/attack"
)

// Fewer classes to aim at: all of them but the label are, and no other.
func TestCompatTargetClasses(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		for pool, want := range map[int]map[int][]int{ // by label
			0: {0: {1, 2, 3, 4}, 4: {0, 1, 2, 3}},
			3: {0: {1, 2}, 1: {0, 2}, 4: {0, 1, 2}},
			5: {0: {1, 2, 3, 4}, 4: {0, 1, 2, 3}},
		} {
			job := newJob(g, settings(1), 64)
			job.Options.Num, job.Options.Pool = "60", pool
			set, err := job.Plan()
			if err != nil {
				t.Fatal(err)
			}
			seen := map[int][]int{}
			for _, p := range set.Pairs {
				label := job.Labels[p.Source]
				if !slices.Contains(seen[label], p.Target) {
					seen[label] = append(seen[label], p.Target)
				}
			}
			for label, targets := range want {
				slices.Sort(seen[label])
				if !slices.Equal(seen[label], targets) {
					t.Errorf("of %d classes, label %d: targets %v, want %v", pool, label, seen[label], targets)
				}
			}
		}
	})
}

// A class drawn on the label becomes half the number of classes, the label itself included; the uniforms that are drawn and
// dropped move the targets of later calls.
func TestCompatFallback(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		plan := func(fallback string, slice int) []int {
			job := newJob(g, settings(1), 64)
			job.Options.Num, job.Options.Fallback, job.Slice = "200", fallback, slice
			set, err := job.Plan()
			if err != nil {
				t.Fatal(err)
			}
			onLabel := 0
			for _, p := range set.Pairs {
				if p.Target == job.Labels[p.Source] {
					onLabel++
					if p.Target != smallnet.Classes/2 {
						t.Errorf("%s: target %d is its image's label", fallback, p.Target)
					}
				}
			}
			if (onLabel > 0) != (fallback == "half") {
				t.Errorf("%s: %d targets are their image's label", fallback, onLabel)
			}
			_, _, targets := columns(set)
			return targets
		}
		other, half := plan("other", 0), plan("half", 6)
		if slices.Equal(other, half) {
			t.Error("the rule has no effect")
		}
		if !slices.Equal(plan("other", 4), other) {
			t.Error("rule other looks at slices")
		}
		if slices.Equal(plan("half", 4), half) {
			t.Error("half: nothing is drawn and dropped")
		}
	})
}

// From one generator in turn, targets and starts do not depend on chunks, and an attack that goes on has the same.
func TestCompatOneGenerator(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		examples := func(rng string, atOnce int) *attack.Set {
			job := newJob(g, settings(0), atOnce)
			job.Options.RNG, job.Slice = rng, 4
			return run(g, job)
		}
		two, one := examples("streams", 24), examples("official-cpu", 24)
		if torch.Equal(two.X, one.X) {
			t.Error("one generator gives the starts of two")
		}
		if again := examples("official-cpu", 5); !torch.Equal(again.X, one.X) {
			t.Error("chunks move the starts")
		}
		job := newJob(g, settings(0), 24)
		job.Options.RNG, job.Slice = "official-cpu", 4
		part := attack.Resumed(slices.Clone(one.Pairs), one.X.Narrow(0, 0, 7))
		defer part.Free()
		if err := job.Run(t.Context(), part, nil); err != nil {
			t.Fatal(err)
		}
		if !torch.Equal(part.X, one.X) {
			t.Error("going on gives other starts")
		}
		// By hand: four uniforms for the targets of the first call, then its starts.
		generator := torch.NewGenerator(job.Seed)
		torch.Seeded(generator, func() {
			u := torch.ToSlice[float32](torch.Rand([]int64{4}, false))
			start := torch.Rand([]int64{4, 3, 8, 8}, false)
			x := job.X.Narrow(0, 0, 4)
			first := x.Add(attack.Perturb(job.Net, x, start.Contiguous(g.Format), torch.Zeros([]int64{4}, false).CastTo(torch.Long), &job.Options), 1)
			if !torch.Equal(first.Clamp(0, 1), one.X.Narrow(0, 0, 4)) {
				t.Error("the first call's starts are not those behind its targets")
			}
			for i, y := range job.Labels[:4] {
				want := int(u[i] * 4)
				if want >= y {
					want++
				}
				if one.Pairs[i].Target != want {
					t.Errorf("target %d is %d, want %d", i, one.Pairs[i].Target, want)
				}
			}
		})
	})
}

// PyTorch's norms are those in float64, but for rounding.
func TestCompatNorms(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		job := newJob(g, settings(10), 24)
		ours := run(g, job)
		job.Options.Arithmetic = "aten"
		theirs := run(g, job)
		if torch.Equal(ours.X, theirs.X) {
			t.Error("they are the same to the bit")
		}
		if diff := ours.X.Sub(theirs.X, 1).Abs().Max().Item(); !(diff < 1e-3) {
			t.Errorf("examples differ by up to %g", diff)
		}
	})
}

func TestCompatRefusals(t *testing.T) {
	base := attack.Options{Eps: 1, Iters: 1, Num: "1", Norm: "l2", Targeted: true}
	for _, c := range []struct {
		change func(o *attack.Options)
		labels []int
		want   string
	}{
		{func(o *attack.Options) { o.RNG = "official-cuda" }, nil, "take --compat.rng official-cpu"},
		{func(o *attack.Options) { o.Pool = 6 }, nil, "--compat.num-target-classes 6: there are only 5 classes"},
		{func(o *attack.Options) { o.Pool = 1 }, []int{3, 0}, "image 1 of those to forget is of class 0"},
		{func(o *attack.Options) { o.Pool = 1 }, []int{3, 4}, ""},
		{func(o *attack.Options) { o.Fallback, o.Exclude = "half", "goal" }, nil, "--target-exclude goal: --compat.target-fallback half"},
		{func(o *attack.Options) { o.Arithmetic, o.Norm = "aten", "linf" }, nil, "--compat.norms aten: --norm linf"},
		{func(o *attack.Options) { o.RNG, o.Targeted = "official-cpu", false }, nil, "--compat.rng official-cpu: "},
		{func(o *attack.Options) { o.Subset, o.Pairs = "9", "x.csv" }, nil, "--compat.utk-subset 9: --pairs says which examples there are"},
		{func(o *attack.Options) { o.Subset, o.Pairs = "auto", "x.csv" }, nil, ""},
		{func(*attack.Options) {}, nil, ""},
	} {
		o := base
		c.change(&o)
		err := o.Validate()
		if err == nil {
			err = o.CheckCompat(c.labels, 5, torch.CPU)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", o.Compat, err, c.want)
		}
	}
}

// Drawn for a larger set, pairs and starts are those that the larger set's own attack has for its first images.
func TestCompatSubset(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		for _, rng := range []string{"streams", "official-cpu"} {
			for _, order := range []string{"repeat-major", "batch-major"} {
				of := func(k, atOnce int) *attack.Job {
					job := newJob(g, settings(0), atOnce)
					job.Options.RNG, job.Options.Order, job.Slice = rng, order, 4
					if k < len(job.Labels) {
						job.Of, job.Labels, job.X = job.Labels, job.Labels[:k], job.X.Narrow(0, 0, int64(k))
					}
					return job
				}
				all := run(g, of(6, 24))
				for _, k := range []int{1, 5} {
					small := run(g, of(k, 24))
					var rows []int64
					var pairs []attack.Pair
					for i, p := range all.Pairs {
						if p.Source < k {
							rows, pairs = append(rows, int64(i)), append(pairs, p)
						}
					}
					if !torch.Equal(small.X, all.X.IndexSelect(0, torch.FromSlice(rows))) || !slices.Equal(small.Pairs, pairs) {
						t.Errorf("%s, %s, %d of 6: other pairs or starts", rng, order, k)
					}
					job := of(k, 3)
					part := attack.Resumed(slices.Clone(small.Pairs), small.X.Narrow(0, 0, 2))
					if err := job.Run(t.Context(), part, nil); err != nil {
						t.Fatal(err)
					}
					if !torch.Equal(part.X, small.X) {
						t.Errorf("%s, %s, %d of 6: going on gives other starts", rng, order, k)
					}
					part.Free()
				}
			}
		}
	})
}
