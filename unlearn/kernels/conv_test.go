package kernels

import (
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"l2ul/torch"
)

func images(n, c, h, w int64) torch.Tensor {
	return torch.RandN([]int64{n, c, h, w}, false).Contiguous(torch.ChannelsLast)
}

func pair(v int64) []int64 { return []int64{v, v} }

// largest is the largest difference, over the largest magnitude of want.
func largest(got, want torch.Tensor) float64 {
	return got.CastTo(torch.Double).Sub(want.CastTo(torch.Double), 1).Abs().Max().Item() / max(want.Abs().Max().Item(), 1e-30)
}

var opConvolutionBackward = torch.Define("aten::convolution_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)")

// convolution is a case: a convolution of [n, in, h, w] images.
type convolution struct {
	n, in, out, h, w, kernel, stride, padding int64
}

func (c convolution) size(in int64) int64 { return (in+2*c.padding-c.kernel)/c.stride + 1 }

// tensors of the case: x and the gradient of its output, weights, all Float.
func (c convolution) tensors() (x, grad, weight torch.Tensor) {
	x, grad = images(c.n, c.in, c.h, c.w), images(c.n, c.out, c.size(c.h), c.size(c.w))
	return x, grad, torch.RandN([]int64{c.out, c.in, c.kernel, c.kernel}, false)
}

// reference is what libtorch computes in float64, forward or the gradient by the input.
func (c convolution) reference(x, grad, weight torch.Tensor, back bool) torch.Tensor {
	x, grad, weight = x.CastTo(torch.Double), grad.CastTo(torch.Double), weight.CastTo(torch.Double)
	if !back {
		return x.Conv2d(weight, torch.Tensor{}, pair(c.stride), pair(c.padding), pair(1), 1)
	}
	got, _, _ := opConvolutionBackward.Three(grad, x, weight, nil, pair(c.stride), pair(c.padding), pair(1), false, pair(0), 1, []bool{true, false, false})
	return got
}

// ours is what Conv computes.
func (c convolution) ours(x, grad, weight torch.Tensor, tile int64, back bool, e Epilogue) torch.Tensor {
	return c.run(Conv{Tile: tile, Gradient: back}, x, grad, weight, e)
}

// run is what conv computes, once it has the geometry of the case.
func (c convolution) run(conv Conv, x, grad, weight torch.Tensor, e Epilogue) torch.Tensor {
	conv.Kernel, conv.Stride, conv.Padding = pair(c.kernel), pair(c.stride), pair(c.padding)
	back := conv.Gradient
	out, in := grad.EmptyLike(), x
	if back {
		out, in = x.EmptyLike(), grad
	}
	out.FillI(math.NaN())
	conv.Run(out, in, conv.Pack(weight), e)
	return out
}

func TestConv(t *testing.T) {
	bounds := map[int64]float64{0: 2e-6, 2: 4e-6, 4: 4e-5}
	run(t, func() {
		torch.ManualSeed(1)
		for _, c := range []convolution{
			{2, 64, 48, 9, 13, 3, 1, 1},
			{3, 8, 16, 4, 4, 3, 1, 1},
			{1, 16, 24, 2, 2, 3, 1, 1},
			{7, 24, 8, 5, 1, 3, 1, 2},
			{2, 32, 17, 11, 6, 3, 1, 0},
			{2, 3, 64, 32, 32, 3, 1, 1},
			{1, 3, 64, 33, 30, 7, 2, 3},
			{2, 40, 20, 8, 8, 3, 2, 1},
			{5, 16, 33, 7, 7, 1, 2, 0},
			{3, 1, 1, 1, 1, 3, 1, 1},
			{2, 20, 300, 3, 5, 1, 1, 0},
			{1, 9, 5, 10, 10, 2, 3, 1},
			{40, 8, 8, 12, 12, 3, 1, 1},
			{2, 272, 16, 6, 6, 3, 1, 1},
			{2, 5, 6, 9, 9, 5, 2, 0},
		} {
			x, grad, weight := c.tensors()
			for _, back := range []bool{false, true} {
				want := c.reference(x, grad, weight, back)
				for tile, bound := range bounds {
					depth := c.in
					if back {
						depth = c.out
					}
					if tile > 0 && (c.kernel != 3 || c.stride != 1 || depth%8 != 0) {
						continue
					}
					if d := largest(c.ours(x, grad, weight, tile, back, Epilogue{}), want); !(d <= bound) {
						t.Errorf("%+v, tile %d, gradient %t: differs by %g", c, tile, back, d)
					}
				}
			}
		}
	})
}

