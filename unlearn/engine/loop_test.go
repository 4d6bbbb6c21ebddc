package engine

import (
	"slices"
	"strings"
	"testing"

	"l2ul/torch"
)

// tape stands in for a CUDA graph: what is captured is not done before it is replayed.
type tape struct {
	work   func()
	events *[]string
}

func (t *tape) Replay() { t.work(); *t.events = append(*t.events, "replay") }
func (t *tape) Free()   { *t.events = append(*t.events, "free") }

// The first round is done by itself, the second captured; buffers that are gone end a graph.
func TestLoop(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(7)
		net := Freeze(newNet(t, "cifar-resnet18"), Exact)
		defer net.Thaw()
		images := func(n int64) torch.Tensor {
			return torch.Rand([]int64{n, 3, 20, 20}, false).Contiguous(torch.ChannelsLast)
		}
		var events []string
		x, inside := images(3), func() {}
		work := func() {
			events = append(events, "work")
			torch.Scope(func() {
				net.InputGrad(net.Input(x), func(logits torch.Tensor) torch.Tensor { inside(); return gradient(logits) })
			})
		}
		loop := net.Loop(work)
		rounds := func(n int, want ...string) {
			t.Helper()
			events = nil
			for range n {
				loop.Next()
			}
			if !slices.Equal(events, want) {
				t.Errorf("%d rounds: %v, want %v", n, events, want)
			}
		}
		rounds(3, "work", "work", "work") // the CPU has no graphs
		capture := func(work func()) graph {
			events = append(events, "capture")
			return &tape{work, &events}
		}
		net.plan.capture = capture
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
		net.plan.capture = func(work func()) graph {
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
		net.plan.capture = capture
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
		if loop.graph != nil || done != 3 || net.NoGraph() != "" {
			t.Errorf("done %d times, graph %v", done, loop.graph)
		}
	})
}
