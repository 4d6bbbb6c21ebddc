package engine

import (
	"errors"

	"l2ul/torch"
	"l2ul/torch/cuda"
)

// Loop is work that is done many times on the same tensors, with one gradient of the network in it. On CUDA it is captured
// into a graph where a plan is used: a plan has neither autograd nor waiting in it, and the device then takes its hundreds
// of small steps as one.
type Loop struct {
	net    *Network
	work   func()
	rounds *cuda.Loop
	plan   *plan // whose buffers the graph uses
	freed  int   // by that plan when it was captured
}

// Loop returns the work as a loop. What work reads and writes must stay where it is as long as the loop lives: give it new
// values by copying into its tensors. The caller frees the loop.
func (n *Network) Loop(work func()) *Loop {
	return &Loop{net: n, work: work, rounds: cuda.NewLoop(work)}
}

// Next does the work once. On CUDA it may only have been queued when Next returns.
func (l *Loop) Next() {
	if l.rounds.Recorded() && (l.plan != l.net.climb || l.freed != l.plan.freed) { // buffers of the graph may be gone
		l.Free()
	}
	l.rounds.Next(l.record)
}

// record captures the work where there is a plan for it and nothing has failed before.
func (l *Loop) record(work func()) (graph cuda.Recording) {
	n := l.net
	if n.climb == nil || n.climb.record == nil || n.back != accepted || n.noGraph != "" {
		return nil
	}
	n.climb.recording = true
	err := torch.Try(func() { graph = n.climb.record(work) })
	n.climb.recording = false
	if failed := (*torch.Error)(nil); errors.As(err, &failed) && failed.Code == torch.OutOfMemory {
		n.climb.vacate()
		panic(failed) // for the caller, who may try fewer images
	}
	if err != nil {
		n.noGraph = err.Error()
		return nil
	}
	l.plan, l.freed = n.climb, n.climb.freed
	return graph
}

// Free gives the graph back. Work that goes on begins by itself again, since it may find other buffers.
func (l *Loop) Free() {
	l.rounds.Free()
	l.rounds, l.plan = cuda.NewLoop(l.work), nil
}

// NoGraph says why, on CUDA, loops with a plan are not captured. It is empty where they are, and elsewhere.
func (n *Network) NoGraph() string { return n.noGraph }
