package models

import (
	"fmt"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// The small residual networks for CIFAR of He et al. (2016), §4.2, with the keys and the initialisation of
// akamaster/pytorch_resnet_cifar10: 6n+2 layers, 16/32/64 channels, shortcuts without parameters (option A).

func init() {
	cifar10("resnet20", "ResNet-20 for CIFAR: 16/32/64 channels", 269_722, 40_551_040,
		func(classes int64, normalise nn.Module) Classifier { return newSmallResNet(3, classes, normalise) })
	cifar10("resnet56", "ResNet-56 for CIFAR: 16/32/64 channels", 853_018, 125_485_696,
		func(classes int64, normalise nn.Module) Classifier { return newSmallResNet(9, classes, normalise) })
}

type smallResNet struct {
	nn.Base
	normalise nn.Module
	conv1     *nn.Conv2dModule
	bn1       *nn.BatchNorm2dModule
	layers    [3]*nn.SequentialModule
	linear    *nn.LinearModule
}

// newSmallResNet makes a network with n blocks in each stage.
func newSmallResNet(n int, classes int64, normalise nn.Module) *smallResNet {
	m := &smallResNet{normalise: normalise, conv1: conv(3, 16, 3, 1), bn1: batchNorm(16)}
	m.Child("normalise", m.normalise)
	m.Child("conv1", m.conv1)
	m.Child("bn1", m.bn1)
	in := int64(16)
	for i := range m.layers {
		width, stride := int64(16)<<i, int64(1)
		if i > 0 {
			stride = 2
		}
		blocks := []nn.Module{newPlainBlock(in, width, stride)}
		for range n - 1 {
			blocks = append(blocks, newPlainBlock(width, width, 1))
		}
		m.layers[i] = nn.Sequential(blocks...)
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

func (m *smallResNet) Forward(x torch.Tensor) torch.Tensor { return m.linear.Forward(m.Features(x)) }

func (m *smallResNet) Features(x torch.Tensor) torch.Tensor {
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
