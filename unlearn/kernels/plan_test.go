package kernels

import (
	"fmt"
	"math"
	"testing"

	"l2ul/torch"
)

var valueTypes = []torch.Dtype{torch.Float, torch.BFloat16}

// value makes images on the tests' device, channels-last, or vectors.
func value(dtype torch.Dtype, shape ...int64) torch.Tensor {
	t := there(torch.RandN(shape, false)).CastTo(dtype)
	if len(shape) == 4 {
		t = t.Contiguous(torch.ChannelsLast)
	}
	return t
}

// finished is Finish by libtorch's operators.
func finished(sum torch.Tensor, e Epilogue) torch.Tensor {
	v := sum.CastTo(torch.Float)
	if e.Bias.Defined() {
		shape := []int64{1, -1, 1, 1}
		v = v.Add(e.Bias.Reshape(shape[:v.Dim()]...), 1)
	}
	if e.Add.Defined() {
		v = v.Add(e.Add.CastTo(torch.Float), 1)
	}
	if e.Relu {
		v = v.Relu()
	}
	if e.Gate.Defined() {
		v = torch.Where(e.Gate.CastTo(torch.Float).GtScalar(0), v, v.ZerosLike())
	}
	return v.CastTo(sum.Dtype())
}

// Every combination of what may follow a sum, in shapes that fit packs of 16 bytes and in others, and of several blocks.
func TestFinish(t *testing.T) {
	for _, dtype := range valueTypes {
		for _, shape := range [][]int64{{2, 16, 5, 3}, {3, 5, 7, 2}, {1, 1, 1, 1}, {2, 3, 40, 41}, {4, 24, 9, 13}, {7, 10}, {5, 64}, {2, 0, 3, 3}, {0, 8, 3, 3}} {
			for name, layout := range layouts {
				run(t, func() {
					torch.ManualSeed(1)
					sum, add, gate := value(dtype, shape...), value(dtype, shape...), value(dtype, shape...)
					bias := there(torch.RandN(shape[1:2], false))
					for mask := range 12 {
						e := Epilogue{Relu: mask/4 == 1}
						if mask&1 != 0 {
							e.Bias = bias
						}
						if mask&2 != 0 {
							e.Add = add
						}
						if mask/4 == 2 {
							e.Gate = gate
						}
						want, out := finished(sum, e), value(dtype, shape...)
						if e.Add.Defined() {
							e.Add = layout(add)
						}
						if e.Gate.Defined() {
							e.Gate = layout(gate)
						}
						Finish(out, layout(sum), e)
						if !torch.Equal(out, want) {
							t.Errorf("%v %v %s, case %d: other values", dtype, shape, name, mask)
						}
					}
					// Sum and addend may be the output.
					out := sum.Clone()
					Finish(out, out, Epilogue{Add: out, Bias: bias})
					if !torch.Equal(out, finished(sum, Epilogue{Add: sum, Bias: bias})) {
						t.Errorf("%v %v: finishing in place differs", dtype, shape)
					}
				})
			}
		}
	}
}

// An output that starts in the middle of 16 bytes.
func TestFinishMisaligned(t *testing.T) {
	for _, dtype := range valueTypes {
		run(t, func() {
			memory := there(torch.Zeros([]int64{3 + 2*8*6*5}, false)).CastTo(dtype)
			out := memory.Narrow(0, 3, 2*8*6*5).View(2, 6, 5, 8).Permute(0, 3, 1, 2)
			sum := value(dtype, 2, 8, 6, 5)
			Finish(out, sum, Epilogue{Relu: true})
			if !torch.Equal(out, sum.Relu()) || memory.Narrow(0, 0, 3).Abs().Max().Item() != 0 {
				t.Errorf("%v: other values", dtype)
			}
		})
	}
}

// NaN goes through, so that broken weights show, and so does a gradient where the ReLU's own value was NaN.
func TestFinishLetsNaNThrough(t *testing.T) {
	for _, dtype := range valueTypes {
		run(t, func() {
			nan, one := value(dtype, 1, 4, 2, 2), value(dtype, 1, 4, 2, 2)
			nan.FillI(math.NaN())
			one.FillI(1)
			for name, e := range map[string]Epilogue{"relu": {Relu: true}, "add": {Add: nan, Relu: true}, "gate": {Gate: nan}} {
				out, sum := one.EmptyLike(), nan
				if name != "relu" {
					sum = one
				}
				Finish(out, sum, e)
				if got := out.CastTo(torch.Float).Sum().Item(); math.IsNaN(got) == (name == "gate") {
					t.Errorf("%v %s: the sum is %v", dtype, name, got)
				}
			}
		})
	}
}

