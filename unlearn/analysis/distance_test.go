package analysis

import (
	"math"
	"testing"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/data"
)

// linear classifies by logits w·x + b.
type linear struct {
	nn.Base
	layer *nn.LinearModule
}

func newLinear(seed int64, classes int64) *linear {
	torch.ManualSeed(seed)
	m := &linear{layer: nn.Linear(3*32*32, classes, true)}
	m.Child("layer", m.layer)
	return m
}

func (m *linear) Features(x torch.Tensor) torch.Tensor {
	return x.Contiguous(torch.Contiguous).Flatten(1, -1)
}
func (m *linear) Forward(x torch.Tensor) torch.Tensor { return m.layer.Forward(m.Features(x)) }

// The boundary of a linear classifier of two classes is at |logit difference| / ‖w₁ - w₀‖. What is found is the first rung above that, as
// long as the box of pixels is not in the way.
func TestDistanceOfALinearClassifier(t *testing.T) {
	scoped(t, func() {
		net := newLinear(5, 2)
		n := frozen(t, net)
		s := subject(t, n, n)
		s.Classes = []string{"a", "b"}
		x := torch.Full([]int64{4, 3, 32, 32}, 0.5, false)
		across := net.layer.Weight.Detach().Select(0, 1).Sub(net.layer.Weight.Detach().Select(0, 0), 1)
		length := across.Square().Sum().Sqrt().Item()
		var bias float64
		torch.NoGrad(func() {
			logits := matrix(net.Forward(x))
			bias = (logits[0][1] - logits[0][0]) / length
		})
		direction := across.DivScalar(length).View(3, 32, 32)
		want := []float64{0.05, 0.3, 1.1, 20}
		x = x.Contiguous(torch.Contiguous)
		for i, d := range want { // moved to this distance from the boundary
			x.Select(0, int64(i)).AddI(direction, d-bias)
		}
		found, err := s.nearest(t.Context(), n, x.Contiguous(torch.ChannelsLast), []int{0, 1, 2, 3}, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		step := math.Pow(2, 1.0/8)
		for i, d := range want[:3] {
			f := found[i]
			if f.Radius == nil || *f.Radius < d*(1-1e-5) || *f.Radius > d*step*1.02 {
				t.Errorf("image %d at %g of the boundary: found %v", i, d, orNone(f.Radius))
				continue
			}
			if *f.Norm > *f.Radius*(1+1e-5) || *f.Norm < d*(1-1e-5) || f.Class != 1 || *f.To != 0 {
				t.Errorf("image %d: norm %g inside %g, from class %d to %d", i, *f.Norm, *f.Radius, f.Class, *f.To)
			}
		}
		if found[3].Radius != nil || found[3].Norm != nil {
			t.Errorf("an image beyond the ladder was moved within %g", *found[3].Radius)
		}
		near(t, "median, the lower one", *median(found), *found[1].Norm, 0)
		if median(found[3:]) != nil {
			t.Error("the median of images that were not moved is a number")
		}
	})
}

func TestDistance(t *testing.T) {
	scoped(t, func() {
		s := subject(t, network(t, 0), network(t, 1))
		d := run(t, "distance", s).Data.(*Distances)
		if len(d.Curves) != 4 || len(d.Curves[0].Images) != 3 || len(d.Curves[3].Images) != 3 || d.Curves[0].Images[1].Index != 7 {
			t.Errorf("%+v", d.Curves)
		}
		again := run(t, "distance", s).Data.(*Distances)
		for i, c := range d.Curves {
			for j, image := range c.Images {
				if image.Norm != nil && *image.Norm != *again.Curves[i].Images[j].Norm {
					t.Errorf("%s %s, image %d: %g, and %g the second time", c.Split, c.Network, j, *image.Norm, *again.Curves[i].Images[j].Norm)
				}
			}
		}
		if reads := s.Meter.Reads()[data.PhaseAfter]; reads[data.PartRetain] != 0 {
			t.Errorf("reads: %v", reads)
		}
	})
}
