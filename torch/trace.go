package torch

import (
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Call is one call of an operator, as [Trace] saw it.
type Call struct {
	Name    string   // the operator's, as "aten::conv2d"
	Args    []any    // as they were given: trailing ones left to the schema's defaults are missing
	Results []Tensor // what the operator returned, as far as the caller took it
}

// ReadName is the Name of a [Call] that copied a tensor's elements to Go, where a trace cannot follow.
const ReadName = "torch::read"

// Trace runs fn and returns the operators it called on its thread, in order. Results stay in the scope that fn made them
// in. One trace runs at a time; others wait.
func Trace(fn func()) (calls []Call) {
	oneTrace.Lock()
	defer oneTrace.Unlock()
	onThread(func() {
		t := &tracer{thread: unix.Gettid()}
		tracing.Store(t)
		defer tracing.Store(nil)
		fn()
		calls = t.calls
	})
	return calls
}

type tracer struct {
	thread int
	calls  []Call
}

var (
	oneTrace sync.Mutex
	tracing  atomic.Pointer[tracer]
)

// here reports whether this thread is the one traced.
func (t *tracer) here() bool { return t != nil && t.thread == unix.Gettid() }

// record notes a call. It copies what it keeps: arguments that escaped would go to the heap at every call, traced or not.
func (t *tracer) record(name string, args []any, r results) {
	c := Call{Name: name, Args: make([]any, len(args))}
	for i, a := range args {
		switch x := a.(type) {
		case Tensor:
			c.Args[i] = x
		case int:
			c.Args[i] = int64(x)
		case int64:
			c.Args[i] = x
		case float64:
			c.Args[i] = x
		case bool:
			c.Args[i] = x
		case string:
			c.Args[i] = strings.Clone(x)
		case []int64:
			c.Args[i] = append([]int64{}, x...) // slices.Clone may return its argument
		case []Tensor:
			c.Args[i] = append([]Tensor{}, x...)
		}
	}
	for i := range r.values {
		if x, ok := r.any(i).(Tensor); ok {
			c.Results = append(c.Results, x)
		}
	}
	t.calls = append(t.calls, c)
}

// noteRead notes that t's elements went to Go.
func (t Tensor) noteRead() {
	if tr := tracing.Load(); tr.here() {
		tr.calls = append(tr.calls, Call{Name: ReadName, Args: []any{t}})
	}
}