// Products of bfloat16. Taps summed directly are libtorch's products of rounded numbers; Winograd's algorithm rounds what it
// has transformed.
func TestConvHalf(t *testing.T) {
	round := func(v torch.Tensor) torch.Tensor { return v.CastTo(torch.BFloat16).CastTo(torch.Float) }
	run(t, func() {
		torch.ManualSeed(6)
		for _, c := range []convolution{
			{2, 64, 48, 9, 13, 3, 1, 1}, {5, 16, 40, 7, 7, 1, 2, 0}, {2, 40, 24, 8, 8, 3, 2, 1}, {2, 2, 6, 9, 9, 5, 2, 0}, {1, 272, 16, 2, 2, 3, 1, 1}, {30, 8, 16, 4, 4, 3, 1, 2},
		} {
			x, grad, weight := c.tensors()
			for _, back := range []bool{false, true} {
				for tile, bound := range map[int64]float64{0: 2e-6, 2: 2e-2, 4: 8e-2} {
					if tile > 0 && (c.kernel != 3 || c.stride != 1) {
						continue
					}
					want := c.reference(x, grad, weight, back)
					if tile == 0 {
						want = c.reference(round(x), round(grad), round(weight), back)
					}
					got := c.run(Conv{Tile: tile, Gradient: back, Half: true}, x, grad, weight, Epilogue{})
					if d := largest(got, want); !(d <= bound) {
						t.Errorf("%+v, tile %d, gradient %t: differs by %g", c, tile, back, d)
					}
					if d := largest(got, c.reference(x, grad, weight, back)); d < 1e-5 {
						t.Errorf("%+v, tile %d, gradient %t: nothing was rounded", c, tile, back)
					}
				}
			}
		}
		// Neither half-way cases nor NaN and infinity are lost in rounding.
		c := convolution{1, 2, 16, 1, 5, 1, 1, 0}
		x, grad, weight := c.tensors()
		weight.FillI(0)
		weight.Select(1, 0).FillI(1)
		for i, v := range []float64{1 + 1.0/256, 1 + 3.0/256, math.MaxFloat32, math.Inf(-1), math.NaN()} {
			x.Select(3, int64(i)).FillI(v)
		}
		x.Select(1, 1).FillI(0)
		got := torch.ToSlice[float32](c.run(Conv{Half: true}, x, grad, weight, Epilogue{}).Select(1, 0))
		for i, want := range []float64{1, 1 + 4.0/256, math.Inf(1), math.Inf(-1), math.NaN()} {
			if v := float64(got[i]); v != want && !(math.IsNaN(v) && math.IsNaN(want)) {
				t.Errorf("%g rounds to %g, want %g", x.Select(3, int64(i)).Select(1, 0).Item(), v, want)
			}
		}
		refused(t, "bfloat16 is multiplied in pairs", func() { Conv{Half: true}.Pack(torch.RandN([]int64{4, 5, 3, 3}, false)) })
	})
}

// Every combination of what may follow a sum, against the same in libtorch's operators.
func TestConvEpilogue(t *testing.T) {
	run(t, func() {
		torch.ManualSeed(2)
		c := convolution{3, 16, 20, 6, 7, 3, 1, 1}
		x, grad, weight := c.tensors()
		bias, add, gate := torch.RandN([]int64{c.out}, false), grad.Clone(), images(c.n, c.out, c.h, c.w)
		for tile := range map[int64]bool{0: true, 2: true, 4: true} {
			plain := c.ours(x, grad, weight, tile, false, Epilogue{})
			for mask := range 12 {
				e, want := Epilogue{}, plain
				if mask&1 != 0 {
					e.Bias, want = bias, want.Add(bias.Reshape(-1, 1, 1), 1)
				}
				if mask&2 != 0 {
					e.Add, want = add, want.Add(add, 1)
				}
				switch mask / 4 {
				case 1:
					e.Relu, want = true, want.Relu()
				case 2:
					e.Gate, want = gate, torch.Where(gate.GtScalar(0), want, want.ZerosLike())
				}
				if got := c.ours(x, grad, weight, tile, false, e); !torch.Equal(got, want) {
					t.Errorf("tile %d, %+v: differs by %g", tile, e, largest(got, want))
				}
			}
			// The addend may be the output.
			out := add.Clone()
			conv := Conv{Kernel: pair(3), Stride: pair(1), Padding: pair(1), Tile: tile}
			conv.Run(out, x, conv.Pack(weight), Epilogue{Add: out})
			if !torch.Equal(out, plain.Add(add, 1)) {
				t.Errorf("tile %d: adding in place differs", tile)
			}
		}
	})
}

