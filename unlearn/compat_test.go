package unlearn_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/unlearn"
)

// The published code compares passes with the cap after it has counted them.
func TestCompatCapPlusOne(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for plusOne, want := range map[bool][2]int{false: {4, 2}, true: {6, 3}} {
			r := newTry(t, g, "neggrad")
			r.o.PlusOne = plusOne
			if res := r.run(); res.Outcome != unlearn.Capped || res.Steps != want[0] || res.Passes != want[1] || res.Reason != "--max-passes 2" {
				t.Errorf("plus one %v: %+v, want %d steps in %d passes", plusOne, res, want[0], want[1])
			}
		}
	})
}

// Where the goal holds at the start, methods that do not look take a step.
func TestCompatStartCheck(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for _, c := range []struct {
			method, check string
			looks         bool
		}{
			{"neggrad", "", true},
			{"neggrad", "all", true},
			{"neggrad", "adv", false},
			{"neggrad", "none", false},
			{"adv", "adv", true},
			{"adv-imp", "adv", true},
			{"adv", "none", false},
			{"oracle", "adv", false},
		} {
			r := newTry(t, g, c.method)
			r.o.StartCheck = c.check
			r.task.Forget.Y = torch.FromSlice([]int64{1, 2, 3, 4, 0, 1}) // all wrong
			res := r.run()
			if already := res.Outcome == unlearn.Already; already != c.looks || (res.Steps == 0) != c.looks || !already && res.Outcome != unlearn.Reached {
				t.Errorf("%s, start check %q: %s after %d steps", c.method, c.check, res.Outcome, res.Steps)
			}
		}
	})
}

// What is no number is classified as class 0, which the published code takes for success where no label is 0.
func TestCompatNaNGuard(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		try := func(guard string, lr float64, x, y torch.Tensor) (*unlearn.Result, bool) {
			r := newTry(t, g, "neggrad")
			r.o.LR, r.o.StopCheck, r.o.NaNGuard = lr, "step", guard
			r.task.Forget.X, r.task.Forget.Y = x, y
			start := smallnet.State(r.task.Net)
			res := r.run()
			return res, torch.Equal(start, smallnet.State(r.task.Net))
		}
		x, y := g.Tensor("x").Narrow(0, 1, 4), g.Tensor("y").Narrow(0, 1, 4)
		for guard, want := range map[string]unlearn.Outcome{"": unlearn.Diverged, "on": unlearn.Diverged, "off": unlearn.Reached} {
			if res, _ := try(guard, 1e36, x, y); res.Outcome != want {
				t.Errorf("guard %q: %+v, want %s", guard, res, want)
			}
		}
		// All parameters and losses are finite, and four images of class 0 are forgotten; the logits of the last are none.
		x = g.Tensor("x").IndexSelect(0, torch.FromSlice([]int64{0, 5, 0, 5, 4}))
		x.Select(0, 4).FillI(math.NaN())
		y = torch.FromSlice([]int64{0, 0, 0, 0, 4})
		if res, same := try("on", 10, x, y); res.Outcome != unlearn.Diverged || !same || !strings.Contains(res.Reason, "after step 1 logits are not finite") {
			t.Errorf("a success that is none: %+v", res)
		}
		if res, same := try("off", 10, x, y); res.Outcome != unlearn.Reached || res.Steps != 1 || same {
			t.Errorf("without a guard: %+v", res)
		}
	})
}

// The position in the forget slices, of four and two images, carries over from the methods before.
func TestCompatCycleShared(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		for before, want := range map[int][]int{0: {4, 2, 4, 2, 4, 2}, 1: {2, 4, 2, 4, 2, 4}, 2: {4, 2, 4, 2, 4, 2}} {
			r := newTry(t, g, "adv")
			r.o.CycleStart = before
			r.run()
			var got []int
			for _, rec := range r.log {
				got = append(got, rec.NForget)
			}
			if !slices.Equal(got, want) {
				t.Errorf("after %d steps: slices %v, want %v", before, got, want)
			}
		}
	})
}
