package torch

import (
	"fmt"
	"runtime"
	"sync/atomic"
)

// Run runs a whole job on one locked thread, inside a scope, with dev as the current device. It returns fn's error, or
// the [*Error] that numeric code inside fn panicked with. Tensors are made on the CPU unless an operator is told
// otherwise; work on CUDA goes to the current stream of dev.
func Run(dev Device, fn func() error) (err error) {
	defer catch(&err)
	Scope(func() {
		if dev.Type == CUDAType && dev.Index >= 0 {
			before := exchangeDevice(dev)
			defer opExchangeDevice.Call(before)
		}
		err = fn()
	})
	return err
}

var opExchangeDevice = Define("torchgo_cuda::exchange_device(int device) -> int")

func exchangeDevice(dev Device) (before int64) {
	if _, err := opExchangeDevice.lookup(); err != nil {
		panic(&Error{Op: "Run", Code: Unsupported, Msg: fmt.Sprintf("device %v: CUDA is not open; package torch/cuda opens it", dev)})
	}
	return opExchangeDevice.Call(dev.Index)[0].(int64)
}

// Try runs fn and returns the [*Error] it panicked with, if any. Other panics pass. What fn made is freed by the
// enclosing scope.
func Try(fn func()) (err error) {
	defer catch(&err)
	fn()
	return nil
}

func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case *Error:
		*err = r
	default:
		panic(r)
	}
}

// Scope runs fn on a locked thread and then frees, in one call, every tensor and generator made inside it, except those
// that were kept or owned. Scopes nest. Goroutines started inside need a scope of their own.
func Scope(fn func()) {
	onThread(func() {
		scopePush()
		defer scopePop()
		fn()
	})
}

// Keep moves tensors to the scope above, so that they outlive this one. Owned tensors stay owned.
func Keep(ts ...Tensor) {
	for _, t := range ts {
		t.keep()
	}
}

// KeepOne moves a tensor to the scope above and returns it.
func KeepOne(t Tensor) Tensor {
	t.keep()
	return t
}

// Own takes tensors out of all scopes. Whoever calls it frees them, as modules do with their parameters.
func Own(ts ...Tensor) {
	for _, t := range ts {
		t.own()
	}
}

// Live returns the number of tensors and generators that are not freed. At the end of a program that cleans up it is 0.
func Live() int { return live() }

// NoGrad runs fn without recording operations for backward.
func NoGrad(fn func()) {
	onThread(func() {
		before := setGradMode(false)
		defer setGradMode(before)
		fn()
	})
}

// EnableGrad runs fn with operations recorded for backward, also inside [NoGrad].
func EnableGrad(fn func()) {
	onThread(func() {
		before := setGradMode(true)
		defer setGradMode(before)
		fn()
	})
}

// Autocast runs fn with operators that gain from it computing in d (BFloat16 on the CPU), as torch.autocast does. Casts
// of parameters are cached inside the outermost Autocast: never update parameters inside it, the cache would be stale.
func Autocast(d Dtype, fn func()) {
	if d != BFloat16 && d != Half {
		panic(&Error{Op: "Autocast", Code: Argument, Msg: fmt.Sprintf("%v: use BFloat16 or Half", d)})
	}
	onThread(func() { withAutocast(d, fn) })
}

// Seeded runs fn with every operator that takes a generator, and is given none, drawing from g.
func Seeded(g *Generator, fn func()) {
	onThread(func() {
		seededEnter(g.h)
		defer seededLeave()
		fn()
	})
}

// onThread runs fn with the goroutine locked to its thread: grad mode, autocast, scopes and the number of threads all
// belong to the thread, so a goroutine that could move would leave its modes behind.
func onThread(fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n := numThreads.Load(); n > 0 {
		setThreads(int(n))
	}
	fn()
}

var numThreads atomic.Int32

// SetNumThreads sets how many threads one operator may use, for every Scope, Run and mode entered from now on.
// Results of reductions may depend on it in the last bits. The default is libtorch's: the number of cores.
func SetNumThreads(n int) {
	if n < 1 || n > 1<<16 {
		panic(&Error{Op: "SetNumThreads", Code: Argument, Msg: fmt.Sprintf("%d threads", n)})
	}
	numThreads.Store(int32(n))
}

// SetDeterministic asks libtorch for algorithms that give the same bits on every run of the same machine, at some cost
// on CUDA. It holds for the process.
func SetDeterministic(on bool) { setDeterministic(on) }

// Shutdown flushes what libtorch has buffered. Call it before os.Exit, which runs no C++ code.
func Shutdown() { shutdown() }

// BuildInfo tells which libtorch is linked.
type BuildInfo struct {
	Version       string // as "2.11.0"
	CPUCapability string // the instruction set its kernels picked, as "AVX2": bits of results depend on it
	Config        string // libtorch's own description of its build and of its threads, many lines
}

// Build returns the facts of the linked libtorch.
func Build() BuildInfo { return buildInfo() }