// An image's bits depend neither on its company nor on the number of threads.
func TestConvBitsAreTheImagesOwn(t *testing.T) {
	defer torch.SetNumThreads(2)
	c := convolution{13, 32, 40, 6, 10, 3, 1, 1}
	for _, conv := range []Conv{{Tile: 0}, {Tile: 2}, {Tile: 4}, {Tile: 0, Half: true}, {Tile: 4, Half: true}} {
		run(t, func() {
			torch.ManualSeed(3)
			x, grad, weight := c.tensors()
			want := c.run(conv, x, grad, weight, Epilogue{})
			for _, threads := range []int{1, 2, 3} {
				torch.SetNumThreads(threads)
				torch.Scope(func() {
					for _, n := range []int64{1, 2, 13} {
						part := convolution{n, c.in, c.out, c.h, c.w, 3, 1, 1}
						from := 13 - n
						got := part.run(conv, x.Narrow(0, from, n), grad.Narrow(0, from, n), weight, Epilogue{})
						if !torch.Equal(got, want.Narrow(0, from, n)) {
							t.Errorf("%+v, %d threads, %d images: other bits", conv, threads, n)
						}
					}
				})
			}
		})
	}
}

// Processors without AVX-512, or without AVX2, compute convolutions in loops of their own: the tests hold there too, and bits
// are the same.
func TestConvOnOtherProcessors(t *testing.T) {
	digests := map[string]string{}
	for _, capability := range []string{"default", "avx2", "avx512"} {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^(TestConv|TestConvHalf|TestConvEpilogue|TestConv2d|TestConvDigest)$", "-test.v")
		child.Env = append(os.Environ(), "ATEN_CPU_CAPABILITY="+capability, "L2UL_DIGEST=1")
		out, err := child.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", capability, err, out)
		}
		_, digest, _ := strings.Cut(string(out), "digest ")
		digests[capability], _, _ = strings.Cut(digest, "\n")
	}
	if d := digests["default"]; len(d) != 64 || digests["avx2"] != d || digests["avx512"] != d {
		t.Errorf("bits: %v", digests)
	}
}

// TestConvDigest tells TestConvOnOtherProcessors a hash of what convolutions compute.
func TestConvDigest(t *testing.T) {
	if os.Getenv("L2UL_DIGEST") == "" {
		t.Skip("it is for the children of TestConvOnOtherProcessors")
	}
	hash := sha256.New()
	run(t, func() {
		torch.Seeded(torch.NewGenerator(4), func() {
			for _, c := range []convolution{{3, 64, 48, 7, 9, 3, 1, 1}, {5, 16, 40, 7, 7, 1, 2, 0}, {2, 40, 24, 8, 8, 3, 2, 1}, {30, 8, 16, 4, 4, 3, 1, 2}} {
				n, size := []int64{c.n, c.in, c.h, c.w}, []int64{c.n, c.out, c.size(c.h), c.size(c.w)}
				// Uniform numbers are the same on every processor; normal ones are not.
				draw := func(shape []int64) torch.Tensor {
					return torch.Rand(shape, false).AddScalar(-0.5).Contiguous(torch.ChannelsLast)
				}
				x, grad, weight := draw(n), draw(size), torch.Rand([]int64{c.out, c.in, c.kernel, c.kernel}, false).AddScalar(-0.5)
				for _, conv := range []Conv{{}, {Half: true}, {Gradient: true}, {Gradient: true, Half: true}, {Tile: 2}, {Tile: 4, Half: true}} {
					if conv.Tile == 0 || c.kernel == 3 && c.stride == 1 {
						hash.Write(c.run(conv, x, grad, weight, Epilogue{}).Bytes())
					}
				}
				weight.SetRequiresGrad(true)
				for _, tile := range []int64{0, 4} {
					if tile == 0 && c.in%16 == 0 && c.out%16 == 0 || tile > 0 && c.kernel == 3 && c.stride == 1 {
						y := Conv2d(x, weight, tile, pair(c.stride), pair(c.padding))
						hash.Write(torch.VectorJacobian([]torch.Tensor{y}, []torch.Tensor{grad}, []torch.Tensor{weight}, false)[0].Bytes())
					}
				}
			}
		})
	})
	fmt.Printf("digest %x\n", hash.Sum(nil))
}

