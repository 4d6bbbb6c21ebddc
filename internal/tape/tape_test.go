package tape_test

import (
	"strings"
	"testing"

	"l2ul/internal/tape"
	"l2ul/torch"
)

// Work that a graph would do as it was captured, and no longer as Go means it, is found when it is replayed; other elements
// in the same tensors are what graphs are for.
func TestWhatAGraphWouldFreeze(t *testing.T) {
	for name, c := range map[string]struct {
		work func(round int, x, y, other torch.Tensor)
		says string // "" where a graph does well
	}{
		"elements":    {func(_ int, x, y, _ torch.Tensor) { y.CopyI(x.AddScalar(1)) }, ""},
		"gradients":   {func(_ int, x, y, _ torch.Tensor) { y.CopyI(gradient(x).AddScalar(1)) }, ""},
		"a number":    {func(n int, x, y, _ torch.Tensor) { y.CopyI(x.AddScalar(float64(n))) }, "aten::add"},
		"a size":      {func(n int, x, y, _ torch.Tensor) { y.CopyI(x.Narrow(0, int64(n%2), 1)) }, "aten::narrow"},
		"an operator": {func(n int, x, y, _ torch.Tensor) { y.CopyI([]func() torch.Tensor{x.Relu, x.Neg}[n%2]()) }, "aten::neg"},
		"one less": {func(n int, x, y, _ torch.Tensor) {
			if n < 3 {
				y.CopyI(x)
			}
		}, "is [none]"},
		"one more": {func(n int, x, y, _ torch.Tensor) {
			if n > 2 {
				y.CopyI(x)
			}
		}, "was [none]"},
		"a tensor":     {func(n int, x, y, other torch.Tensor) { y.CopyI([]torch.Tensor{x, other}[n%2]) }, "aten::copy_"},
		"a result":     {func(n int, x, y, _ torch.Tensor) { y.CopyI([]torch.Tensor{x.Relu(), x.Neg()}[n%2]) }, "aten::copy_"},
		"what it read": {func(_ int, x, y, _ torch.Tensor) { y.CopyI(x.AddScalar(x.Sum().Item())) }, "read elements"},
	} {
		var err error
		torch.Scope(func() {
			x, y, other := torch.RandN([]int64{2}, false), torch.RandN([]int64{2}, false), torch.RandN([]int64{2}, false)
			round := 0
			recording := (&tape.Tape{}).Record(func() { torch.Scope(func() { c.work(round, x, y, other) }) })
			defer recording.Free()
			err = torch.Try(func() {
				for round = range 4 {
					x.CopyI(other.AddScalar(float64(round)))
					recording.Replay()
				}
			})
		})
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if n := torch.Live(); n != 0 {
		t.Errorf("%d tensors are left", n)
	}
}

func gradient(x torch.Tensor) torch.Tensor {
	leaf := x.Detach().Clone().SetRequiresGrad(true)
	return torch.Grad([]torch.Tensor{leaf.Square().Sum()}, []torch.Tensor{leaf})[0]
}
