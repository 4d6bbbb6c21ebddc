package analysis

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
)

// What is expected of even draws is the mean over every possible outcome.
func TestExpectedLabels(t *testing.T) {
	classes := []string{"a", "b", "c", "d"}
	labels := []int{0, 0, 2, 3, 3}
	var rows []LabelRow
	var entropy, distinct, outcomes float64
	var walk func(i int, counts [4]int)
	walk = func(i int, counts [4]int) {
		if i < len(labels) {
			for c := range classes {
				if c != labels[i] {
					next := counts
					next[c]++
					walk(i+1, next)
				}
			}
			return
		}
		outcomes++
		for _, n := range counts {
			if n > 0 {
				p := float64(n) / float64(len(labels))
				entropy -= p * math.Log2(p)
				distinct++
			}
		}
	}
	walk(0, [4]int{})
	for _, y := range labels {
		rows = append(rows, LabelRow{Label: y, After: 1})
	}
	got := countLabels(rows, classes, nil)
	near(t, "expected entropy", got.ExpectedEntropy, entropy/outcomes, 1e-12)
	near(t, "expected number of labels", got.ExpectedDistinct, distinct/outcomes, 1e-12)

	two := countLabels([]LabelRow{{Label: 0, After: 1}, {Label: 0, After: 1}, {Label: 1, After: 0}}, []string{"a", "b"}, nil)
	near(t, "entropy of two classes, whose draws are sure", two.ExpectedEntropy, two.Entropy, 1e-12)
}

func TestCountLabels(t *testing.T) {
	rows := []LabelRow{
		{Index: 9, Label: 0, RunnerUp: 1, After: 1},
		{Index: 8, Label: 0, RunnerUp: 1, After: 2},
		{Index: 7, Label: 2, RunnerUp: 1, After: 1},
		{Index: 6, Label: 2, RunnerUp: 0, After: 3},
	}
	targets := []map[int]bool{{1: true, 2: true}, {3: true}, {1: true}, {0: true, 1: true}}
	got := countLabels(rows, []string{"a", "b", "c", "d"}, targets)
	if diff := cmp.Diff([][3]int{{0, 1, 1}, {0, 2, 1}, {2, 1, 1}, {2, 3, 1}}, got.Counts); diff != "" {
		t.Error(diff)
	}
	if got.Distinct != 3 || got.LargestShare != 0.5 || got.RunnerUp != 0.5 || *got.Target != 0.5 || *got.ExpectedTarget != 6.0/12 || got.Entropy != 1.5 {
		t.Errorf("%+v", got)
	}

	other := &Labels{Rows: []LabelRow{{Index: 7, After: 1}, {Index: 8, After: 1}, {Index: 9, After: 1}, {Index: 1, After: 0}}}
	a := Agree([]string{"x", "y"}, []*Labels{got, other})
	if a.Images != 3 {
		t.Fatalf("%d images in common, want 3", a.Images)
	}
	near(t, "agreement", a.Share, 2.0/3, 1e-12) // of images 7 and 9
	near(t, "agreement by chance", a.Expected, 2.0/3, 1e-12)
	if Agree(nil, []*Labels{got, {Rows: []LabelRow{{Index: 1}}}}) != nil {
		t.Error("runs without a common image agree on something")
	}
}

// Predictions and probabilities are the networks', and each image to forget is read once.
func TestLabels(t *testing.T) {
	scoped(t, func() {
		s := subject(t, network(t, 0), network(t, 1))
		s.Examples = &attack.Set{Pairs: []attack.Pair{{Source: 0, Target: 3}, {Source: 2, Target: 5}}}
		l := run(t, "labels", s).Data.(*Labels)
		x, _ := s.Train.Gather([]int{7})
		before, after := s.Before.Forward(x), s.After.Forward(x)
		r := l.Rows[1]
		if r.Index != 7 || r.Label != 7 || int64(r.Before) != before.ArgMax(1, false).ItemInt() || int64(r.After) != after.ArgMax(1, false).ItemInt() {
			t.Errorf("%+v", r)
		}
		near(t, "probability before", r.BeforeProbability, before.Softmax(1).Max().Item(), 1e-4)
		near(t, "probability after", r.AfterProbability, after.Softmax(1).Max().Item(), 1e-4)
		reads := s.Meter.Reads()[data.PhaseAfter]
		if reads[data.PartForget] != 3 || reads[data.PartRetain] != 0 || reads[data.PartTest] != 0 {
			t.Errorf("reads: %v", reads)
		}
	})
}