// Forward and both gradients of the trained form, against libtorch in float64.
func TestConv2d(t *testing.T) {
	bounds := map[int64]float64{0: 3e-6, 2: 5e-5, 4: 5e-5}
	run(t, func() {
		torch.ManualSeed(5)
		for _, c := range []convolution{
			{3, 16, 24, 9, 6, 3, 1, 1},
			{2, 64, 64, 16, 16, 3, 1, 1},
			{5, 8, 8, 2, 2, 3, 1, 1},
			{1, 40, 16, 7, 7, 3, 1, 0},
			{700, 8, 16, 4, 4, 3, 1, 2},
			{3, 32, 48, 8, 8, 3, 2, 1},
			{2, 16, 16, 17, 20, 1, 2, 0},
			{40, 48, 32, 2, 2, 3, 1, 1},
			{2, 64, 80, 12, 5, 1, 1, 0},
			{1, 16, 32, 9, 10, 5, 3, 4},
			{4, 16, 16, 1, 1, 3, 1, 1},
		} {
			for _, tile := range []int64{0, 2, 4} {
				if tile == 0 && (c.in%16 != 0 || c.out%16 != 0) || tile > 0 && (c.kernel != 3 || c.stride != 1) {
					continue
				}
				for _, format := range []torch.MemoryFormat{torch.Contiguous, torch.ChannelsLast} {
					x, grad, weight := c.tensors()
					weight = weight.Contiguous(format)
					double := []torch.Tensor{x.CastTo(torch.Double).SetRequiresGrad(true), weight.CastTo(torch.Double).SetRequiresGrad(true)}
					want := double[0].Conv2d(double[1], torch.Tensor{}, pair(c.stride), pair(c.padding), pair(1), 1)
					wantBack := torch.VectorJacobian([]torch.Tensor{want}, []torch.Tensor{grad.CastTo(torch.Double)}, double, false)
					single := []torch.Tensor{x.SetRequiresGrad(true), weight.SetRequiresGrad(true)}
					got := Conv2d(x, weight, tile, pair(c.stride), pair(c.padding))
					back := torch.VectorJacobian([]torch.Tensor{got}, []torch.Tensor{grad}, single, false)
					for i, d := range []float64{largest(got, want), largest(back[0], wantBack[0]), largest(back[1], wantBack[1])} {
						if !(d <= bounds[tile]) {
							t.Errorf("%+v, tile %d, %v: %s differs by %g", c, tile, format, []string{"output", "gradient by x", "gradient by weights"}[i], d)
						}
					}
				}
			}
		}
		c := convolution{1, 16, 32, 6, 6, 3, 1, 1}
		x, _, weight := c.tensors()
		// No images have no gradient, whatever the last call left in memory.
		weight.SetRequiresGrad(true)
		for _, tile := range []int64{0, 4} {
			none := torch.Grad([]torch.Tensor{Conv2d(x.Narrow(0, 0, 0).Contiguous(torch.ChannelsLast), weight, tile, pair(1), pair(1)).Sum()}, []torch.Tensor{weight})[0]
			if none.Abs().Max().Item() != 0 {
				t.Error("an empty batch has a gradient")
			}
		}
		weight = weight.Detach()
		for want, call := range map[string]func(){
			"both channels multiples of 8":  func() { Conv2d(x, weight.Narrow(0, 0, 12), 4, pair(1), pair(1)) },
			"both channels multiples of 16": func() { Conv2d(x, weight.Narrow(0, 0, 8), 0, pair(1), pair(1)) },
			"tile is 3":                     func() { Conv2d(x, weight, 3, pair(1), pair(1)) },
			"padding of at most 2":          func() { Conv2d(x, weight, 4, pair(1), pair(3)) },
			"stride 1 and":                  func() { Conv2d(x, weight, 4, pair(2), pair(1)) },
			"may be at most 16777216":       func() { Conv2d(x, weight, 0, pair(1), pair(math.MaxInt64)) },
			"no image would be left":        func() { Conv2d(x.Narrow(2, 0, 1).Contiguous(torch.ChannelsLast), weight, 0, pair(1), pair(0)) },
			"x is not channels-last":        func() { Conv2d(x.Contiguous(torch.Contiguous), weight, 4, pair(1), pair(1)) },
		} {
			refused(t, want, call)
		}
	})
}

