package analysis

import (
	"math"
	"testing"

	"l2ul/torch"
	"l2ul/torch/nn"
)

func TestChange(t *testing.T) {
	scoped(t, func() {
		before, delta, anchor := flat(golden(t, "weights.before")), flat(golden(t, "weights.delta")), flat(golden(t, "weights.anchor"))
		got := change("x", before.Square().Sum().Item(), delta)
		a := where(delta, anchor)
		values := []float64{got.Change, *got.Relative, got.RMS, a.Mean, a.Median, a.Below, a.At, a.Above, a.BelowValues, a.AtValues, a.AboveValues}
		for i, want := range numbers(t, "weights.change") {
			near(t, "value "+string(rune('a'+i)), values[i], want, 1e-12)
		}
		if zero := change("x", 0, delta); zero.Relative != nil {
			t.Error("a tensor that was zero changed by a multiple of itself")
		}
	})
}

// A known change of one layer is found there and in the total, and Ω of other layers does not matter.
func TestWeights(t *testing.T) {
	scoped(t, func() {
		before, after := network(t, 0), network(t, 0)
		s := subject(t, before, after)
		params := after.Root().NamedParameters()
		var omega torch.Tensor
		torch.NoGrad(func() {
			w := params[0].Tensor
			w.AddI(w.OnesLike(), 0.5)
			omega = w.Detach().Abs().Clone()
		})
		s.Importance = []nn.Named{{Name: params[0].Name, Tensor: omega}}
		f := run(t, "weights", s)
		w := f.Data.(*Weights)
		want := 0.5 * math.Sqrt(float64(params[0].Tensor.Numel()))
		near(t, "change of the first tensor", w.Tensors[0].Change, want, 1e-6)
		near(t, "rms", w.Tensors[0].RMS, 0.5, 1e-6)
		near(t, "change of all", w.Total.Change, want, 1e-6)
		if w.Tensors[1].Change != 0 || w.Tensors[1].Anchor != nil || w.Tensors[0].Anchor == nil || w.Total.Anchor != nil || len(f.Pictures) != 2 {
			t.Errorf("%+v, %d pictures", w.Tensors[:2], len(f.Pictures))
		}
		near(t, "share where all changed alike", w.Tensors[0].Anchor.Below, w.Tensors[0].Anchor.BelowValues, 1e-5)
	})
}
