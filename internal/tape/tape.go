// Package tape watches recordings of work in tests, and stands in for CUDA graphs where there are none: what it records
// is not done before it is replayed. A replay does the work again, and holds it against the first time: a graph would go on
// with the operators, numbers and tensors that it was captured with, whatever has changed in Go since.
package tape

import (
	"fmt"
	"math"
	"slices"

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
	calls []call // of the first replay; nil before
}

// Replay panics where the work reads a tensor's elements, as a capture would, and where it is not what it was.
func (r *recording) Replay() {
	defer r.tape.Note("replay")
	if r.graph != nil {
		r.graph.Replay()
		return
	}
	calls := describe(torch.Trace(r.work))
	if r.calls == nil {
		r.calls = calls
	}
	for i := range max(len(calls), len(r.calls)) {
		then, now := at(r.calls, i), at(calls, i)
		if !slices.EqualFunc(then, now, same) {
			panic(&torch.Error{Op: "replay", Msg: fmt.Sprintf("operator %d of the work was %v when it was recorded and is %v: a graph would still do the former", i, then, now)})
		}
	}
}

func (r *recording) Free() {
	r.tape.Note("free")
	if r.graph != nil {
		r.graph.Free()
	}
}

// call is the name of an operator and its arguments: numbers and texts as they are; of a tensor that an earlier operator
// made its number, of one that was there before its handle, and of one that came and went otherwise, like a gradient, nothing.
type call []any

type result int

func at(calls []call, i int) call {
	if i < len(calls) {
		return calls[i]
	}
	return call{"none"}
}

func describe(calls []torch.Call) (all []call) {
	all = []call{} // work that does nothing is recorded as well
	made, results := map[torch.Tensor]result{}, result(0)
	tensor := func(t torch.Tensor) any {
		if n, ok := made[t]; ok {
			return n
		}
		if torch.Try(func() { t.Dtype() }) != nil { // freed with the scope that it was made in
			return nil
		}
		return t
	}
	for _, c := range calls {
		if c.Name == torch.ReadName {
			panic(&torch.Error{Op: "capture", Msg: "the work waits for the device to read elements"})
		}
		described := call{c.Name}
		for _, arg := range c.Args {
			switch arg := arg.(type) {
			case torch.Tensor:
				described = append(described, tensor(arg))
			case []torch.Tensor:
				for _, t := range arg {
					described = append(described, tensor(t))
				}
			case []int64:
				described = append(described, fmt.Sprint(arg))
			default:
				described = append(described, arg)
			}
		}
		for _, t := range c.Results {
			if _, again := made[t]; !again {
				results++
				made[t] = results
			}
		}
		all = append(all, described)
	}
	return all
}

// same reports whether two arguments are, bit for bit.
func same(a, b any) bool {
	x, isFloat := a.(float64)
	y, alsoFloat := b.(float64)
	if isFloat && alsoFloat {
		return math.Float64bits(x) == math.Float64bits(y)
	}
	return a == b
}
