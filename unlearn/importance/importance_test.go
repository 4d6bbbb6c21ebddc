package importance_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/internal/tape"
	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/kernels"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// The estimators of the reference, by its names.
var kinds = map[string]importance.Options{
	"mas": {Kind: "mas"}, "mas-plain": {Kind: "mas", Norm: "plain"}, "uniform": {Kind: "uniform"},
	"mas-batch": {Kind: "mas-batch", Accumulate: true}, "mas-batch-noacc": {Kind: "mas-batch"},
	"mas-batch-eval":    {Kind: "mas-batch", Accumulate: true, BN: "eval"},
	"mas-batch-squared": {Kind: "mas-batch", Accumulate: true, Norm: "squared"},
	"fisher-emp":        {Kind: "fisher-emp"}, "fisher-true": {Kind: "fisher-true"}, "fisher-true-16": {Kind: "fisher-true", Samples: 16},
}

func TestEstimatesAreTheReferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		compared := 0
		for name, o := range kinds {
			if !g.Has("omega." + name) {
				continue
			}
			compared++
			torch.Scope(func() {
				net := g.Fresh()
				before := smallnet.State(net)
				images := &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y")}
				var told []int
				job := &importance.Job{Net: net, Params: net.Parameters(), Images: images, Slice: 4, Options: o}
				omega, err := job.Run(t.Context(), func(done int) { told = append(told, done) })
				if err != nil {
					t.Fatal(err)
				}
				g.Equal("omega."+name, smallnet.Flat(omega), 1e-5)
				g.Equal("anchor."+name, smallnet.Flat((&importance.Options{}).Anchors(omega)), 1e-5)
				if !torch.Equal(before, smallnet.State(net)) {
					t.Errorf("%s changed the network", name)
				}
				if net.Training() {
					t.Errorf("%s left the network in training mode", name)
				}
				want := []int{1, 2, 3, 4, 5, 6}
				switch o.Kind {
				case "mas-batch":
					want = []int{4, 6}
				case "uniform":
					want = nil
				}
				if !slices.Equal(told, want) {
					t.Errorf("%s: progress %v, want %v", name, told, want)
				}
			})
		}
		if want := 3; compared < want || g.Name == "tiny" && compared != len(kinds) {
			t.Errorf("%d estimators compared", compared)
		}
		if g.Name == "tiny" && torch.Equal(g.Tensor("omega.mas-batch"), g.Tensor("omega.mas-batch-noacc")) {
			t.Error("accumulation makes no difference in the reference")
		}
	})
}

// Passes that are graphs have the bits of passes that are not, for every estimator; each number of images has one graph, from
// the second time on. Where none can be made, the estimate goes on and says why.
func TestRecordedPasses(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		for name, o := range kinds {
			torch.Scope(func() {
				run := func(graphs cuda.Recorder) (torch.Tensor, *importance.Job) {
					net := g.Fresh()
					images := &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y")}
					job := &importance.Job{Net: net, Params: net.Parameters(), Images: images, Slice: 2, Options: o, Graphs: graphs}
					omega, err := job.Run(t.Context(), nil)
					if err != nil {
						t.Fatal(err)
					}
					return smallnet.Flat(omega), job
				}
				tapes := &tape.Tape{}
				want, _ := run(nil)
				got, _ := run(tapes.Record)
				failing, job := run(func(func()) cuda.Recording { panic(&torch.Error{Op: "capture", Msg: "no memory"}) })
				if !torch.Equal(got, want) || !torch.Equal(failing, want) {
					t.Errorf("%s: graphs have other bits", name)
				}
				replays := map[string]int{"mas": 5, "mas-batch": 2, "fisher-emp": 5}[o.Kind] // of 6 images, one or two at a time
				events := slices.Repeat([]string{"replay"}, replays)
				if replays > 0 {
					events = slices.Concat([]string{"capture"}, events, []string{"free"})
				}
				if !slices.Equal(tapes.Events, events) {
					t.Errorf("%s: %v, want %v", name, tapes.Events, events)
				}
				if said := strings.Contains(job.NoGraph, "no memory"); said != (replays > 0) {
					t.Errorf("%s: NoGraph says %q", name, job.NoGraph)
				}
			})
		}
	})
}

// affine is a network whose gradients are written down: logits = W·x + b, and a parameter nothing depends on.
type affine struct {
	nn.Base
	weight, bias, unused torch.Tensor
}

