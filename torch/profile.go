package torch

import "sync"

// Span is one call of an operator, as [Profile] saw it.
type Span struct {
	Name       string // the operator's, as "aten::conv2d", or that of a node of autograd
	Thread     int    // of the operating system
	Begin, End int64  // nanoseconds of CLOCK_MONOTONIC
}

// Profile runs fn and returns the operators that the process ran meanwhile, on all threads, in the order of their ends:
// limit of them, and how many more there were. Those of a thread nest. On CUDA they are the times in which work was queued.
// One profile runs at a time; others wait. Without one, nothing is measured.
func Profile(limit int, fn func()) (spans []Span, lost int) {
	oneProfile.Lock()
	defer oneProfile.Unlock()
	profileBegin(limit)
	defer func() { spans, lost = profileEnd() }()
	fn()
	return spans, lost // as the deferred call sets them
}

var oneProfile sync.Mutex