// Height and width are told apart, and a kernel of one row or column has its taps where the weight has them.
func TestConvOfOddShapes(t *testing.T) {
	run(t, func() {
		torch.ManualSeed(7)
		for _, c := range []struct{ kernel, stride, padding []int64 }{
			{[]int64{3, 1}, []int64{1, 1}, []int64{1, 0}},
			{[]int64{1, 3}, []int64{2, 1}, []int64{0, 2}},
			{[]int64{2, 3}, []int64{1, 3}, []int64{1, 0}},
			{[]int64{3, 3}, []int64{2, 1}, []int64{0, 1}},
		} {
			x := images(3, 32, 7, 10)
			weight := torch.RandN([]int64{48, 32, c.kernel[0], c.kernel[1]}, false)
			// The same numbers, lying as the transposed kernel's do.
			turned := weight.Transpose(2, 3).Contiguous(torch.Contiguous).Transpose(2, 3)
			y := x.Conv2d(weight, torch.Tensor{}, c.stride, c.padding, pair(1), 1)
			grad := images(y.Shape()[0], y.Shape()[1], y.Shape()[2], y.Shape()[3])
			double := []torch.Tensor{x.CastTo(torch.Double).SetRequiresGrad(true), weight.CastTo(torch.Double).SetRequiresGrad(true)}
			want := double[0].Conv2d(double[1], torch.Tensor{}, c.stride, c.padding, pair(1), 1)
			wantBack := torch.VectorJacobian([]torch.Tensor{want}, []torch.Tensor{grad.CastTo(torch.Double)}, double, false)
			for name, w := range map[string]torch.Tensor{"contiguous": weight, "turned": turned, "channels-last": weight.Contiguous(torch.ChannelsLast)} {
				single := []torch.Tensor{x.Detach().SetRequiresGrad(true), w.Detach().SetRequiresGrad(true)}
				got := Conv2d(single[0], single[1], 0, c.stride, c.padding)
				back := torch.VectorJacobian([]torch.Tensor{got}, []torch.Tensor{grad}, single, false)
				frozen := Conv{Kernel: c.kernel, Stride: c.stride, Padding: c.padding}
				out := y.EmptyLike()
				frozen.Run(out, x, frozen.Pack(w), Epilogue{})
				for i, d := range []float64{largest(got, want), largest(back[0], wantBack[0]), largest(back[1], wantBack[1]), largest(out, want)} {
					if !(d <= 3e-6) {
						t.Errorf("%+v, %s weights: %s differs by %g", c, name, []string{"output", "gradient by x", "gradient by weights", "Conv's output"}[i], d)
					}
				}
			}
		}
	})
}

