package models

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// SqueezeNet with torchvision's keys and initialisation (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer
// parameters", 2016). Its last layer classifies every place of the map, and the average of that are the logits.

func init() {
	pool := func() nn.Module { return nn.MaxPool2d(3, 2, 0, 1, true) }
	imagenet("squeezenet1_0", "torchvision SqueezeNet 1.0", 1_248_424, 818_924_576, func(classes int64, normalise nn.Module) Classifier {
		return newSqueezeNet(classes, normalise,
			biasedConv(3, 96, 7, 2, 0), nn.ReLU(true), pool(),
			newFire(96, 16, 64), newFire(128, 16, 64), newFire(128, 32, 128), pool(),
			newFire(256, 32, 128), newFire(256, 48, 192), newFire(384, 48, 192), newFire(384, 64, 256), pool(),
			newFire(512, 64, 256))
	})
	imagenet("squeezenet1_1", "torchvision SqueezeNet 1.1: as accurate with 2.4 times less computation", 1_235_496, 349_151_936, func(classes int64, normalise nn.Module) Classifier {
		return newSqueezeNet(classes, normalise,
			biasedConv(3, 64, 3, 2, 0), nn.ReLU(true), pool(),
			newFire(64, 16, 64), newFire(128, 16, 64), pool(),
			newFire(128, 32, 128), newFire(256, 32, 128), pool(),
			newFire(256, 48, 192), newFire(384, 48, 192), newFire(384, 64, 256), newFire(512, 64, 256))
	})
}

type squeezeNet struct {
	nn.Base
	normalise, features, dropout nn.Module
	last                         *nn.Conv2dModule
}

func newSqueezeNet(classes int64, normalise nn.Module, layers ...nn.Module) *squeezeNet {
	m := &squeezeNet{
		normalise: normalise, features: nn.Sequential(layers...),
		dropout: nn.Dropout(0.5), last: biasedConv(512, classes, 1, 1, 0),
	}
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", nn.Sequential(m.dropout, m.last))
	for _, module := range nn.Modules(m) {
		if c, ok := module.(*nn.Conv2dModule); ok {
			if c == m.last {
				initializer.Normal(c.Weight, 0, 0.01)
			} else {
				initializer.KaimingUniform(c.Weight, 0, "fan_in", "leaky_relu")
			}
			initializer.Zeros(c.Bias)
		}
	}
	return m
}

// places gives what the last layer reads, [n, 512, h, w].
func (m *squeezeNet) places(x torch.Tensor) torch.Tensor {
	return m.dropout.Forward(m.features.Forward(m.normalise.Forward(x)))
}

func (m *squeezeNet) Forward(x torch.Tensor) torch.Tensor {
	return globalAverage(F.Relu(m.last.Forward(m.places(x)), true))
}

func (m *squeezeNet) Features(x torch.Tensor) torch.Tensor { return globalAverage(m.places(x)) }

// fire squeezes the channels and expands them again by convolutions of both sizes, side by side.
type fire struct {
	nn.Base
	squeeze, one, three *nn.Conv2dModule
}

func newFire(in, squeeze, expand int64) *fire {
	m := &fire{
		squeeze: biasedConv(in, squeeze, 1, 1, 0),
		one:     biasedConv(squeeze, expand, 1, 1, 0),
		three:   biasedConv(squeeze, expand, 3, 1, 1),
	}
	m.Child("squeeze", m.squeeze)
	m.Child("expand1x1", m.one)
	m.Child("expand3x3", m.three)
	return m
}

func (m *fire) Forward(x torch.Tensor) torch.Tensor {
	x = F.Relu(m.squeeze.Forward(x), true)
	return torch.Cat([]torch.Tensor{F.Relu(m.one.Forward(x), true), F.Relu(m.three.Forward(x), true)}, 1)
}