func newAffine(w, b []float32) *affine {
	m := &affine{}
	m.weight = m.Param("weight", torch.FromSlice(w, int64(len(b)), int64(len(w)/len(b))))
	m.bias = m.Param("bias", torch.FromSlice(b))
	m.unused = m.Param("unused", torch.Ones([]int64{3}, false))
	return m
}

func (m *affine) Forward(x torch.Tensor) torch.Tensor {
	return x.Flatten(1, -1).Linear(m.weight, m.bias)
}

// Every estimator against its formula, worked out in float64 on a network with gradients in closed form:
// ∂g_c/∂W_cd = x_d, ∂g_c/∂b_c = 1. A parameter that nothing depends on has importance 0.
func TestClosedForms(t *testing.T) {
	const classes, width, k, slice = 3, 4, 5, 2
	w := []float32{0.5, -0.25, 0.125, 1, -1, 0.75, 0.3, 0.2, 0.1, -0.6, 0.9, -0.4}
	b := []float32{0.2, -0.1, 0.05}
	var xs [k][width]float64
	pixels, labels := make([]float32, 0, k*width), make([]int64, k)
	for i := range xs {
		for d := range width {
			xs[i][d] = float64(float32((i*7+d*3)%11) / 11)
			pixels = append(pixels, float32(xs[i][d]))
		}
		labels[i] = int64(i % classes)
	}
	logits := func(x [width]float64) (g [classes]float64) {
		for c := range classes {
			g[c] = float64(b[c])
			for d := range width {
				g[c] += float64(w[c*width+d]) * x[d]
			}
		}
		return g
	}
	softmax := func(g [classes]float64) (p [classes]float64) {
		sum := 0.0
		for c := range p {
			p[c] = math.Exp(g[c])
			sum += p[c]
		}
		for c := range p {
			p[c] /= sum
		}
		return p
	}
	norm := func(g [classes]float64) float64 { return math.Sqrt(g[0]*g[0] + g[1]*g[1] + g[2]*g[2]) }

	// Each formula gives ∂s/∂g_c for an image, from which the rest follows; shares are added over images and classes.
	type gradient = [classes]float64
	square := func(v float64) float64 { return v * v }
	perSample := func(gradients func(i int) (gs []gradient, weights []float64), share func(float64) float64) (omega []float64) {
		omega = make([]float64, classes*width+classes+3)
		for i := range xs {
			gs, weights := gradients(i)
			for j, g := range gs {
				for c := range classes {
					for d := range width {
						omega[c*width+d] += weights[j] * share(g[c]*xs[i][d]) / k
					}
					omega[classes*width+c] += weights[j] * share(g[c]) / k
				}
			}
		}
		return omega
	}
	logGradient := func(i, y int) (g gradient) {
		p := softmax(logits(xs[i]))
		for c := range g {
			g[c] = -p[c]
		}
		g[y]++
		return g
	}
	batch := func(plain, accumulate bool) []float64 {
		n := classes*width + classes
		omega, sum := make([]float64, n+3), make([]float64, n)
		for from := 0; from < k; from += slice {
			to := min(from+slice, k)
			if !accumulate {
				clear(sum)
			}
			for i := from; i < to; i++ {
				g := logits(xs[i])
				for c := range classes {
					v := 2 * g[c]
					if plain {
						v = g[c] / norm(g)
					}
					v /= float64(to - from)
					for d := range width {
						sum[c*width+d] += v * xs[i][d]
					}
					sum[classes*width+c] += v
				}
			}
			for j, v := range sum {
				omega[j] += math.Abs(v) * float64(to-from) / float64((k/slice+1)*slice)
			}
		}
		return omega
	}
	one := []float64{1}
	want := map[string][]float64{
		"mas": perSample(func(i int) ([]gradient, []float64) {
			g := logits(xs[i])
			return []gradient{{2 * g[0], 2 * g[1], 2 * g[2]}}, one
		}, math.Abs),
		"mas-plain": perSample(func(i int) ([]gradient, []float64) {
			g := logits(xs[i])
			return []gradient{{g[0] / norm(g), g[1] / norm(g), g[2] / norm(g)}}, one
		}, math.Abs),
		"fisher-emp": perSample(func(i int) ([]gradient, []float64) { return []gradient{logGradient(i, int(labels[i]))}, one }, square),
		"fisher-true": perSample(func(i int) ([]gradient, []float64) {
			p := softmax(logits(xs[i]))
			return []gradient{logGradient(i, 0), logGradient(i, 1), logGradient(i, 2)}, p[:]
		}, square),
		"mas-batch": batch(true, true), "mas-batch-noacc": batch(true, false), "mas-batch-squared": batch(false, true),
	}
	torch.Scope(func() {
		net := newAffine(w, b)
		defer net.Free()
		images := &unlearn.Examples{X: torch.FromSlice(pixels, k, 1, 2, 2), Y: torch.FromSlice(labels)}
		estimate := func(o importance.Options, seed int64) []float32 {
			job := &importance.Job{Net: net, Params: net.Parameters(), Images: images, Slice: slice, Seed: seed, Options: o}
			omega, err := job.Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return torch.ToSlice[float32](smallnet.Flat(omega))
		}
		for name, values := range want {
			for i, v := range estimate(kinds[name], 0) {
				if math.Abs(float64(v)-values[i]) > 1e-5*max(1, values[i]) {
					t.Errorf("%s: Ω[%d] = %g, want %g", name, i, v, values[i])
				}
			}
		}
		if slices.Equal(want["mas-batch"], want["mas-batch-noacc"]) {
			t.Error("accumulation makes no difference")
		}
		// Many draws come near the full sum, other draws give other numbers, and the same seed the same.
		many := estimate(importance.Options{Kind: "fisher-true", Samples: 4000}, 1)
		for i, v := range many {
			if math.Abs(float64(v)-want["fisher-true"][i]) > 0.05*max(0.1, want["fisher-true"][i]) {
				t.Errorf("4000 draws: Ω[%d] = %g, the full sum is %g", i, v, want["fisher-true"][i])
			}
		}
		few := importance.Options{Kind: "fisher-true", Samples: 3}
		if a := estimate(few, 1); slices.Equal(a, estimate(few, 2)) || !slices.Equal(a, estimate(few, 1)) {
			t.Error("the draws do not follow the seed")
		}
	})
}