// Which rows go together, and leave out the same taps, does not depend on the number of threads: an infinite weight shows it.
func TestConvBitsOfThreads(t *testing.T) {
	defer torch.SetNumThreads(2)
	for _, c := range []convolution{{100, 16, 32, 4, 4, 3, 1, 1}, {37, 32, 16, 9, 9, 3, 2, 1}, {25, 16, 16, 2, 2, 3, 1, 1}} {
		run(t, func() {
			torch.ManualSeed(8)
			x, grad, weight := c.tensors()
			weight.Narrow(2, 0, 1).Narrow(3, 0, 1).FillI(math.Inf(1))
			digest := func() string {
				h := sha256.New()
				for _, back := range []bool{false, true} {
					h.Write(c.ours(x, grad, weight, 0, back, Epilogue{}).Bytes())
				}
				w := weight.Clamp(-1, 1).SetRequiresGrad(true)
				y := Conv2d(x, w, 0, pair(c.stride), pair(c.padding))
				h.Write(torch.VectorJacobian([]torch.Tensor{y}, []torch.Tensor{grad}, []torch.Tensor{w}, false)[0].Bytes())
				return fmt.Sprintf("%x", h.Sum(nil))
			}
			torch.SetNumThreads(1)
			want := digest()
			for _, threads := range []int{2, 3, 5, 7} {
				torch.SetNumThreads(threads)
				if digest() != want {
					t.Errorf("%+v: other bits with %d threads", c, threads)
				}
			}
		})
	}
}

func TestWinogradTile(t *testing.T) {
	for _, c := range []struct{ height, width, padding, want int64 }{
		{1, 1, 1, 0}, {2, 2, 1, 0}, {2, 2, 0, 2}, {2, 2, 2, 0}, {3, 3, 1, 4}, {4, 4, 1, 4}, {8, 8, 1, 4}, {5, 5, 0, 2}, {6, 6, 1, 2}, {1, 9, 1, 0}, {7, 7, 1, 4},
	} {
		if got := WinogradTile(c.height, c.width, c.padding); got != c.want {
			t.Errorf("%dx%d, padding %d: tile %d, want %d", c.height, c.width, c.padding, got, c.want)
		}
	}
}

// A stride beyond the image is one pixel, not a walk to the next.
func TestConvOfLargeStrides(t *testing.T) {
	run(t, func() {
		c := convolution{2, 16, 16, 6, 6, 3, 1 << 20, 1}
		x, grad, weight := c.tensors()
		if d := largest(c.ours(x, grad, weight, 0, true, Epilogue{}), c.reference(x, grad, weight, true)); !(d <= 2e-6) {
			t.Errorf("differs by %g", d)
		}
	})
}

// NaN goes through, so that broken weights show.
func TestConvLetsNaNThrough(t *testing.T) {
	run(t, func() {
		c := convolution{1, 16, 16, 4, 4, 3, 1, 1}
		x, grad, weight := c.tensors()
		x.Select(2, 1).FillI(math.NaN())
		for tile := range map[int64]bool{0: true, 2: true, 4: true} {
			if got := c.ours(x, grad, weight, tile, false, Epilogue{Relu: true}); !math.IsNaN(got.Sum().Item()) {
				t.Errorf("tile %d hides NaN", tile)
			}
		}
	})
}

