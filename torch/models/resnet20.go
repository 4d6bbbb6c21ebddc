package models

import (
	"fmt"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// The small residual network for CIFAR of He et al. (2016), §4.2, with the keys and the initialisation of
// akamaster/pytorch_resnet_cifar10: 20 layers, 16/32/64 channels, shortcuts without parameters (option A).

func init() {
	register(Card{
		Name: "resnet20", Summary: "ResNet-20 for CIFAR: 16/32/64 channels, 0.27 million parameters",
		Classes: 10, Size: 32, Mean: []float64{0.4914, 0.4822, 0.4465}, Std: []float64{0.2023, 0.1994, 0.2010},
	}, func(classes int64, normalise nn.Module) Classifier { return newResNet20(classes, normalise) })
}

type resNet20 struct {
	nn.Base
	normalise nn.Module
	conv1     *nn.Conv2dModule
	bn1       *nn.BatchNorm2dModule
	layers    [3]*nn.SequentialModule
	linear    *nn.LinearModule
}

func newResNet20(classes int64, normalise nn.Module) *resNet20 {
	m := &resNet20{normalise: normalise, conv1: conv(3, 16, 3, 1), bn1: batchNorm(16)}
	m.Child("normalise", m.normalise)
	m.Child("conv1", m.conv1)
	m.Child("bn1", m.bn1)
	in := int64(16)
	for i := range m.layers {
		width, stride := int64(16)<<i, int64(1)
		if i > 0 {
			stride = 2
		}
		m.layers[i] = nn.Sequential(
			newPlainBlock(in, width, stride), newPlainBlock(width, width, 1), newPlainBlock(width, width, 1))
		m.Child(fmt.Sprintf("layer%d", i+1), m.layers[i])
		in = width
	}
	m.linear = nn.Linear(in, classes, true)
	m.Child("linear", m.linear)
	// All weights are drawn anew after the defaults, the head's too; its bias keeps the default.
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			initializer.KaimingNormal(l.Weight, 0, "fan_in", "leaky_relu")
		case *nn.LinearModule:
			initializer.KaimingNormal(l.Weight, 0, "fan_in", "leaky_relu")
		}
	}
	return m
}

func (m *resNet20) Forward(x torch.Tensor) torch.Tensor { return m.linear.Forward(m.Features(x)) }

func (m *resNet20) Features(x torch.Tensor) torch.Tensor {
	x = m.normalise.Forward(x)
	x = F.Relu(m.bn1.Forward(m.conv1.Forward(x)), true)
	for _, layer := range m.layers {
		x = layer.Forward(x)
	}
	return globalAverage(x)
}

// plainBlock is a basic block whose shortcut, where the shape changes, takes every second pixel and pads new channels
// with zeros, half of them on either side.
type plainBlock struct {
	nn.Base
	conv1, conv2 *nn.Conv2dModule
	bn1, bn2     *nn.BatchNorm2dModule
	widen        int64 // zero channels added on either side; 0 where the shortcut is the identity
}

func newPlainBlock(in, width, stride int64) *plainBlock {
	m := &plainBlock{
		conv1: conv(in, width, 3, stride), bn1: batchNorm(width),
		conv2: conv(width, width, 3, 1), bn2: batchNorm(width),
		widen: (width - in) / 2,
	}
	m.Child("conv1", m.conv1)
	m.Child("bn1", m.bn1)
	m.Child("conv2", m.conv2)
	m.Child("bn2", m.bn2)
	return m
}

var opSlice = torch.Define("aten::slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)")

func (m *plainBlock) Forward(x torch.Tensor) torch.Tensor {
	y := F.Relu(m.bn1.Forward(m.conv1.Forward(x)), true)
	y = m.bn2.Forward(m.conv2.Forward(y))
	if m.widen > 0 {
		x = opSlice.One(opSlice.One(x, 2, nil, nil, 2), 3, nil, nil, 2)
		x = x.Pad([]int64{0, 0, 0, 0, m.widen, m.widen}, 0)
	}
	return addRelu(y, x)
}
