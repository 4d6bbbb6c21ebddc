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
	net   *Network
	work  func()
	met   bool // work has been done since the graph, if any, was lost
	graph graph
	plan  *plan // whose buffers the graph uses
	freed int   // by that plan when it was captured
}

// graph is a [cuda.Graph].
type graph interface {
	Replay()
	Free()
}

// Loop returns the work as a loop. What work reads and writes must stay where it is as long as the loop lives: give it new
// values by copying into its tensors. The caller frees the loop.
func (n *Network) Loop(work func()) *Loop { return &Loop{net: n, work: work} }

// capturer returns what captures work on a device, nil where there are no graphs.
func capturer(device torch.Device) func(work func()) graph {
	if device.Type != torch.CUDAType {
		return nil
	}
	return func(work func()) graph { return cuda.Capture(device, nil, work) }
}

// Next does the work once. On CUDA it may only have been queued when Next returns.
func (l *Loop) Next() {
	if l.graph != nil && (l.plan != l.net.climb || l.freed != l.plan.freed) { // buffers of the graph may be gone
		l.Free()
	}
	if l.graph == nil && l.met {
		l.record()
	}
	if l.graph != nil {
		l.graph.Replay()
		return
	}
	l.work()
	l.met = true
}

// record captures the work, which has been done before, so that all that it meets for the first time is behind it.
func (l *Loop) record() {
	n := l.net
	if n.climb == nil || n.climb.capture == nil || n.back != accepted || n.noGraph != "" {
		return
	}
	n.climb.recording = true
	err := torch.Try(func() { l.graph = n.climb.capture(l.work) })
	n.climb.recording = false
	if failed := (*torch.Error)(nil); errors.As(err, &failed) && failed.Code == torch.OutOfMemory {
		n.climb.vacate()
		panic(failed) // for the caller, who may try fewer images
	}
	if err != nil {
		n.noGraph = err.Error()
		return
	}
	l.plan, l.freed = n.climb, n.climb.freed
}

// Free gives the graph back.
func (l *Loop) Free() {
	if l.graph != nil {
		l.graph.Free()
	}
	l.graph, l.plan, l.met = nil, nil, false
}

// NoGraph says why, on CUDA, loops with a plan are not captured. It is empty where they are, and elsewhere.
func (n *Network) NoGraph() string { return n.noGraph }