func TestConvErrors(t *testing.T) {
	run(t, func() {
		c := convolution{2, 16, 24, 6, 6, 3, 1, 1}
		x, grad, weight := c.tensors()
		conv := Conv{Kernel: pair(3), Stride: pair(1), Padding: pair(1), Tile: 2}
		packed, out := conv.Pack(weight), grad.EmptyLike()
		with := func(change func(c *Conv)) Conv { c := conv; change(&c); return c }
		for want, call := range map[string]func(){
			"weight has shape [24, 16, 3]": func() { conv.Pack(weight.Select(3, 0)) },
			"weight has dtype Double":      func() { conv.Pack(weight.CastTo(torch.Double)) },
			"tile is 3":                    func() { with(func(c *Conv) { c.Tile = 3 }).Pack(weight) },
			"multiples of 8":               func() { conv.Pack(weight.Narrow(1, 0, 12)) },
			"x is not channels-last":       func() { conv.Run(out, x.Contiguous(torch.Contiguous), packed, Epilogue{}) },
			"out is not channels-last":     func() { conv.Run(out.Narrow(3, 0, 5), x, packed, Epilogue{}) },
			"they do not fit kernel":       func() { with(func(c *Conv) { c.Padding = pair(0) }).Run(out, x, packed, Epilogue{}) },
			"stride is [0, 1]":             func() { with(func(c *Conv) { c.Stride = []int64{0, 1} }).Run(out, x, packed, Epilogue{}) },
			"what conv_pack makes":         func() { with(func(c *Conv) { c.Tile = 4 }).Run(out, x, packed, Epilogue{}) },
			"in multiples of 8": func() {
				few := convolution{1, 5, 16, 6, 6, 3, 1, 1}
				x, grad, _ := few.tensors()
				conv.Run(grad, x, torch.Zeros([]int64{4, 4, 1, 5, 16}, false), Epilogue{})
			},
			"packed has dtype Double":          func() { conv.Run(out, x, packed.CastTo(torch.Double), Epilogue{}) },
			"[4, 4, 2, 8, 16, 2]":              func() { conv.Run(out, x, packed.CastTo(torch.BFloat16), Epilogue{}) },
			"bias shares memory with out":      func() { conv.Run(out, x, packed, Epilogue{Bias: out.Permute(0, 2, 3, 1).Reshape(-1).Narrow(0, 0, 24)}) },
			"may be at most":                   func() { with(func(c *Conv) { c.Padding = pair(math.MaxInt64) }).Run(out, x, packed, Epilogue{}) },
			"bias has shape [16]":              func() { conv.Run(out, x, packed, Epilogue{Bias: torch.Zeros([]int64{16}, false)}) },
			"add has shape":                    func() { conv.Run(out, x, packed, Epilogue{Add: x}) },
			"relu and gate exclude each other": func() { conv.Run(out, x, packed, Epilogue{Relu: true, Gate: grad}) },
			"x shares memory with out": func() {
				with(func(c *Conv) {}).Run(x, x, with(func(*Conv) {}).Pack(torch.RandN([]int64{16, 16, 3, 3}, false)), Epilogue{})
			},
		} {
			refused(t, want, call)
		}
		none := images(2, 16, 6, 6).Narrow(0, 0, 0).Contiguous(torch.ChannelsLast)
		conv.Run(grad.Narrow(0, 0, 0).Contiguous(torch.ChannelsLast), none, packed, Epilogue{}) // no images: nothing to do
	})
}

// What backward reads must be what forward read.
func TestConv2dRemembersVersions(t *testing.T) {
	run(t, func() {
		c := convolution{1, 16, 16, 4, 4, 3, 1, 1}
		for i := range 2 {
			x, _, weight := c.tensors()
			list := []torch.Tensor{x.SetRequiresGrad(true), weight.SetRequiresGrad(true)}
			y := Conv2d(x, weight, 0, pair(1), pair(1))
			torch.NoGrad(func() { list[i].MulScalarI(2) })
			err := torch.Try(func() { torch.Grad([]torch.Tensor{y.Sum()}, list) })
			if err == nil || !strings.Contains(err.Error(), "modified by an inplace operation") {
				t.Errorf("changed in place before backward: %v", err)
			}
		}
	})
}

func TestConvHasNoDerivative(t *testing.T) {
	run(t, func() {
		c := convolution{1, 8, 8, 4, 4, 3, 1, 1}
		x, grad, weight := c.tensors()
		conv := Conv{Kernel: pair(3), Stride: pair(1), Padding: pair(1)}
		out := grad.EmptyLike()
		conv.Run(out, x.SetRequiresGrad(true), conv.Pack(weight), Epilogue{})
		refused(t, "derivative for l2ul::conv_", func() { out.Sum().Backward() })
	})
}

func BenchmarkConv(b *testing.B) {
	c := convolution{32, 128, 128, 8, 8, 3, 1, 1}
	for _, tile := range []int64{0, 2, 4} {
		for name, half := range map[string]bool{"float": false, "half": true} {
			b.Run(fmt.Sprint(name, "-tile", tile), func(b *testing.B) {
				_ = torch.Run(torch.CPU, func() error {
					x, grad, weight := c.tensors()
					conv := Conv{Kernel: pair(3), Stride: pair(1), Padding: pair(1), Tile: tile, Half: half}
					packed := conv.Pack(weight)
					for b.Loop() {
						conv.Run(grad, x, packed, Epilogue{})
					}
					return nil
				})
			})
		}
	}
}