// bfloat16 results are rounded as libtorch rounds, at its edges too.
func TestFinishRounds(t *testing.T) {
	run(t, func() {
		for _, sum := range []float32{1 + 1.0/256, 1 + 3.0/256, -1 - 1.0/256, 3.4e38, 1e-40, float32(math.Inf(-1)), 0} {
			in := there(torch.FromSlice([]float32{sum}, 1, 1)).CastTo(torch.BFloat16)
			for _, bias := range []float32{0, 1.0 / 512, -1.0 / 512, 3e38, 1e-41} {
				b := there(torch.FromSlice([]float32{bias}))
				out := in.EmptyLike()
				Finish(out, in, Epilogue{Bias: b})
				if want := finished(in, Epilogue{Bias: b}); !torch.Equal(out, want) {
					t.Errorf("%v + %v is %v, want %v", sum, bias, out.Item(), want.Item())
				}
			}
		}
	})
}

func TestMaxPool(t *testing.T) {
	for _, dtype := range valueTypes {
		run(t, func() {
			torch.ManualSeed(4)
			// The sum of a place's gradients is rounded once here, and in libtorch perhaps between terms.
			bound := map[torch.Dtype]float64{torch.Float: 1e-6, torch.BFloat16: 1e-2}[dtype]
			for _, c := range []struct{ channels, h, w, kernel, stride, padding int64 }{
				{11, 8, 8, 3, 2, 1}, {16, 7, 9, 2, 2, 0}, {8, 5, 5, 3, 1, 1}, {64, 33, 34, 3, 2, 1}, {11, 6, 4, 3, 3, 0}, {1, 1, 1, 1, 1, 0},
			} {
				x := value(dtype, 2, c.channels, c.h, c.w)
				x.Select(0, 1).ClampI(-0.5, 0.5) // equal values
				x = x.SetRequiresGrad(true)
				want := x.MaxPool2d(pair(c.kernel), pair(c.stride), pair(c.padding), pair(1), false)
				grad := value(dtype, want.Shape()...)
				wantGrad := torch.VectorJacobian([]torch.Tensor{want}, []torch.Tensor{grad}, []torch.Tensor{x}, false)[0]
				x, want = x.Detach(), want.Detach()
				pool := Pool{pair(c.kernel), pair(c.stride), pair(c.padding)}
				got, code, back := want.EmptyLike(), want.EmptyLike().CastTo(torch.Byte), x.EmptyLike()
				pool.Run(got, code, x)
				pool.Gradient(back, grad, code, torch.Tensor{})
				if !torch.Equal(got, want) || largest(back, wantGrad) > bound {
					t.Errorf("%v %+v: values %t, gradient differs by %g", dtype, c, torch.Equal(got, want), largest(back, wantGrad))
				}
				gate := value(dtype, x.Shape()...)
				pool.Gradient(back, grad, code, gate)
				if closed := torch.Where(gate.GtScalar(0), wantGrad, wantGrad.ZerosLike()); largest(back, closed) > bound {
					t.Errorf("%v %+v: the gate does not close", dtype, c)
				}
				lowest := x.Clone()
				lowest.FillI(math.Inf(-1))
				pool.Run(got, code, lowest)
				pool.Gradient(back, grad, code, torch.Tensor{})
				sum := func(t torch.Tensor) float64 { return t.CastTo(torch.Double).Sum().Item() }
				if math.Abs(sum(back)-sum(grad)) > 1e3*bound {
					t.Errorf("%v %+v: a gradient is lost in padding", dtype, c)
				}
			}
			x := value(dtype, 1, 16, 4, 4)
			x.Select(2, 1).FillI(math.NaN())
			out, code := x.EmptyLike(), x.EmptyLike().CastTo(torch.Byte)
			Pool{pair(3), pair(1), pair(1)}.Run(out, code, x)
			if !math.IsNaN(out.CastTo(torch.Float).Sum().Item()) {
				t.Error("pooling hides NaN")
			}
			none := value(dtype, 0, 16, 4, 4)
			Pool{pair(3), pair(1), pair(1)}.Run(none.Clone(), none.CastTo(torch.Byte), none) // no images: nothing to do
		})
	}
}

