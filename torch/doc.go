// Package torch gives Go the tensors of libtorch, the C++ library under PyTorch: every operator, autograd, mixed
// precision and generators, with errors and memory under control.
//
// # One door
//
// One mechanism is bound, not thousands of functions: an operator is looked up by name and called with arguments that
// are checked against its own schema. [Define] reaches any operator of libtorch, and of libraries loaded with
// [LoadLibrary]; the methods of [Tensor] are one line each on top of it.
//
// # Memory
//
// The garbage collector never decides when tensor memory returns. Every tensor made belongs to the innermost [Scope] of
// its thread, which frees it in one call when it ends. [Keep] moves a tensor to the scope above; [Own] takes it out of
// all scopes, and its owner calls Free. Freeing drops a handle only: autograd keeps what backward needs. Making a tensor
// outside a scope panics, and so does using a freed one, because handles carry a generation. [Live] counts what is not
// freed.
//
//	err := torch.Run(torch.CPU, func() error {
//		x := torch.RandN([]int64{2, 3}, false)
//		torch.Scope(func() {
//			y := x.Relu().Sum() // two tensors
//			fmt.Println(y.Item())
//		}) // both are freed here
//		return nil
//	})
//
// # Errors
//
// There are two regimes. Mistakes in shapes, dtypes and handles inside numeric code panic with an [*Error], so that
// formulas stay readable; [Run] and [Try] turn exactly that type into a returned error. Everything that touches the
// world (files, devices, libraries) returns an error. No error is kept anywhere: it travels in the call that failed.
//
// # Threads
//
// Gradient mode, autocast, the default generator, scopes and the number of threads belong to the operating system's
// thread. They exist only as functions that take a closure ([Scope], [NoGrad], [Autocast], [Seeded], [Run]), lock the
// goroutine to its thread, and put back what was before, so that no mode leaks to another goroutine. A tensor may be
// used from several goroutines, each inside a scope of its own, as long as nobody frees it meanwhile.
//
// # Devices
//
// Everything computes on the CPU unless it is told otherwise. Package torch/cuda opens the GPUs of a machine; then a
// tensor goes to one with To and [CUDA], and operators follow their tensors.
//
// # Reproducibility
//
// Generators give PyTorch's streams. The same seed, processor type, number of threads and libtorch give the same bits
// as Python. [Build] says which instruction set the kernels picked.
//
// # Coming from gotorch
//
// Names and argument order are gotorch's, with these exceptions.
//
//	gotorch                            here                            why
//	torch.GC(), FinishGC()             torch.Scope(func(){…})          no finalizers: memory returns at a known line
//	tensor without a scope             inside torch.Run                something must free it
//	torch.Relu(x), Sum(x), …           x.Relu(), x.Sum(), …            one way: functions of one tensor are methods
//	torch.Add(a, b, 1)                 a.Add(b, 1)                     the same
//	torch.MM(a, b), Stack, TopK        the same
//	x.Item() any                       x.Item() float64, x.ItemInt()   no type assertion at every call
//	x.Sum(map[string]any{"dim": 1})    x.SumDim([]int64{1}, false)     checked by the compiler
//	x.Index(i)                         x.Select(0, i)                  PyTorch's name
//	x.To(device, dtype), CastTo        the same
//	x.CopyTo(device)                   x.To(device, x.Dtype())         one way
//	x.SetData(y)                       x.CopyI(y) inside NoGrad        the handle stays the same
//	float32 scalars                    float64                         Go's constants need no conversion
//	torch.SGD(…)                       optim.SGD(…)                    a package of its own
//	opt.AddParameters, ZeroGrad, Step  the same
//	nn.Module with Init(m)             embed nn.Base, Child(…)         order is that of the calls, not of a Go map
//	initializer.ManualSeed             torch.ManualSeed, Seeded        a generator may be given
//	gob state dicts                    nn.Snapshot, ckpt.Save          files that PyTorch opens
//	panics that end the process        *torch.Error, Run, Try          C++ exceptions become Go errors
package torch
