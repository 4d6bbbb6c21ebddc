package kernels

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/cuda"
)

// The whole table of tests runs once for each set of bodies: those of the CPU in the process that `go test` starts, the
// others in processes that TestOtherBodies starts, since a process has room for one. L2UL_BODIES says which.
const (
	bodiesVariable = "L2UL_BODIES"
	emulated       = "cuda-on-cpu" // cuda.cu compiled for the CPU, in the place of cpu.cc
	onCUDA         = "cuda"
)

// device is where the tests compute.
var device = torch.CPU

func TestMain(m *testing.M) {
	switch os.Getenv(bodiesVariable) {
	case emulated:
		load = sync.OnceValue(func() error { return torch.LoadLibrary(emulation()) })
	case onCUDA:
		if err := cuda.Open(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		device = torch.CUDA(0)
	}
	reference.TestMain(m)
}

// emulation is the path of the library that `make test` builds of cuda.cu for the CPU.
func emulation() string {
	path, err := filepath.Abs(filepath.Join("..", "..", "build", "emulation", Library))
	if err != nil {
		panic(err)
	}
	return path
}

func TestOtherBodies(t *testing.T) {
	if bodies := os.Getenv(bodiesVariable); bodies != "" {
		t.Skipf("this is the process for %s", bodies)
	}
	again := func(t *testing.T, bodies string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Test", "-test.skip=^Test(ThreadsDoNotChangeBits|AgainstPyTorch)$")
		cmd.Env = append(os.Environ(), bodiesVariable+"="+bodies)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	t.Run(emulated, func(t *testing.T) {
		if _, err := os.Stat(emulation()); err != nil {
			t.Skipf("%v; `make test` builds it", err)
		}
		again(t, emulated)
	})
	t.Run(onCUDA, func(t *testing.T) {
		if _, err := os.Stat("/proc/driver/nvidia/version"); err != nil {
			t.Skipf("no NVIDIA driver: %v", err)
		}
		again(t, onCUDA)
	})
}

// run runs fn as a job.
func run(t *testing.T, fn func()) {
	t.Helper()
	if err := torch.Run(device, func() error { fn(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// array is a row-major float32 array: what the references below compute on.
type array struct {
	shape []int64
	data  []float32
}

func (a array) tensor() torch.Tensor { return there(torch.FromSlice(a.data, a.shape...)) }

// there moves a tensor to the device of the tests.
func there(t torch.Tensor) torch.Tensor { return t.To(device, t.Dtype()) }

func uniform(r *rand.Rand, low, high float32, shape ...int64) array {
	n := int64(1)
	for _, s := range shape {
		n *= s
	}
	a := array{shape, make([]float32, n)}
	for i := range a.data {
		a.data[i] = low + (high-low)*r.Float32()
	}
	return a
}

// layouts make tensors of the same values that lie in memory in different ways.
var layouts = map[string]func(torch.Tensor) torch.Tensor{
	"contiguous": func(x torch.Tensor) torch.Tensor { return x },
	"channels-last": func(x torch.Tensor) torch.Tensor {
		if x.Dim() != 4 {
			return x
		}
		return x.Contiguous(torch.ChannelsLast)
	},
	"transposed": func(x torch.Tensor) torch.Tensor {
		last := int64(x.Dim() - 1)
		return x.Transpose(0, last).Contiguous(torch.Contiguous).Transpose(0, last)
	},
	"gaps": func(x torch.Tensor) torch.Tensor {
		shape := x.Shape()
		last := len(shape) - 1
		width := shape[last]
		shape[last] = 2*width + 1
		view := there(torch.Full(shape, math.NaN(), false)).CastTo(x.Dtype()).Narrow(int64(last), 1, width)
		view.CopyI(x)
		return view
	},
	"misaligned": func(x torch.Tensor) torch.Tensor {
		view := there(torch.Zeros([]int64{x.Numel() + 3}, false)).CastTo(x.Dtype()).Narrow(0, 3, x.Numel()).View(x.Shape()...)
		view.CopyI(x)
		return view
	},
}

// equal compares bits of values; NaN equals NaN.
func equal(t *testing.T, what string, got torch.Tensor, want []float32) {
	t.Helper()
	values := torch.ToSlice[float32](got)
	if len(values) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(values), len(want))
	}
	for i, w := range want {
		if values[i] != w && (values[i] == values[i] || w == w) {
			t.Fatalf("%s: value %d is %v, want %v", what, i, values[i], w)
		}
	}
}

// same compares bits of values, whatever their layouts.
func same(t *testing.T, what string, got, want torch.Tensor) {
	t.Helper()
	equal(t, what, got, torch.ToSlice[float32](want))
}

func norm(v []float32) float32 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return float32(math.Sqrt(sum))
}

func clampBox(x, d float32) float32 { return min(max(x+d, 0), 1) - x }

func project(d []float32, eps float32) {
	factor := float32(1)
	if n := norm(d); n > 0 {
		factor = min(float32(1/n)*eps, 1)
	}
	for i := range d {
		d[i] *= factor
	}
}

// perImage calls f with the range of each image's values.
func perImage(a array, f func(from, to int)) {
	if a.shape[0] == 0 {
		return
	}
	size := len(a.data) / int(a.shape[0])
	for i := range int(a.shape[0]) {
		f(i*size, (i+1)*size)
	}
}

func startReference(x, start array, eps float32, kind string) []float32 {
	d := make([]float32, len(x.data))
	for i := range d {
		d[i] = start.data[i] - x.data[i]
		if kind == "linf" {
			d[i] = min(max(d[i], -eps), eps)
		}
	}
	if kind == "l2" {
		perImage(x, func(from, to int) { project(d[from:to], eps) })
	}
	for i := range d {
		d[i] = clampBox(x.data[i], clampBox(x.data[i], d[i]))
	}
	return d
}

func l2Reference(delta, grad, x array, alpha, eps float32) []float32 {
	d := make([]float32, len(x.data))
	perImage(x, func(from, to int) {
		scale := 1 / max(norm(grad.data[from:to]), 1e-6)
		for i := from; i < to; i++ {
			step := float32(alpha * float32(grad.data[i]*scale))
			d[i] = clampBox(x.data[i], float32(delta.data[i]+step))
		}
		project(d[from:to], eps)
	})
	return d
}

func linfReference(delta, grad, x array, alpha, eps float32) []float32 {
	d := make([]float32, len(x.data))
	for i, g := range grad.data {
		step := float32(0)
		if g > 0 {
			step = alpha
		} else if g < 0 {
			step = -alpha
		}
		d[i] = clampBox(x.data[i], min(max(float32(delta.data[i]+step), -eps), eps))
	}
	return d
}

func TestPGD(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	shapes := [][]int64{{4, 3, 8, 8}, {3, 1, 1, 1}, {2, 3, 5, 7}, {1, 3, 33, 31}, {5, 17}, {2, 3, 40, 40}, {3, 3, 0, 4}, {0, 3, 8, 8}}
	settings := [][2]float64{{0.1, 1.5}, {0.1, 0}, {0, 0.3}, {2, 0.03}, {0.001, 100}}
	for _, shape := range shapes {
		for name, layout := range layouts {
			for _, s := range settings {
				alpha, eps := s[0], s[1]
				x, start := uniform(r, 0, 1, shape...), uniform(r, 0, 1, shape...)
				delta, grad := uniform(r, -0.1, 0.1, shape...), uniform(r, -1, 1, shape...)
				perImage(grad, func(from, to int) {
					switch from {
					case 0: // an image without a gradient
						clear(grad.data[from:to])
					case to - from: // one whose gradient is shorter than the floor
						for i := from; i < to; i++ {
							grad.data[i] *= 1e-9
						}
					}
				})
				run(t, func() {
					what := fmt.Sprintf("%v %s alpha %v eps %v", shape, name, alpha, eps)
					for _, kind := range []string{"l2", "linf"} {
						got := PGDStart(layout(x.tensor()), start.tensor(), eps, kind)
						equal(t, "start "+kind+" "+what, got, startReference(x, start, float32(eps), kind))
					}
					d, next := layout(delta.tensor()), x.tensor().Clone()
					PGDL2Step(d, next, layout(grad.tensor()), x.tensor(), alpha, eps)
					equal(t, "l2 "+what, d, l2Reference(delta, grad, x, float32(alpha), float32(eps)))
					same(t, "next, l2 "+what, next, x.tensor().Add(d, 1))
					d, next = layout(delta.tensor()), layout(x.tensor().Clone())
					PGDLinfStep(d, next, grad.tensor(), layout(x.tensor()), alpha, eps)
					equal(t, "linf "+what, d, linfReference(delta, grad, x, float32(alpha), float32(eps)))
					same(t, "next, linf "+what, next, x.tensor().Add(d, 1))
				})
			}
		}
	}
}

func TestPGDShowsBadGradients(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		for name, step := range map[string]func(delta, next, grad, x torch.Tensor, alpha, eps float64){"l2": PGDL2Step, "linf": PGDLinfStep} {
			run(t, func() {
				shape := []int64{2, 3, 4, 4}
				delta, grad, x := there(torch.Zeros(shape, false)), there(torch.Ones(shape, false)), there(torch.Full(shape, 0.5, false))
				grad.Select(0, 1).Select(0, 2).FillI(bad)
				step(delta, x.Clone(), grad, x, 0.1, 1)
				if delta.Select(0, 0).IsFinite().All().Item() != 1 {
					t.Errorf("%s: %v in one image's gradient reached the other image", name, bad)
				}
				if delta.Select(0, 1).IsFinite().All().Item() == 1 {
					t.Errorf("%s: %v in the gradient does not show", name, bad)
				}
			})
		}
	}
}

// tables are one of any values, that of images, which there is a shorter way for, and one that differs from it in a value.
func tables(r *rand.Rand, channels int64) []array {
	images := uniform(r, 0, 0, channels, 256)
	for i := range images.data {
		images.data[i] = float32(i%256) / 255
	}
	other := array{images.shape, slices.Clone(images.data)}
	other.data[len(other.data)-1] = 0.5
	return []array{uniform(r, -2, 2, channels, 256), images, other}
}

func TestGatherLUT(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, shape := range [][]int64{{7, 3, 8, 8}, {4, 1, 5, 3}, {3, 4, 1, 1}, {5, 3, 33, 2}, {2, 3, 0, 4}} {
		n, channels, area := int(shape[0]), int(shape[1]), int(shape[2]*shape[3])
		pixels := make([]uint8, n*channels*area)
		for i := range pixels {
			pixels[i] = uint8(r.Uint32())
		}
		for _, table := range tables(r, shape[1]) {
			index := make([]int64, 11)
			var want []float32
			for i := range index {
				index[i] = r.Int64N(int64(n))
				for c := range channels {
					for p := range area {
						want = append(want, table.data[256*c+int(pixels[(int(index[i])*channels+c)*area+p])])
					}
				}
			}
			for name, layout := range layouts {
				run(t, func() {
					got := GatherLUT(layout(there(torch.FromSlice(pixels, shape...))), there(torch.FromSlice(index)), layouts["gaps"](table.tensor()))
					equal(t, fmt.Sprint(shape, " ", name), got, want)
					if name == "channels-last" && !got.IsContiguous(torch.ChannelsLast) {
						t.Errorf("%v: channels-last pixels gave strides %v", shape, got.Strides())
					}
					if none := GatherLUT(there(torch.FromSlice(pixels, shape...)), there(torch.FromSlice([]int64{}, 0)), table.tensor()); none.Size(0) != 0 {
						t.Errorf("no index gave shape %v", none.Shape())
					}
				})
			}
		}
	}
}

// Every window and both flips, against images that are really padded, cut and mirrored.
func TestGatherCrops(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	for _, c := range []struct {
		shape   []int64
		padding int
	}{
		{[]int64{7, 3, 8, 8}, 2},
		{[]int64{4, 1, 5, 3}, 1},
		{[]int64{3, 4, 1, 1}, 2},
		{[]int64{5, 3, 7, 2}, 0},
		{[]int64{2, 3, 0, 4}, 1},
		{[]int64{2, 6, 3, 2}, 4},   // more padding than image, more channels than a CUDA block keeps rows of the table for
		{[]int64{2, 3, 97, 91}, 1}, // more than a CUDA block works on
	} {
		n, channels, height, width := int(c.shape[0]), int(c.shape[1]), int(c.shape[2]), int(c.shape[3])
		pixels := make([]uint8, n*channels*height*width)
		for i := range pixels {
			pixels[i] = uint8(r.Uint32())
		}
		wide := width + 2*c.padding
		plane := (height + 2*c.padding) * wide
		padded := make([]uint8, n*channels*plane)
		for i, v := range pixels {
			row := i / width
			padded[row/height*plane+(row%height+c.padding)*wide+c.padding+i%width] = v
		}
		table := uniform(r, -2, 2, c.shape[1], 256)
		var index, crops []int64
		var want []float32
		for window := range 2 * (2*c.padding + 1) * (2*c.padding + 1) {
			top, left, flip := window/2/(2*c.padding+1), window/2%(2*c.padding+1), window%2
			which := r.IntN(n)
			index, crops = append(index, int64(which)), append(crops, int64(top), int64(left), int64(flip))
			for channel := range channels {
				from := padded[(which*channels+channel)*plane:]
				for h := range height {
					row := slices.Clone(from[(top+h)*wide+left:][:width])
					if flip == 1 {
						slices.Reverse(row)
					}
					for _, v := range row {
						want = append(want, table.data[256*channel+int(v)])
					}
				}
			}
		}
		for name, layout := range layouts {
			run(t, func() {
				source := layout(there(torch.FromSlice(pixels, c.shape...)))
				at := there(torch.FromSlice(index))
				at = torch.Stack([]torch.Tensor{at, at}, 1).Select(1, 0)
				windows := layouts["gaps"](there(torch.FromSlice(crops, int64(len(index)), 3)))
				got := GatherCrops(source, at, table.tensor(), windows, c.padding)
				equal(t, fmt.Sprint(c.shape, " padding ", c.padding, " ", name), got, want)
				if name == "channels-last" && !got.IsContiguous(torch.ChannelsLast) {
					t.Errorf("%v: channels-last pixels gave strides %v", c.shape, got.Strides())
				}
				if none := GatherCrops(source, at.Narrow(0, 0, 0), table.tensor(), windows.Narrow(0, 0, 0), c.padding); none.Size(0) != 0 {
					t.Errorf("no index gave shape %v", none.Shape())
				}
			})
		}
	}
}

var parameterShapes = [][]int64{{64, 3, 7, 7}, {10}, {5, 4, 3, 3}, {1}, {0}, {200, 301}}

func parameters(r *rand.Rand) []array {
	var list []array
	for _, shape := range parameterShapes {
		list = append(list, uniform(r, -1, 1, shape...))
	}
	return list
}

func tensors(list []array, layout func(torch.Tensor) torch.Tensor) []torch.Tensor {
	out := make([]torch.Tensor, len(list))
	for i, a := range list {
		out[i] = layout(a.tensor())
	}
	return out
}

func TestAccumulate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for name, layout := range layouts {
		for _, s := range [][2]float32{{1, 6}, {0.37, 16}, {32, 1}, {0, 3}} {
			weight, count := s[0], s[1]
			omega, grads := parameters(r), parameters(r)
			run(t, func() {
				squares := tensors(omega, layout)
				magnitudes := tensors(omega, layout)
				AccumulateAbs(magnitudes, tensors(grads, layouts["channels-last"]), float64(weight), float64(count))
				AccumulateSquare(squares, tensors(grads, layouts["contiguous"]), float64(weight), float64(count))
				for i, g := range grads {
					abs, square := make([]float32, len(g.data)), make([]float32, len(g.data))
					for j, v := range g.data {
						abs[j] = omega[i].data[j] + float32(float32(weight*max(v, -v))/count)
						square[j] = omega[i].data[j] + float32(float32(weight*float32(v*v))/count)
					}
					equal(t, "abs "+name, magnitudes[i], abs)
					equal(t, "square "+name, squares[i], square)
				}
			})
		}
	}
}

func TestAnchorWeights(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, a := range append(parameters(r), array{[]int64{3, 5}, make([]float32, 15)}) {
		for name, layout := range layouts {
			run(t, func() {
				low, high := float32(math.Inf(1)), float32(math.Inf(-1))
				for _, v := range a.data {
					low, high = min(low, v), max(high, v)
				}
				want := make([]float32, len(a.data))
				for i, v := range a.data {
					want[i] = 1
					if high != low {
						want[i] = 1 - float32(float32(v-low)/float32(high-low))
					}
				}
				equal(t, fmt.Sprint(a.shape, " ", name), AnchorWeights(layout(a.tensor())), want)
			})
		}
	}
	for _, at := range []int{0, 5, 16, 39_999} {
		a := uniform(r, 0, 1, 40_000)
		a.data[at] = float32(math.NaN())
		run(t, func() {
			if got := AnchorWeights(a.tensor()).IsFinite().Any().Item(); got != 0 {
				t.Errorf("NaN at %d: some weights are finite", at)
			}
		})
	}
}

func TestAnchoredSGD(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	const lr, mu, decay = float32(0.05), float32(0.9), float32(5e-4)
	for name, layout := range layouts {
		for _, c := range []struct {
			lam      float32
			anchored bool
		}{{1, true}, {0.3, true}, {0, true}, {1, false}} {
			p, g, v, a, ref := parameters(r), parameters(r), parameters(r), parameters(r), parameters(r)
			run(t, func() {
				params, momenta := tensors(p, layout), tensors(v, layouts["contiguous"])
				var anchors, reference []torch.Tensor
				if c.anchored {
					anchors, reference = tensors(a, layout), tensors(ref, layouts["channels-last"])
				}
				for step := range 3 {
					first := step == 0
					finite := AnchoredSGD(params, tensors(g, layout), momenta, anchors, reference,
						float64(lr), float64(mu), float64(decay), float64(c.lam), first)
					if finite.Dtype() != torch.Bool || finite.Dim() != 0 || finite.Item() != 1 {
						t.Fatalf("finite is %v, want true", finite)
					}
					for i := range p {
						for j := range p[i].data {
							grad := g[i].data[j]
							if c.anchored && c.lam != 0 {
								grad += float32(float32(c.lam*a[i].data[j]) * float32(p[i].data[j]-ref[i].data[j]))
							}
							d := grad + float32(decay*p[i].data[j])
							if !first {
								d = float32(v[i].data[j]*mu) + d
							}
							v[i].data[j] = d
							p[i].data[j] -= float32(lr * d)
						}
						what := fmt.Sprintf("%s %+v step %d tensor %d", name, c, step, i)
						equal(t, what, params[i], p[i].data)
						equal(t, what, momenta[i], v[i].data)
					}
				}
			})
		}
	}
}

func TestAnchoredSGDFinite(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for at := 0; at < 200*301; at += 7001 {
			p, g := parameters(r), parameters(r)
			g[5].data[at] = float32(bad)
			run(t, func() {
				id := layouts["contiguous"]
				if AnchoredSGD(tensors(p, id), tensors(g, id), tensors(p, id), nil, nil, 0.1, 0.9, 0, 0, false).Item() != 0 {
					t.Errorf("a gradient of %v at %d left the parameters finite", bad, at)
				}
			})
		}
	}
}

