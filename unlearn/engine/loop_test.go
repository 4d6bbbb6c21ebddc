package engine

import (
	"slices"
	"strings"
	"testing"

	"l2ul/internal/tape"
	"l2ul/torch"
	"l2ul/torch/cuda"
)

// The first round is done by itself, the second captured; buffers that are gone end a graph.
func TestLoop(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(7)
		net := Freeze(newNet(t, "cifar-resnet18"), Exact)
		defer net.Thaw()
		images := func(n int64) torch.Tensor {
			return torch.Rand([]int64{n, 3, 20, 20}, false).Contiguous(torch.ChannelsLast)
		}
		tapes := &tape.Tape{}
		x, inside := images(3), func() {}
		work := func() {
			tapes.Note("work")
			torch.Scope(func() {
				net.InputGrad(net.Input(x), func(logits torch.Tensor) torch.Tensor { inside(); return gradient(logits) })
			})
		}
		loop := net.Loop(work)
		rounds := func(n int, want ...string) {
			t.Helper()
			tapes.Events = nil
			for range n {
				loop.Next()
			}
			if !slices.Equal(tapes.Events, want) {
				t.Errorf("%d rounds: %v, want %v", n, tapes.Events, want)
			}
		}
		rounds(3, "work", "work", "work") // the CPU has no graphs
		net.plan.record = tapes.Record
		rounds(1, "capture", "work", "replay")
		rounds(2, "work", "replay", "work", "replay")
		for n := range int64(maxRuns) { // other sizes take the memory
			net.Logits(images(5 + n))
		}
		rounds(1, "free", "work")
		rounds(1, "capture", "work", "replay")
		net.drop() // another plan
		rounds(1, "free", "work")
		forbidden := false
		net.plan.record = func(work func()) cuda.Recording {
			forbidden = true
			defer func() { forbidden = false }()
			work()
			return nil
		}
		inside = func() {
			if forbidden {
				panic(&torch.Error{Op: "capture", Msg: "operation not permitted"})
			}
		}
		rounds(2, "work", "work", "work") // the first of them in vain
		net.plan.record = tapes.Record
		rounds(1, "work") // a failure is not tried again
		if why := net.NoGraph(); !strings.Contains(why, "not permitted") {
			t.Errorf("NoGraph says %q", why)
		}
		loop.Free()
	})
}

// Work with autograd in it is never captured.
func TestLoopWithoutAPlan(t *testing.T) {
	job(t, func() {
		net := Freeze(&opaque{forward: func(x torch.Tensor) torch.Tensor { return x.Tanh().Flatten(1, -1) }}, Exact)
		defer net.Thaw()
		x, done := torch.RandN([]int64{2, 3, 4, 4}, false), 0
		loop := net.Loop(func() { torch.Scope(func() { net.InputGrad(x, gradient) }); done++ })
		defer loop.Free()
		for range 3 {
			loop.Next()
		}
		if loop.rounds.Recorded() || done != 3 || net.NoGraph() != "" {
			t.Errorf("done %d times, recorded %t", done, loop.rounds.Recorded())
		}
	})
}