// The plain norm has no derivative at zero logits; there it counts nothing.
func TestZeroLogits(t *testing.T) {
	torch.Scope(func() {
		net := newAffine(make([]float32, 8), make([]float32, 2))
		defer net.Free()
		images := &unlearn.Examples{X: torch.Ones([]int64{2, 1, 2, 2}, false), Y: torch.FromSlice([]int64{0, 1})}
		for _, name := range []string{"mas", "mas-plain", "mas-batch"} {
			omega, err := (&importance.Job{Net: net, Params: net.Parameters(), Images: images, Slice: 2, Options: kinds[name]}).Run(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range torch.ToSlice[float32](smallnet.Flat(omega)) {
				if v != 0 {
					t.Errorf("%s: Ω %g at zero logits", name, v)
				}
			}
		}
	})
}

// MAS by finite differences in float64 where no closed form is at hand: ‖g‖² of one image, by each of some parameters.
func TestMASByFiniteDifferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		net := g.Fresh()
		x, y := g.Tensor("x").Narrow(0, 0, 1), g.Tensor("y").Narrow(0, 0, 1)
		job := &importance.Job{Net: net, Params: net.Parameters(), Images: &unlearn.Examples{X: x, Y: y}, Options: importance.Options{Kind: "mas"}}
		omega, err := job.Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range net.Parameters() {
			values, want := torch.ToSlice[float32](p.Detach()), torch.ToSlice[float32](omega[i])
			at := slices.Index(want, slices.Max(want)) // where rounding matters least
			energy := func(h float32) (sum float64) {
				moved := slices.Clone(values)
				moved[at] += h
				torch.Scope(func() {
					torch.NoGrad(func() {
						p.CopyI(torch.FromSlice(moved, p.Shape()...))
						sum = net.Forward(x).CastTo(torch.Double).Square().Sum().Item()
						p.CopyI(torch.FromSlice(values, p.Shape()...))
					})
				})
				return sum
			}
			const h = 1e-3
			up, down := values[at]+h, values[at]-h
			got := math.Abs(energy(h)-energy(-h)) / (float64(up) - float64(down))
			if math.Abs(got-float64(want[at])) > 0.02*float64(want[at])+1e-2 {
				t.Errorf("parameter %d, element %d: Ω %g, by differences %g", i, at, want[at], got)
			}
		}
	})
}