// A list of more tensors than one launch of a CUDA kernel takes.
func TestManyTensors(t *testing.T) {
	const n = 1100
	r := rand.New(rand.NewPCG(17, 18))
	var p, g []array
	var want [2]float64
	for i := range n {
		p, g = append(p, uniform(r, -1, 1, int64(i%5))), append(g, uniform(r, -1, 1, int64(i%5)))
		for j := range p[i].data {
			d := float64(p[i].data[j]) - float64(g[i].data[j])
			want[1] += d * d
		}
	}
	want[0] = want[1] / 2
	run(t, func() {
		id := layouts["contiguous"]
		for i, v := range torch.ToSlice[float64](AnchorPenalty(tensors(p, id), tensors(g, id), nil)) {
			if math.Abs(v-want[i]) > 1e-12*want[1] {
				t.Errorf("penalty[%d] is %v, want %v", i, v, want[i])
			}
		}
		params := tensors(p, id)
		if AnchoredSGD(params, tensors(g, id), tensors(p, id), nil, nil, 0.5, 0, 0, 0, true).Item() != 1 {
			t.Error("finite parameters are said not to be")
		}
		for i := range p {
			for j := range p[i].data {
				p[i].data[j] -= 0.5 * g[i].data[j]
			}
			equal(t, fmt.Sprint("tensor ", i), params[i], p[i].data)
		}
	})
}