func TestPlanErrors(t *testing.T) {
	run(t, func() {
		x, small := value(torch.Float, 2, 16, 6, 6), value(torch.Float, 2, 16, 5, 6)
		half, double := x.CastTo(torch.Half), x.CastTo(torch.Double)
		vector := there(torch.Zeros([]int64{16}, false))
		out, code, pool := x.EmptyLike(), x.EmptyLike().CastTo(torch.Byte), Pool{pair(3), pair(1), pair(1)}
		memory := there(torch.Zeros([]int64{50}, false))
		for want, call := range map[string]func(){
			"out has dtype Half; it must be Float or BFloat16": func() { Finish(half.EmptyLike(), half, Epilogue{}) },
			"sum has dtype Double; it must be Float":           func() { Finish(out, double, Epilogue{}) },
			"add has dtype BFloat16; it must be Float":         func() { Finish(out, x, Epilogue{Add: x.CastTo(torch.BFloat16)}) },
			"sum has shape [2, 16, 5, 6], out [2, 16, 6, 6]":   func() { Finish(out, small, Epilogue{}) },
			"gate has shape":                           func() { Finish(out, x, Epilogue{Gate: small}) },
			"bias has shape [16, 1]; out needs [16]":   func() { Finish(out, x, Epilogue{Bias: vector.Reshape(16, 1)}) },
			"bias has shape [15]":                      func() { Finish(out, x, Epilogue{Bias: vector.Narrow(0, 0, 15)}) },
			"bias has dtype BFloat16":                  func() { Finish(out, x, Epilogue{Bias: vector.CastTo(torch.BFloat16)}) },
			"relu and gate exclude each other":         func() { Finish(out, x, Epilogue{Relu: true, Gate: x}) },
			"it must be [n, C, H, W], channels-last":   func() { Finish(x.Contiguous(torch.Contiguous), x, Epilogue{}) },
			"out has shape [2, 16, 36]":                func() { Finish(x.Flatten(2, -1), x.Flatten(2, -1), Epilogue{}) },
			"sum shares memory with out":               func() { Finish(memory.Narrow(0, 0, 48).View(3, 16), memory.Narrow(0, 1, 48).View(3, 16), Epilogue{}) },
			"code has dtype Float":                     func() { pool.Run(x.EmptyLike(), x.EmptyLike(), x) },
			"x has dtype Half":                         func() { pool.Run(half.EmptyLike(), code, half) },
			"out has dtype BFloat16; it must be Float": func() { pool.Run(x.CastTo(torch.BFloat16), code, x) },
			"does not fit kernel [3, 3], stride [1, 1]": func() {
				pool.Run(value(torch.Float, 2, 16, 9, 6), value(torch.Float, 2, 16, 9, 6).CastTo(torch.Byte), x)
			},
			"more than 256 places": func() { Pool{pair(17), pair(1), pair(8)}.Run(out, code, x) },
			"code has shape":       func() { pool.Gradient(out, x, small.CastTo(torch.Byte), torch.Tensor{}) },
			"gate has dtype Half":  func() { pool.Gradient(out, x, code, half) },
			"x is not channels-last": func() {
				pool.Run(x.EmptyLike(), x.EmptyLike().CastTo(torch.Byte), x.Contiguous(torch.Contiguous))
			},
		} {
			refused(t, want, call)
		}
	})
}

func TestPlanOperatorsHaveNoDerivative(t *testing.T) {
	run(t, func() {
		x := value(torch.Float, 1, 8, 4, 4)
		code, pool := x.EmptyLike().CastTo(torch.Byte), Pool{pair(3), pair(1), pair(1)}
		pool.Run(x.EmptyLike(), code, x)
		tracked := x.Detach().SetRequiresGrad(true)
		for name, call := range map[string]func(out torch.Tensor){
			"finish_":            func(out torch.Tensor) { Finish(out, tracked, Epilogue{}) },
			"max_pool_":          func(out torch.Tensor) { pool.Run(out, code.Clone(), tracked) },
			"max_pool_gradient_": func(out torch.Tensor) { pool.Gradient(out, tracked, code, torch.Tensor{}) },
		} {
			out := x.EmptyLike()
			call(out)
			refused(t, fmt.Sprint("derivative for l2ul::", name), func() { out.Sum().Backward() })
			// A tensor that backward needs is changed in between.
			w := x.Detach().SetRequiresGrad(true)
			saved := x.Clone()
			loss := w.Mul(saved).Sum()
			torch.NoGrad(func() { call(saved) })
			if err := torch.Try(loss.Backward); err == nil {
				t.Errorf("%s on a saved tensor: backward went through", name)
			}
		}
	})
}