func TestAnchors(t *testing.T) {
	torch.Scope(func() {
		omega := []torch.Tensor{
			torch.FromSlice([]float32{1, 3, 2, 5}, 2, 2), torch.FromSlice([]float32{0.25}), torch.Full([]int64{3, 2}, 0.1, false),
			torch.Zeros([]int64{4}, false), torch.FromSlice([]float32{0, 1e-45}), torch.FromSlice([]float32{0, 3e38}),
		}
		anchors := (&importance.Options{}).Anchors(omega)
		for i, want := range [][]float32{{1, 0.5, 0.75, 0}, {1}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1}, {1, 0}, {1, 0}} {
			if got := torch.ToSlice[float32](anchors[i]); !slices.Equal(got, want) {
				t.Errorf("anchors %v, want %v", got, want)
			}
			if !slices.Equal(anchors[i].Shape(), omega[i].Shape()) {
				t.Errorf("shape %v, want %v", anchors[i].Shape(), omega[i].Shape())
			}
		}
	})
}

// Without its guard a tensor that is the same everywhere has weights 0/0; others have those that they have with it.
func TestCompatMinMaxGuard(t *testing.T) {
	torch.Scope(func() {
		omega := []torch.Tensor{torch.FromSlice([]float32{1, 3, 2, 5}), torch.Full([]int64{3}, 0.1, false)}
		anchors := (&importance.Options{Guard: "off"}).Anchors(omega)
		if got := torch.ToSlice[float32](anchors[0]); !slices.Equal(got, []float32{1, 0.5, 0.75, 0}) {
			t.Errorf("anchors %v", got)
		}
		for _, v := range torch.ToSlice[float32](anchors[1]) {
			if v == v {
				t.Errorf("a constant tensor has weight %g", v)
			}
		}
	})
}

// The value of the penalty and its gradient, at a point of the reference.
func TestPenaltyIsTheReferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		net := g.Fresh()
		params := net.Parameters()
		at, anchors := g.Split(g.Tensor("penalty.at"), params), g.Split(g.Tensor("anchor.mas"), params)
		torch.NoGrad(func() {
			got, want := torch.ToSlice[float64](kernels.AnchorPenalty(at, params, anchors)), torch.ToSlice[float64](g.Tensor("penalty.value"))
			for i := range want {
				if math.Abs(got[i]-want[i]) > 1e-6*want[i] {
					t.Errorf("penalty %v, want %v", got, want)
				}
			}
			if !torch.Equal(g.Tensor("penalty.autograd"), g.Tensor("penalty.direct")) {
				t.Error("the reference's two gradients differ")
			}
			// One step without gradient, decay or momentum moves by -λΩ̄(θ-θ⁰).
			zeros, momenta, moved := make([]torch.Tensor, len(at)), make([]torch.Tensor, len(at)), make([]torch.Tensor, len(at))
			for i, p := range at {
				zeros[i], momenta[i], moved[i] = p.ZerosLike(), p.ZerosLike(), p.Clone()
			}
			kernels.AnchoredSGD(moved, zeros, momenta, anchors, params, 1, 0, 0, 0.7, true)
			if !torch.Equal(smallnet.Flat(momenta), g.Tensor("penalty.direct")) {
				t.Error("the penalty's gradient has other bits than the reference's")
			}
		})
	})
}

func TestOptions(t *testing.T) {
	for _, kind := range []string{"mas", "fisher-emp", "fisher-true", "uniform"} {
		o := importance.Options{Kind: kind, BN: "train"}
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s with batch statistics: %v", kind, err)
		}
	}
	if err := (&importance.Options{Kind: "mas-batch", BN: "train"}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestInterruptedAndForbidden(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		net := g.Fresh()
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stopped by a test")
		images := &unlearn.Examples{X: g.Tensor("x"), Y: g.Tensor("y"), Part: data.PartForget, Meter: data.NewMeter(data.ForgetOnly, nil)}
		images.Meter.Enter(data.PhaseImportance)
		job := &importance.Job{Net: net, Params: net.Parameters(), Images: images, Options: importance.Options{Kind: "mas"}}
		_, err := job.Run(ctx, func(done int) {
			if done == 3 {
				cancel(stop)
			}
		})
		if !errors.Is(err, stop) {
			t.Errorf("interrupted: %v", err)
		}
		if reads := images.Meter.Reads()[data.PhaseImportance][data.PartForget]; reads != 3 {
			t.Errorf("%d images read before the interruption, want 3", reads)
		}
		images.Part = data.PartRetain
		var forbidden *data.AccessError
		if _, err := job.Run(t.Context(), nil); !errors.As(err, &forbidden) {
			t.Errorf("retained images under a forget-only regime: %v", err)
		}
	})
}
