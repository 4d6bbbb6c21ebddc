package torch

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// clock is CLOCK_MONOTONIC in nanoseconds.
func clock(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano()
}

// A profile holds what ran while it was taken, forward and backward, on which thread and when, and nothing else.
func TestProfile(t *testing.T) {
	Scope(func() {
		x := RandN([]int64{4, 3}, false).SetRequiresGrad(true)
		x.Tanh()
		began := clock(t)
		spans, lost := Profile(1000, func() {
			Grad([]Tensor{x.Exp().Sum()}, []Tensor{x})
		})
		ended := clock(t)
		x.Tanh()
		var names []string
		for i, s := range spans {
			names = append(names, s.Name)
			if s.Begin < began || s.End < s.Begin || s.End > ended || s.Thread != unix.Gettid() {
				t.Errorf("%+v: not between %d and %d on thread %d", s, began, ended, unix.Gettid())
			}
			if i > 0 && s.End < spans[i-1].End {
				t.Errorf("%+v ends before %+v", s, spans[i-1])
			}
			for _, other := range spans[:i] { // which ended earlier: inside s, or before it
				if other.Begin < s.Begin && other.End > s.Begin {
					t.Errorf("%+v and %+v overlap", other, s)
				}
			}
		}
		for _, want := range []string{"aten::exp", "aten::sum", "ExpBackward0"} {
			if !slices.ContainsFunc(names, func(name string) bool { return name == want || name == "autograd::engine::evaluate_function: "+want }) {
				t.Errorf("%s is not among %v", want, names)
			}
		}
		if slices.Contains(names, "aten::tanh") || lost != 0 {
			t.Errorf("%d lost; %v", lost, names)
		}
	})
}

// Beyond its limit a profile counts only; after a panic it is over.
func TestProfileLimit(t *testing.T) {
	Scope(func() {
		x := Ones([]int64{2}, false)
		again := func() {
			for range 10 {
				x.Exp()
			}
		}
		if spans, lost := Profile(4, again); len(spans) != 4 || lost != 6 {
			t.Errorf("%d spans and %d lost", len(spans), lost)
		}
		err := Try(func() {
			Profile(4, func() { x.MatMul(Ones([]int64{3}, false)) })
		})
		if err == nil {
			t.Fatal("no error")
		}
		if spans, lost := Profile(100, again); len(spans) != 10 || lost != 0 {
			t.Errorf("%d spans and %d lost after a panic", len(spans), lost)
		}
	})
}
