// Package tape watches recordings of work in tests, and stands in for CUDA graphs where there are none: what it records
// is not done before it is replayed.
package tape

import (
	"l2ul/torch"
	"l2ul/torch/cuda"
)

// Tape records the work of a job, and what becomes of the recordings.
type Tape struct {
	Graphs cuda.Recorder // of the device; nil where it has none
	Events []string      // "capture", "replay" and "free", in order; tests add their own
}

// Record is a [cuda.Recorder].
func (t *Tape) Record(work func()) cuda.Recording {
	t.Note("capture")
	r := &recording{tape: t, work: work}
	if t.Graphs != nil {
		r.graph = t.Graphs(work)
	}
	return r
}

// Note adds an event.
func (t *Tape) Note(event string) { t.Events = append(t.Events, event) }

type recording struct {
	tape  *Tape
	work  func()
	graph cuda.Recording
}

// Replay panics where the work reads a tensor's elements, as a capture would.
func (r *recording) Replay() {
	defer r.tape.Note("replay")
	if r.graph != nil {
		r.graph.Replay()
		return
	}
	for _, call := range torch.Trace(r.work) {
		if call.Name == torch.ReadName {
			panic(&torch.Error{Op: "capture", Msg: "the work waits for the device to read elements"})
		}
	}
}

func (r *recording) Free() {
	r.tape.Note("free")
	if r.graph != nil {
		r.graph.Free()
	}
}
