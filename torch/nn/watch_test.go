package nn_test

import (
	"slices"
	"testing"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// A watcher sees every module of every chain under its key, in order, and what it returns goes on; without it all is as before.
func TestWatch(t *testing.T) {
	torch.Scope(func() {
		double := nn.Functional(func(x torch.Tensor) torch.Tensor { return x.MulScalar(2) })
		inner := nn.Sequential(double, double)
		net := nn.Sequential(double, inner)
		defer net.Free()
		x := torch.Ones([]int64{1}, false)
		var seen []string
		nn.Watch(net, func(name string, m nn.Module, x torch.Tensor) torch.Tensor {
			seen = append(seen, name)
			if name == "1.1" {
				return x.AddScalar(1)
			}
			return m.Forward(x)
		})
		if got := net.Forward(x).Item(); got != 5 {
			t.Errorf("watched, the chain makes %g of 1, want 2·2 + 1", got)
		}
		if want := []string{"0", "1", "1.0", "1.1"}; !slices.Equal(seen, want) {
			t.Errorf("saw %q, want %q", seen, want)
		}
		nn.Watch(net, nil)
		if got := net.Forward(x).Item(); got != 8 || len(seen) != 4 {
			t.Errorf("no longer watched, the chain makes %g of 1, want 8, and %d calls were seen, want 4", got, len(seen))
		}
	})
}
