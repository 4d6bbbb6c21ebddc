// Package initializer fills parameters with the numbers torch.nn.init would: the same draws from the same generator, in
// the same order, so that a seed gives the same bits as in PyTorch.
//
// Draws come from libtorch's default generator (torch.ManualSeed) or, inside torch.Seeded, from the given one. Every
// function writes its tensor in place, without a trace in autograd, and works outside scopes too.
package initializer

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"l2ul/torch"
)

// Undrawn runs fn, which makes modules that are given other weights at once: what the functions of this package are asked for
// on its thread meanwhile they leave undone. Of large networks, drawing is most of the making. It cannot be nested.
func Undrawn(fn func()) {
	torch.Scope(func() { // stays on its thread
		oneUndrawn.Lock()
		defer oneUndrawn.Unlock()
		undrawn.Store(int64(unix.Gettid()))
		defer undrawn.Store(0)
		fn()
	})
}

var (
	oneUndrawn sync.Mutex
	undrawn    atomic.Int64 // the thread of Undrawn, or 0
)

// write lets fn set a parameter, unless it stays undrawn.
func write(fn func()) {
	if thread := undrawn.Load(); thread == 0 || thread != int64(unix.Gettid()) {
		torch.NoGrad(fn)
	}
}

// Uniform draws every element from [low, high).
func Uniform(t torch.Tensor, low, high float64) {
	write(func() { t.UniformI(low, high) })
}

// Normal draws every element from the normal distribution of the given mean and standard deviation.
func Normal(t torch.Tensor, mean, std float64) {
	write(func() { t.NormalI(mean, std) })
}

// Constant sets every element to value.
func Constant(t torch.Tensor, value float64) {
	write(func() { t.FillI(value) })
}

// Zeros sets every element to 0.
func Zeros(t torch.Tensor) {
	Constant(t, 0)
}

// Ones sets every element to 1.
func Ones(t torch.Tensor) {
	Constant(t, 1)
}

// KaimingUniform draws from ±√3·gain/√fan (He et al., "Delving Deep into Rectifiers", 2015). fanMode is "fan_in" or
// "fan_out"; the gain is that of nonlinearity, where a is the negative slope of "leaky_relu".
func KaimingUniform(t torch.Tensor, a float64, fanMode, nonlinearity string) {
	std := kaimingStd("initializer.KaimingUniform", t, a, fanMode, nonlinearity)
	bound := math.Sqrt(3) * std
	Uniform(t, -bound, bound)
}

// KaimingNormal draws from the normal distribution of standard deviation gain/√fan; arguments as in KaimingUniform.
func KaimingNormal(t torch.Tensor, a float64, fanMode, nonlinearity string) {
	Normal(t, 0, kaimingStd("initializer.KaimingNormal", t, a, fanMode, nonlinearity))
}

// XavierUniform draws from ±√(6/(fan_in+fan_out)) (Glorot and Bengio, "Understanding the Difficulty of Training Deep Feedforward
// Neural Networks", 2010).
func XavierUniform(t torch.Tensor) {
	in, out := CalculateFanInAndFanOut(t)
	bound := math.Sqrt(3) * math.Sqrt(2/float64(in+out)) // as PyTorch rounds it
	Uniform(t, -bound, bound)
}

// TruncNormal draws from the normal distribution of mean 0 and the given standard deviation between -2 and 2, PyTorch's default
// limits, by the inverse of the distribution function.
func TruncNormal(t torch.Tensor, std float64) {
	const limit = 2
	below := func(x float64) float64 { return (1 + math.Erf(x/std/math.Sqrt2)) / 2 } // Φ
	write(func() {
		t.UniformI(2*below(-limit)-1, 2*below(limit)-1)
		t.ErfInvI()
		t.MulScalarI(std * math.Sqrt2)
		t.ClampI(-limit, limit)
	})
}

// CalculateFanInAndFanOut counts the inputs and outputs of one unit of a weight [out, in, kernel...].
func CalculateFanInAndFanOut(t torch.Tensor) (in, out int64) {
	shape := t.Shape()
	if len(shape) < 2 {
		panic(&torch.Error{Op: "initializer.CalculateFanInAndFanOut", Code: torch.Argument, Shapes: [][]int64{shape}, Msg: fmt.Sprintf(
			"a weight needs two dimensions or more, got shape %v", shape)})
	}
	field := int64(1)
	for _, n := range shape[2:] {
		field *= n
	}
	return shape[1] * field, shape[0] * field
}

func kaimingStd(op string, t torch.Tensor, a float64, fanMode, nonlinearity string) float64 {
	in, out := CalculateFanInAndFanOut(t)
	fan := in
	switch fanMode {
	case "fan_in":
	case "fan_out":
		fan = out
	default:
		panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf("fan mode %q is unknown; use fan_in or fan_out", fanMode)})
	}
	return gain(op, nonlinearity, a) / math.Sqrt(float64(fan))
}

// gain is torch.nn.init.calculate_gain for the functions our layers use.
func gain(op, nonlinearity string, a float64) float64 {
	switch nonlinearity {
	case "linear":
		return 1
	case "relu":
		return math.Sqrt(2)
	case "leaky_relu":
		return math.Sqrt(2 / (1 + float64(a*a)))
	}
	panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf("nonlinearity %q is unknown; use linear, relu or leaky_relu", nonlinearity)})
}