func TestAnchorPenalty(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	p, ref, a := parameters(r), parameters(r), parameters(r)
	plain, weighted := 0.0, 0.0
	for i := range p {
		for j := range p[i].data {
			d := float64(p[i].data[j]) - float64(ref[i].data[j])
			plain += d * d
			weighted += float64(a[i].data[j]) * d * d
		}
	}
	near := func(what string, got torch.Tensor, want [2]float64) {
		for i, v := range torch.ToSlice[float64](got) {
			if math.Abs(v-want[i]) > 1e-12*plain {
				t.Errorf("%s[%d] is %v, want %v", what, i, v, want[i])
			}
		}
	}
	for name, layout := range layouts {
		run(t, func() {
			near(name, AnchorPenalty(tensors(p, layout), tensors(ref, layouts["contiguous"]), tensors(a, layouts["channels-last"])), [2]float64{weighted / 2, plain})
			near(name+" without anchors", AnchorPenalty(tensors(p, layout), tensors(ref, layout), nil), [2]float64{plain / 2, plain})
		})
	}
}

// More elements than 32 bits count, on a device that has the room and the speed.
func TestHuge(t *testing.T) {
	if device == torch.CPU {
		t.Skip("takes 34 GB; runs on CUDA")
	}
	const n = 1<<31 + 5
	run(t, func() {
		delta, grad := opZeros.One([]int64{2, n / 2}, torch.Float, nil, device), opZeros.One([]int64{2, n / 2}, torch.Float, nil, device)
		last := grad.Select(0, 1).Narrow(0, n/2-1, 1)
		last.FillI(1)
		PGDLinfStep(delta, delta.Clone(), grad, delta.Clone(), 0.25, 1)
		end := delta.Select(0, 1).Narrow(0, n/2-2, 2)
		equal(t, "the last two of many", end, []float32{0, 0.25})
		equal(t, "the first of many", delta.Select(0, 0).Narrow(0, 0, 1), []float32{0})
	})
}

