package models

import (
	"fmt"
	"math"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// Wide residual networks for CIFAR (Zagoruyko and Komodakis, "Wide Residual Networks", 2016), without dropout, with the keys
// and the initialisation of xternalz/WideResNet-pytorch, whose form work on robustness uses too.

func init() {
	cifar10("wrn-28-10", "WRN-28-10 for CIFAR: 160/320/640 channels, normalisation and ReLU before each convolution", 36_479_194, 5_243_328_768,
		func(classes int64, normalise nn.Module) Classifier { return newWideResNet(4, 10, classes, normalise) })
}

type wideResNet struct {
	nn.Base
	normalise nn.Module
	conv1     *nn.Conv2dModule
	blocks    [3]*nn.SequentialModule
	bn1       *nn.BatchNorm2dModule
	fc        *nn.LinearModule
}

// newWideResNet makes a network of 6n+4 layers, with widen times the channels of the small residual network.
func newWideResNet(n int, widen, classes int64, normalise nn.Module) *wideResNet {
	m := &wideResNet{normalise: normalise, conv1: conv(3, 16, 3, 1)}
	m.Child("normalise", m.normalise)
	m.Child("conv1", m.conv1)
	in := int64(16)
	for i := range m.blocks {
		width, stride := widen*16<<i, int64(1)
		if i > 0 {
			stride = 2
		}
		layers := []nn.Module{newWideBlock(in, width, stride)}
		for range n - 1 {
			layers = append(layers, newWideBlock(width, width, 1))
		}
		m.blocks[i] = &nn.SequentialModule{}
		m.blocks[i].Child("layer", nn.Sequential(layers...))
		m.Child(fmt.Sprintf("block%d", i+1), m.blocks[i])
		in = width
	}
	m.bn1, m.fc = batchNorm(in), nn.Linear(in, classes, true)
	m.Child("bn1", m.bn1)
	m.Child("fc", m.fc)
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			_, out := initializer.CalculateFanInAndFanOut(l.Weight)
			initializer.Normal(l.Weight, 0, math.Sqrt(2/float64(out)))
		case *nn.LinearModule:
			initializer.Zeros(l.Bias)
		}
	}
	return m
}

func (m *wideResNet) Forward(x torch.Tensor) torch.Tensor { return m.fc.Forward(m.Features(x)) }

func (m *wideResNet) Features(x torch.Tensor) torch.Tensor {
	x = m.conv1.Forward(m.normalise.Forward(x))
	for _, block := range m.blocks {
		x = block.Forward(x)
	}
	return globalAverage(F.Relu(m.bn1.Forward(x), true))
}

// wideBlock is a basic block whose convolutions follow their normalisation and ReLU. Where the shape changes, the shortcut
// is a 1x1 convolution of what the first of them reads.
type wideBlock struct {
	nn.Base
	bn1, bn2     *nn.BatchNorm2dModule
	conv1, conv2 *nn.Conv2dModule
	shortcut     *nn.Conv2dModule // nil for the identity
}

func newWideBlock(in, width, stride int64) *wideBlock {
	m := &wideBlock{
		bn1: batchNorm(in), conv1: conv(in, width, 3, stride),
		bn2: batchNorm(width), conv2: conv(width, width, 3, 1),
	}
	m.Child("bn1", m.bn1)
	m.Child("conv1", m.conv1)
	m.Child("bn2", m.bn2)
	m.Child("conv2", m.conv2)
	if in != width {
		m.shortcut = conv(in, width, 1, stride)
		m.Child("convShortcut", m.shortcut)
	}
	return m
}

func (m *wideBlock) Forward(x torch.Tensor) torch.Tensor {
	y, shortcut := F.Relu(m.bn1.Forward(x), true), x
	if m.shortcut != nil {
		shortcut = m.shortcut.Forward(y)
	}
	y = F.Relu(m.bn2.Forward(m.conv1.Forward(y)), true)
	return shortcut.Add(m.conv2.Forward(y), 1)
}
