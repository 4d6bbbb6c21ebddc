package torch

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// inScope runs a test's body in a scope and checks that nothing outlives it.
func inScope(t *testing.T, fn func()) {
	t.Helper()
	before := Live()
	Scope(fn)
	if n := Live() - before; n != 0 {
		t.Errorf("%d tensors outlive the scope", n)
	}
}

// wantError runs fn, which must panic with an Error of a code that names the operation and says every word.
func wantError(t *testing.T, code Code, op string, fn func(), words ...string) {
	t.Helper()
	err := Try(fn)
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("%s: error %v, want one of code %d", op, err, code)
		return
	}
	if e.Code != code || e.Op != op {
		t.Errorf("code %d of %q (%s), want %d of %q", e.Code, e.Op, e.Msg, code, op)
	}
	for _, w := range append(words, op) {
		if !strings.Contains(e.Error(), w) {
			t.Errorf("error %q does not say %q", e, w)
		}
	}
	for _, w := range []string{"INTERNAL ASSERT", "Exception raised from", "frame #"} {
		if strings.Contains(e.Error(), w) {
			t.Errorf("error %q says %q", e, w)
		}
	}
}

func wantSlice[T Element](t *testing.T, what string, got Tensor, want ...T) {
	t.Helper()
	if g := ToSlice[T](got); !slices.Equal(g, want) {
		t.Errorf("%s = %v, want %v", what, g, want)
	}
}

// crowd runs fn in many goroutines at once, on more threads than there are cores.
func crowd(n int, fn func(i int)) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { fn(i) })
	}
	wg.Wait()
}

func floats(shape []int64, f func(i int) float64) Tensor {
	n := int64(1)
	for _, s := range shape {
		n *= s
	}
	data := make([]float64, n)
	for i := range data {
		data[i] = f(i)
	}
	return FromSlice(data, shape...)
}