var opZeros = torch.Define("aten::zeros(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

func TestThreadsDoNotChangeBits(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	defer torch.SetNumThreads(runtime.NumCPU())
	p, g, v, a, ref := parameters(r), parameters(r), parameters(r), parameters(r), parameters(r)
	x, d, grad := uniform(r, 0, 1, 37, 3, 20, 20), uniform(r, -1, 1, 37, 3, 20, 20), uniform(r, -1, 1, 37, 3, 20, 20)
	var first [][]byte
	for _, n := range []int{1, 2, 3} {
		torch.SetNumThreads(n)
		run(t, func() {
			id := layouts["contiguous"]
			params, delta := tensors(p, id), d.tensor()
			AnchoredSGD(params, tensors(g, id), tensors(v, id), tensors(a, id), tensors(ref, id), 0.1, 0.9, 1e-4, 1, false)
			PGDL2Step(delta, x.tensor(), grad.tensor(), x.tensor(), 0.1, 1.5)
			results := slices.Concat(params, []torch.Tensor{delta, AnchorPenalty(params, tensors(ref, id), tensors(a, id)), AnchorWeights(params[5])})
			for i, result := range results {
				if b := result.Bytes(); n == 1 {
					first = append(first, b)
				} else if string(b) != string(first[i]) {
					t.Errorf("result %d with %d threads differs from that with 1", i, n)
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	run(t, func() {
		x, small := there(torch.Zeros([]int64{2, 3, 4, 4}, false)), there(torch.Zeros([]int64{2, 3, 4}, false))
		double := x.CastTo(torch.Double)
		pixels, index, table := x.CastTo(torch.Byte), there(torch.FromSlice([]int64{0, 1})), there(torch.Zeros([]int64{3, 256}, false))
		crops := there(torch.Zeros([]int64{2, 3}, false)).CastTo(torch.Long)
		one, two := []torch.Tensor{x}, []torch.Tensor{x.Clone(), x.Clone()}
		nan := math.NaN()
		for _, c := range []struct {
			want string
			call func()
		}{
			{"pixels has dtype Float; it must be Byte", func() { GatherLUT(x, index, table) }},
			{"table has shape [3, 255]; pixels of 3 channels need [3, 256]", func() { GatherLUT(pixels, index, table.Narrow(1, 0, 255)) }},
			{"crops has dtype Float; it must be Long", func() { GatherCrops(pixels, index, table, table, 1) }},
			{"crops has shape [2, 2]; an index of 2 images needs [2, 3]", func() { GatherCrops(pixels, index, table, crops.Narrow(1, 0, 2), 1) }},
			{"crops has shape [2, 3]; an index of 1 images needs [1, 3]", func() { GatherCrops(pixels, index.Narrow(0, 0, 1), table, crops, 1) }},
			{"padding is 1 without crops", func() { GatherCrops(pixels, index, table, torch.Tensor{}, 1) }},
			{"padding is -1", func() { GatherCrops(pixels, index, table, crops, -1) }},
			{"padding is 1073741824; it must be at least 0, and a side of 4 pixels no longer than 2147483647 with it", func() {
				GatherCrops(pixels, index, table, crops, 1<<30)
			}},
			{"start has shape [2, 3, 4], x [2, 3, 4, 4]", func() { PGDStart(x, small, 1, "l2") }},
			{`norm is "l1"; it must be "l2" or "linf"`, func() { PGDStart(x, x, 1, "l1") }},
			{"eps is nan", func() { PGDStart(x, x, nan, "l2") }},
			{"grad has dtype Double; it must be Float", func() { PGDL2Step(x, x.Clone(), double, x, 1, 1) }},
			{"alpha is -1; it must be a number >= 0", func() { PGDL2Step(x, x.Clone(), x.Clone(), x.Clone(), -1, 1) }},
			{"several elements in one place of memory", func() { PGDL2Step(x.Narrow(0, 0, 1).Expand(2, 3, 4, 4), x, x, x, 1, 1) }},
			{"eps is inf", func() { PGDLinfStep(x, x.Clone(), x.Clone(), x.Clone(), 1, math.Inf(1)) }},
			{"next shares memory with delta", func() { PGDL2Step(x, x, x.Clone(), x.Clone(), 1, 1) }},
			{"grad shares memory with next", func() { g := x.Clone(); PGDL2Step(x, g, g, x.Clone(), 1, 1) }},
			{"x shares memory with next", func() { g := x.Clone(); PGDLinfStep(x, g, x.Clone(), g, 1, 1) }},
			{"next has shape [2, 3, 4], delta [2, 3, 4, 4]", func() { PGDLinfStep(x, small, x.Clone(), x.Clone(), 1, 1) }},
			{"grads has 1 tensors, omega 2", func() { AccumulateAbs(two, one, 1, 1) }},
			{"count is 0", func() { AccumulateSquare(one, two[:1], 1, 0) }},
			{"omega has dtype Double", func() { AnchorWeights(double) }},
			{"momenta has 2 tensors, params 1", func() { AnchoredSGD(one, two[:1], two, nil, nil, 1, 0, 0, 0, true) }},
			{"grads[0] has shape [2, 3, 4], its parameter [2, 3, 4, 4]", func() {
				AnchoredSGD(one, []torch.Tensor{small}, two[:1], nil, nil, 1, 0, 0, 0, true)
			}},
			{"momenta[0] shares memory with its parameter", func() { AnchoredSGD(one, two[:1], one, nil, nil, 1, 0, 0, 0, true) }},
			{"lr is nan", func() { AnchoredSGD(one, two[:1], two[1:], nil, nil, nan, 0, 0, 0, true) }},
			{"reference has 0 tensors, params 1", func() { AnchoredSGD(one, two[:1], two[1:], one, nil, 1, 0, 0, 1, true) }},
			{"reference has 2 tensors, params 1", func() { AnchorPenalty(one, two, nil) }},
		} {
			refused(t, c.want, c.call)
		}
		if device == torch.CPU { // CUDA meets it later, and ends the process's use of the device
			refused(t, "index[1] is 2; there are 2 images, so it must be in [0, 2)", func() { GatherLUT(pixels, torch.FromSlice([]int64{0, 2}), table) })
			refused(t, "index[0] is -1", func() { GatherLUT(pixels, torch.FromSlice([]int64{-1}), table) })
			for _, bad := range [][]int64{{-1, 0, 0}, {9, 0, 0}, {0, -1, 0}, {0, 9, 1}, {0, 0, 2}, {0, 0, -1}} {
				want := fmt.Sprintf("crops[1] is [%d, %d, %d]; with padding 4 top and left must be in [0, 8], and flip 0 or 1", bad[0], bad[1], bad[2])
				refused(t, want, func() { GatherCrops(pixels, index, table, torch.FromSlice(append([]int64{8, 8, 1}, bad...), 2, 3), 4) })
			}
		}
	})
}

// refused checks that call panics with an error that says want.
func refused(t *testing.T, want string, call func()) {
	t.Helper()
	err := torch.Try(call)
	if _, ok := errors.AsType[*torch.Error](err); !ok || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "l2ul::") != 1 {
		t.Errorf("got error %v, want one that says %q and names its operator once", err, want)
	}
}

func TestAutogradMisuse(t *testing.T) {
	shape := []int64{2, 3, 4, 4}
	run(t, func() {
		w, u := there(torch.Rand(shape, false)).SetRequiresGrad(true), there(torch.Rand(shape, false))
		list := func(t torch.Tensor) []torch.Tensor { return []torch.Tensor{t} }

		refused(t, "not implemented", func() { PGDStart(w, u, 1, "l2").Sum().Backward() })
		refused(t, "not implemented", func() { AnchorWeights(w).Sum().Backward() })
		refused(t, "not implemented", func() { AnchorPenalty(list(w), list(u), nil).Sum().Backward() })
		refused(t, "leaf Variable that requires grad", func() { PGDL2Step(w, u.Clone(), u, u, 0.1, 1) })
		for _, p := range []torch.Tensor{w, w.Neg()} {
			refused(t, "no derivative", func() { AnchoredSGD(list(p), list(u), list(u.Clone()), nil, nil, 0.1, 0, 0, 0, true) })
			refused(t, "no derivative", func() { AccumulateAbs(list(u), list(p), 1, 1) })
			refused(t, "no derivative", func() { AccumulateSquare(list(u), list(p), 1, 1) })
		}
		torch.NoGrad(func() { AnchoredSGD(list(w), list(u), list(u.Clone()), nil, nil, 0.1, 0, 0, 0, true) })

		// A tensor that backward needs is changed in between.
		for name, change := range map[string]func(d torch.Tensor){
			"PGDL2Step":          func(d torch.Tensor) { PGDL2Step(d, u.Clone(), u, u, 0.1, 1) },
			"PGDL2Step next":     func(d torch.Tensor) { PGDL2Step(u.Clone(), d, u, u, 0.1, 1) },
			"PGDLinfStep":        func(d torch.Tensor) { PGDLinfStep(d, u.Clone(), u, u, 0.1, 1) },
			"AccumulateAbs":      func(d torch.Tensor) { AccumulateAbs(list(d), list(u), 1, 1) },
			"AccumulateSquare":   func(d torch.Tensor) { AccumulateSquare(list(d), list(u), 1, 1) },
			"AnchoredSGD":        func(d torch.Tensor) { AnchoredSGD(list(d), list(u), list(u.Clone()), nil, nil, 0.1, 0, 0, 0, true) },
			"AnchoredSGD second": func(d torch.Tensor) { AnchoredSGD(list(u.Clone()), list(u), list(d), nil, nil, 0.1, 0, 0, 0, true) },
		} {
			d := there(torch.Rand(shape, false))
			loss := w.Mul(d).Sum()
			change(d)
			err := torch.Try(loss.Backward)
			if err == nil || !strings.Contains(err.Error(), "modified by an inplace operation") {
				t.Errorf("%s on a saved tensor: backward gave %v, want an error", name, err)
			}
		}
	})
}

// The Python test beside this file compares with PyTorch's own operators, through the same library.
func TestAgainstPyTorch(t *testing.T) {
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	out, err := exec.CommandContext(t.Context(), python, "-c", "import torch; print(torch.__version__)").Output()
	if err != nil {
		t.Skipf("%s cannot import torch (set L2UL_PYTHON to one that can): %v", python, err)
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "+") // less the flavour: 2.11.0+cu130
	if version != torch.Build().Version {
		t.Skipf("%s has torch %s, and this is built for %s", python, version, torch.Build().Version)
	}
	args := []string{"ops_test.py"}
	for _, library := range []string{Library, LibraryCUDA} {
		path, err := filepath.Abs(filepath.Join("..", "..", "lib", library))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil || library == Library {
			args = append(args, path)
		}
	}
	if out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func ExampleGatherLUT() {
	err := torch.Run(torch.CPU, func() error {
		pixels := torch.FromSlice([]uint8{0, 51, 102, 255}, 2, 1, 1, 2) // two images of 1x2 grey pixels
		table := make([]float32, 256)
		for v := range table {
			table[v] = float32(v) / 255
		}
		batch := GatherLUT(pixels, torch.FromSlice([]int64{1, 0, 1}), torch.FromSlice(table, 1, 256))
		fmt.Println(batch.Shape(), torch.ToSlice[float32](batch))
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: [3 1 1 2] [0.4 1 0 0.2 0.4 1]
}
