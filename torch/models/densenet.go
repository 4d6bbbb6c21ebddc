package models

import (
	"fmt"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// DenseNet with torchvision's keys and initialisation (Huang et al., "Densely Connected Convolutional Networks", 2017), without
// dropout.

func init() {
	imagenet("densenet121", "torchvision DenseNet-121: each layer reads all before it", 7_978_856, 2_834_161_664,
		func(classes int64, normalise nn.Module) Classifier {
			return newDenseNet([4]int{6, 12, 24, 16}, 32, classes, normalise)
		})
}

type denseNet struct {
	nn.Base
	normalise, features nn.Module
	classifier          *nn.LinearModule
}

// newDenseNet makes a network whose layers add growth channels each.
func newDenseNet(depths [4]int, growth, classes int64, normalise nn.Module) *denseNet {
	m := &denseNet{normalise: normalise}
	features := &nn.SequentialModule{}
	add := func(name string, module nn.Module) { features.Child(name, module) }
	add("conv0", conv(3, 64, 7, 2))
	add("norm0", batchNorm(64))
	add("relu0", nn.ReLU(true))
	add("pool0", nn.MaxPool2d(3, 2, 1, 1, false))
	channels := int64(64)
	for i, depth := range depths {
		block := newDenseBlock(channels, growth, depth)
		add(fmt.Sprintf("denseblock%d", i+1), block)
		channels += int64(depth) * growth
		if i < len(depths)-1 {
			add(fmt.Sprintf("transition%d", i+1), newTransition(channels, channels/2))
			channels /= 2
		}
	}
	add("norm5", batchNorm(channels))
	add("relu5", nn.ReLU(true))
	m.features, m.classifier = features, nn.Linear(channels, classes, true)
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", m.classifier)
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			initializer.KaimingNormal(l.Weight, 0, "fan_in", "leaky_relu")
		case *nn.LinearModule:
			initializer.Zeros(l.Bias)
		}
	}
	return m
}

func (m *denseNet) Forward(x torch.Tensor) torch.Tensor { return m.classifier.Forward(m.Features(x)) }

func (m *denseNet) Features(x torch.Tensor) torch.Tensor {
	return globalAverage(m.features.Forward(m.normalise.Forward(x)))
}

// newTransition narrows the channels and halves height and width.
func newTransition(in, out int64) *nn.SequentialModule {
	m := &nn.SequentialModule{}
	m.Child("norm", batchNorm(in))
	m.Child("relu", nn.ReLU(true))
	m.Child("conv", conv(in, out, 1, 1))
	m.Child("pool", nn.AvgPool2d(2, 2, 0))
	return m
}

// denseBlock is a chain of layers of which each reads the concatenation of the block's input and all results before it.
type denseBlock struct {
	nn.Base
	layers []*denseLayer
}

func newDenseBlock(in, growth int64, depth int) *denseBlock {
	m := &denseBlock{}
	for i := range depth {
		layer := newDenseLayer(in+int64(i)*growth, growth)
		m.layers = append(m.layers, layer)
		m.Child(fmt.Sprintf("denselayer%d", i+1), layer)
	}
	return m
}

func (m *denseBlock) Forward(x torch.Tensor) torch.Tensor {
	parts := []torch.Tensor{x}
	for _, layer := range m.layers {
		parts = append(parts, layer.Forward(torch.Cat(parts, 1)))
	}
	return torch.Cat(parts, 1)
}

// denseLayer makes growth channels by way of four times as many.
type denseLayer struct {
	nn.Base
	norm1, norm2 *nn.BatchNorm2dModule
	conv1, conv2 *nn.Conv2dModule
}

func newDenseLayer(in, growth int64) *denseLayer {
	m := &denseLayer{
		norm1: batchNorm(in), conv1: conv(in, 4*growth, 1, 1),
		norm2: batchNorm(4 * growth), conv2: conv(4*growth, growth, 3, 1),
	}
	m.Child("norm1", m.norm1)
	m.Child("conv1", m.conv1)
	m.Child("norm2", m.norm2)
	m.Child("conv2", m.conv2)
	return m
}

func (m *denseLayer) Forward(x torch.Tensor) torch.Tensor {
	x = m.conv1.Forward(F.Relu(m.norm1.Forward(x), true))
	return m.conv2.Forward(F.Relu(m.norm2.Forward(x), true))
}
