package nn

import (
	"strconv"

	"l2ul/torch"
	F "l2ul/torch/nn/functional"
)

// FunctionalModule is a layer without parameters, made by Functional and by the constructors of such layers.
type FunctionalModule struct {
	Base
	fn func(torch.Tensor) torch.Tensor
}

// Functional wraps a function so that it can stand in Sequential.
func Functional(fn func(torch.Tensor) torch.Tensor) *FunctionalModule {
	return &FunctionalModule{fn: fn}
}

// Forward applies the function.
func (m *FunctionalModule) Forward(x torch.Tensor) torch.Tensor { return m.fn(x) }

// ReLU makes max(x, 0), elementwise. With inplace it overwrites its input.
func ReLU(inplace bool) *FunctionalModule {
	return Functional(func(x torch.Tensor) torch.Tensor { return F.Relu(x, inplace) })
}

// ReLU6 makes min(max(x, 0), 6), elementwise. With inplace it overwrites its input.
func ReLU6(inplace bool) *FunctionalModule {
	return Functional(func(x torch.Tensor) torch.Tensor { return F.Relu6(x, inplace) })
}

// GELU makes x·Φ(x), elementwise, Φ the standard normal distribution function.
func GELU() *FunctionalModule { return Functional(F.Gelu) }

// Permute reorders the dimensions.
func Permute(dims ...int64) *FunctionalModule {
	return Functional(func(x torch.Tensor) torch.Tensor { return x.Permute(dims...) })
}

// MaxPool2d makes the maximum over square windows of images [n, c, h, w]; stride 0 means the kernel size.
func MaxPool2d(kernelSize, stride, padding, dilation int64, ceilMode bool) *FunctionalModule {
	if stride == 0 {
		stride = kernelSize
	}
	if kernelSize < 1 || stride < 1 || padding < 0 || dilation < 1 {
		fail("nn.MaxPool2d", "kernel %d, stride %d, padding %d, dilation %d: all but padding must be 1 or more",
			kernelSize, stride, padding, dilation)
	}
	kernel, step, pad, dil := pair(kernelSize), pair(stride), pair(padding), pair(dilation)
	return Functional(func(x torch.Tensor) torch.Tensor { return F.MaxPool2d(x, kernel, step, pad, dil, ceilMode) })
}

// AvgPool2d makes the average over square windows of images [n, c, h, w], padding included; stride 0 means the kernel size.
func AvgPool2d(kernelSize, stride, padding int64) *FunctionalModule {
	if stride == 0 {
		stride = kernelSize
	}
	if kernelSize < 1 || stride < 1 || padding < 0 {
		fail("nn.AvgPool2d", "kernel %d, stride %d, padding %d: all but padding must be 1 or more", kernelSize, stride, padding)
	}
	kernel, step, pad := pair(kernelSize), pair(stride), pair(padding)
	return Functional(func(x torch.Tensor) torch.Tensor { return F.AvgPool2d(x, kernel, step, pad) })
}

// AdaptiveAvgPool2d makes the average over windows chosen so that images [n, c, h, w] become [n, c, height, width].
func AdaptiveAvgPool2d(height, width int64) *FunctionalModule {
	if height < 1 || width < 1 {
		fail("nn.AdaptiveAvgPool2d", "output %dx%d: both must be 1 or more", height, width)
	}
	size := []int64{height, width}
	return Functional(func(x torch.Tensor) torch.Tensor { return F.AdaptiveAvgPool2d(x, size) })
}

// Flatten makes [n, …] into [n, product of the rest].
func Flatten() *FunctionalModule {
	return Functional(func(x torch.Tensor) torch.Tensor { return x.Flatten(1, -1) })
}

func pair(n int64) []int64 { return []int64{n, n} }

// SequentialModule is a chain of modules, made by Sequential.
type SequentialModule struct {
	Base
	watch func(child string, m Module, x torch.Tensor) torch.Tensor
}

// Sequential makes the chain of the given modules; their keys are their positions, "0", "1", …. An empty chain is the
// identity.
func Sequential(modules ...Module) *SequentialModule {
	m := &SequentialModule{}
	for i, c := range modules {
		m.Child(strconv.Itoa(i), c)
	}
	return m
}

// Forward applies the modules one after the other.
func (m *SequentialModule) Forward(x torch.Tensor) torch.Tensor {
	for _, c := range m.children {
		if m.watch != nil {
			x = m.watch(c.name, c.module, x)
		} else {
			x = c.module.Forward(x)
		}
	}
	return x
}

// Watcher stands in for the Forward of a module in a chain, which it calls. name is the module's key prefix in the whole network.
// Modules may write over their inputs and over what others returned: whoever keeps values copies them at once.
type Watcher func(name string, m Module, x torch.Tensor) torch.Tensor

// Watch lets w see every module that stands in a SequentialModule of net, which is how networks hold their blocks; nil ends that.
func Watch(net Module, w Watcher) {
	for prefix, m := range Modules(net) {
		chain, ok := m.(*SequentialModule)
		if !ok {
			continue
		}
		chain.watch = nil
		if w != nil {
			chain.watch = func(child string, m Module, x torch.Tensor) torch.Tensor { return w(join(prefix, child), m, x) }
		}
	}
}
