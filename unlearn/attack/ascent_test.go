package attack

import (
	"testing"

	"l2ul/torch"
)

// What the attack climbs has the gradient that autograd finds, to the bit.
func TestClimb(t *testing.T) {
	err := torch.Run(torch.CPU, func() error {
		torch.ManualSeed(1)
		for _, scale := range []float64{1e-3, 1, 30, 1e4} {
			for _, targeted := range []bool{true, false} {
				logits := torch.RandN([]int64{33, 10}, false).MulScalar(scale)
				y := torch.Rand([]int64{33}, false).MulScalar(10).CastTo(torch.Long)
				a := &ascent{options: &Options{Targeted: targeted}}
				got := climb(logits, a.towards(y, 10))
				leaf := logits.Detach().SetRequiresGrad(true)
				gain := leaf.CrossEntropy(y, torch.Tensor{}, torch.ReduceSum, -100)
				if targeted {
					gain = gain.Neg()
				}
				if want := torch.Grad([]torch.Tensor{gain}, []torch.Tensor{leaf})[0]; !torch.Equal(got, want) {
					t.Errorf("logits of size %g, targeted %t: differs by %g", scale, targeted, got.Sub(want, 1).Abs().Max().Item())
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
