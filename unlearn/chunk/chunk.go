// Package chunk says how many images are computed at once: as many as cache and memory hold, and fewer where memory runs
// out all the same.
package chunk

import (
	"errors"
	"fmt"

	"l2ul/torch"
)

// Size is how many images are computed at once. Parts of a job that share one learn from each other.
type Size struct {
	n      int
	shrunk func(before, after int)
}

// Fixed is a size that stays: where memory runs out, the work fails.
func Fixed(n int) *Size { return &Size{n: n} }

// Shrinking is a size that halves where memory runs out, and tells shrunk each time.
func Shrinking(n int, shrunk func(before, after int)) *Size { return &Size{n, shrunk} }

// N is the size as it is now, at least 1.
func (s *Size) N() int { return s.n }

// Do computes the next of left images: it calls compute with their number, again with half of it each time that libtorch
// finds no memory and the size may shrink, and returns how many are done. A call that runs out of memory must leave nothing
// behind that the next one trips over. A panic with a [*torch.Error] is returned.
func (s *Size) Do(left int, compute func(n int) error) (done int, err error) {
	for {
		n := min(s.n, left)
		var failed error
		native := torch.Try(func() { failed = compute(n) })
		var e *torch.Error
		switch {
		case native == nil:
			return n, failed
		case !errors.As(native, &e) || e.Code != torch.OutOfMemory:
			return 0, native
		case s.shrunk == nil:
			return 0, fmt.Errorf("out of memory with %d images at once; --batch-size auto takes fewer: %w", n, native)
		case n == 1:
			return 0, fmt.Errorf("out of memory with one image at once: %w", native)
		}
		s.n = n / 2
		s.shrunk(n, s.n)
	}
}
