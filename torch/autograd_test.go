package torch

import (
	"math"
	"testing"
)

// TestGradients compares autograd with central differences in float64, for every input of each operation.
func TestGradients(t *testing.T) {
	wave := func(scale, phase float64) func(int) float64 {
		return func(i int) float64 { return scale*math.Sin(1.7*float64(i)+phase) + 0.05*float64(i%7) }
	}
	one, two := []int64{1, 1}, []int64{2, 2}
	classes := []int64{1, 0, 2}
	for _, c := range []struct {
		name   string
		inputs [][]int64
		f      func(in []Tensor) Tensor
	}{
		{"conv2d", [][]int64{{2, 2, 4, 4}, {3, 2, 3, 3}, {3}}, func(in []Tensor) Tensor {
			return in[0].Conv2d(in[1], in[2], two, one, one, 1)
		}},
		{"conv2d in groups", [][]int64{{1, 4, 3, 3}, {4, 2, 2, 2}}, func(in []Tensor) Tensor {
			return in[0].Conv2d(in[1], Tensor{}, one, []int64{0, 0}, one, 2)
		}},
		{"batch_norm, batch statistics", [][]int64{{3, 2, 2, 2}, {2}, {2}}, func(in []Tensor) Tensor {
			return in[0].BatchNorm(in[1], in[2], Tensor{}, Tensor{}, true, 0.1, 1e-5)
		}},
		{"batch_norm, running statistics", [][]int64{{3, 2, 2, 2}, {2}, {2}}, func(in []Tensor) Tensor {
			return in[0].BatchNorm(in[1], in[2], FromSlice([]float64{.1, .2}), FromSlice([]float64{1, 2}), false, 0.1, 1e-5)
		}},
		{"linear", [][]int64{{3, 4}, {2, 4}, {2}}, func(in []Tensor) Tensor { return in[0].Linear(in[1], in[2]) }},
		{"cross_entropy", [][]int64{{3, 4}}, func(in []Tensor) Tensor {
			return in[0].CrossEntropy(FromSlice(classes), FromSlice([]float64{1, 2, .5, 1}), ReduceMean, -100)
		}},
		{"nll of log_softmax", [][]int64{{3, 4}}, func(in []Tensor) Tensor {
			return in[0].LogSoftmax(1).NllLoss(FromSlice(classes), Tensor{}, ReduceNone, 0)
		}},
		{"max_pool2d", [][]int64{{1, 2, 5, 5}}, func(in []Tensor) Tensor { return in[0].MaxPool2d([]int64{3, 3}, two, one, one, true) }},
		{"avg_pool2d", [][]int64{{1, 2, 4, 4}}, func(in []Tensor) Tensor { return in[0].AvgPool2d(two, two, one) }},
		{"adaptive_avg_pool2d", [][]int64{{1, 2, 5, 4}}, func(in []Tensor) Tensor { return in[0].AdaptiveAvgPool2d([]int64{2, 3}) }},
		{"relu and friends", [][]int64{{2, 3}}, func(in []Tensor) Tensor {
			return in[0].Relu().Add(in[0].LeakyRelu(0.1), 2).Mul(in[0].Sigmoid()).Sub(in[0].Tanh().Square(), 1)
		}},
		{"powers", [][]int64{{2, 3}}, func(in []Tensor) Tensor {
			return in[0].Square().AddScalar(1).Log().Exp().Sqrt().Pow(1.5).DivScalar(3).Div(in[0].Abs().AddScalar(2))
		}},
		{"matrices", [][]int64{{2, 3}, {3, 2}}, func(in []Tensor) Tensor {
			return MM(in[0], in[1]).MatMul(in[0]).Softmax(-1).SumDim([]int64{1}, true).Add(in[1].Transpose(0, 1).MeanDim([]int64{1}, true), -1)
		}},
		{"shapes", [][]int64{{2, 3}, {2, 3}}, func(in []Tensor) Tensor {
			s := Stack(in, 1).Flatten(0, 1).Permute(1, 0).Unsqueeze(0).Squeeze(0)
			return Cat([]Tensor{s.Narrow(1, 1, 2), s.IndexSelect(1, NewTensor([]int{3, 0})), Where(s.GtScalar(0), s, s.Neg())}, 1).Pad([]int64{1, 0}, 2).Reshape(-1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inScope(t, func() {
				in := make([]Tensor, len(c.inputs))
				for i, shape := range c.inputs {
					in[i] = floats(shape, wave(1, float64(i)+0.3)).SetRequiresGrad(true)
				}
				y := c.f(in)
				weights := floats(y.Shape(), wave(0.5, 9))
				grads := VectorJacobian([]Tensor{y}, []Tensor{weights}, in, false)
				const h = 1e-6
				for i, x := range in {
					got := ToSlice[float64](grads[i])
					flat := x.Detach().View(-1)
					for k := range got {
						at := func(d float64) (v float64) {
							Scope(func() {
								NoGrad(func() {
									e := flat.Select(0, int64(k))
									old := e.Item()
									e.FillI(old + d)
									v = c.f(in).Mul(weights).Sum().Item()
									e.FillI(old)
								})
							})
							return v
						}
						if want := (at(h) - at(-h)) / (2 * h); math.Abs(got[k]-want) > 1e-6*(1+math.Abs(want)) {
							t.Errorf("input %d, element %d: gradient %v, differences %v", i, k, got[k], want)
						}
					}
				}
			})
		})
	}
}

func TestGrad(t *testing.T) {
	inScope(t, func() {
		x, unused := FromSlice([]float32{1, 2}).SetRequiresGrad(true), Ones([]int64{2}, true)
		square := x.Square()
		if square.IsLeaf() || !x.IsLeaf() || !square.RequiresGrad() {
			t.Error("x² is not recorded")
		}
		grads := Grad([]Tensor{square.Sum(), x.Sum()}, []Tensor{x, unused})
		wantSlice(t, "the gradient of two outputs", grads[0], float32(3), 5)
		if grads[1].Defined() || x.Grad().Defined() {
			t.Errorf("unused input: %v; accumulated: %v", grads[1], x.Grad())
		}
		x.Square().Sum().Backward()
		x.Square().Sum().Backward()
		wantSlice(t, "two backwards", x.Grad(), float32(4), 8)
		x.SetGrad(FromSlice([]float32{1, 1}))
		x.Sum().Backward()
		wantSlice(t, "a gradient on top of one that was set", x.Grad(), float32(2), 2)
		x.SetGrad(Tensor{})
		if x.Grad().Defined() {
			t.Error("the gradient is not cleared")
		}
		y := x.Square()
		seed := FromSlice([]float32{10, 100})
		for range 2 {
			wantSlice(t, "a retained graph", VectorJacobian([]Tensor{y}, []Tensor{seed}, []Tensor{x}, true)[0], float32(20), 400)
		}
		VectorJacobian([]Tensor{y}, []Tensor{seed}, []Tensor{x}, false)
		wantError(t, Native, "Grad", func() { VectorJacobian([]Tensor{y}, []Tensor{seed}, []Tensor{x}, false) }, "a second time")
		var kept Tensor
		Scope(func() {
			z := x.MulScalar(3)
			kept = KeepOne(z.Square().Sum())
		})
		kept.Backward() // z's handle is gone, its value is not
		wantSlice(t, "a gradient through a scope that ended", x.Grad(), float32(18), 36)
		NoGrad(func() {
			if x.Square().RequiresGrad() {
				t.Error("NoGrad records")
			}
			x.FillI(5) // a leaf may be changed here
		})
		wantSlice(t, "a detached copy", x.Detach(), float32(5), 5)
		if x.Detach().RequiresGrad() || x.SetRequiresGrad(false).RequiresGrad() {
			t.Error("requires grad")
		}
	})
}

func TestAutocast(t *testing.T) {
	inScope(t, func() {
		x := Ones([]int64{1, 2, 4, 4}, false)
		w := Full([]int64{3, 2, 1, 1}, 1, true)
		one := []int64{1, 1}
		conv := func() Tensor { return x.Conv2d(w, Tensor{}, one, []int64{0, 0}, one, 1) }
		set := func(v float64) { NoGrad(func() { w.FillI(v) }) }
		Autocast(BFloat16, func() {
			if d := conv().Dtype(); d != BFloat16 {
				t.Errorf("conv2d computes in %v", d)
			}
			if d := x.Exp().Dtype(); d != Float {
				t.Errorf("exp computes in %v", d)
			}
			Autocast(Half, func() {
				if d := conv().Dtype(); d != Half {
					t.Errorf("conv2d computes in %v inside", d)
				}
			})
			conv().CastTo(Float).Sum().Backward()
			if g := w.Grad(); g.Dtype() != Float || g.Select(0, 0).Select(0, 0).Item() != 16 {
				t.Errorf("the gradient is %v", g)
			}
		})
		if d := conv().Dtype(); d != Float {
			t.Errorf("conv2d computes in %v outside", d)
		}

		// The cache of cast weights lives inside the outermost Autocast only.
		value := func() float64 { return conv().CastTo(Float).Max().Item() }
		Autocast(BFloat16, func() {
			if v := value(); v != 2 {
				t.Errorf("with weights 1: %v", v)
			}
			set(5)
			if v := value(); v != 2 {
				t.Errorf("nothing was cached, so the test below shows nothing: %v", v)
			}
		})
		Autocast(BFloat16, func() {
			if v := value(); v != 10 {
				t.Errorf("with weights 5: %v, from a stale cache", v)
			}
		})
		_ = Try(func() { Autocast(BFloat16, func() { value(); Zeros([]int64{-1}, false) }) })
		set(7)
		Autocast(BFloat16, func() {
			if v := value(); v != 14 {
				t.Errorf("after an error: %v, from a stale cache", v)
			}
		})
	})
}
