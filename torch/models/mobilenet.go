package models

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// MobileNetV2 with torchvision's keys and initialisation (Sandler et al., "MobileNetV2: Inverted Residuals and Linear
// Bottlenecks", 2018).

func init() {
	imagenet("mobilenet_v2", "torchvision MobileNetV2: inverted residuals, depthwise convolutions", 3_504_872, 300_774_272,
		func(classes int64, normalise nn.Module) Classifier { return newMobileNetV2(classes, normalise) })
}

type mobileNetV2 struct {
	nn.Base
	normalise, features, dropout nn.Module
	head                         *nn.LinearModule
}

func newMobileNetV2(classes int64, normalise nn.Module) *mobileNetV2 {
	layers := []nn.Module{convNormReLU6(3, 32, 3, 2, 1)}
	in := int64(32)
	for _, stage := range []struct{ expand, width, blocks, stride int64 }{ // table 2 of the paper
		{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
	} {
		for b := range stage.blocks {
			stride := int64(1)
			if b == 0 {
				stride = stage.stride
			}
			layers = append(layers, newInvertedResidual(in, stage.width, stride, stage.expand))
			in = stage.width
		}
	}
	layers = append(layers, convNormReLU6(in, 1280, 1, 1, 1))
	m := &mobileNetV2{
		normalise: normalise, features: nn.Sequential(layers...),
		dropout: nn.Dropout(0.2), head: nn.Linear(1280, classes, true),
	}
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", nn.Sequential(m.dropout, m.head))
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			initializer.KaimingNormal(l.Weight, 0, "fan_out", "leaky_relu")
		case *nn.LinearModule:
			initializer.Normal(l.Weight, 0, 0.01)
			initializer.Zeros(l.Bias)
		}
	}
	return m
}

func (m *mobileNetV2) Forward(x torch.Tensor) torch.Tensor { return m.head.Forward(m.Features(x)) }

func (m *mobileNetV2) Features(x torch.Tensor) torch.Tensor {
	return m.dropout.Forward(globalAverage(m.features.Forward(m.normalise.Forward(x))))
}

// convNormReLU6 is torchvision's Conv2dNormActivation.
func convNormReLU6(in, out, kernel, stride, groups int64) nn.Module {
	return nn.Sequential(nn.Conv2d(in, out, kernel, stride, kernel/2, 1, groups, false, "zeros"), batchNorm(out), nn.ReLU6(true))
}

// invertedResidual widens the image, filters each channel by itself and narrows it again without an activation.
type invertedResidual struct {
	nn.Base
	conv     *nn.SequentialModule
	shortcut bool // the input is added: it has the shape of the output
}

func newInvertedResidual(in, out, stride, expand int64) *invertedResidual {
	inner := in * expand
	var layers []nn.Module
	if expand != 1 {
		layers = append(layers, convNormReLU6(in, inner, 1, 1, 1))
	}
	layers = append(layers, convNormReLU6(inner, inner, 3, stride, inner), conv(inner, out, 1, 1), batchNorm(out))
	m := &invertedResidual{conv: nn.Sequential(layers...), shortcut: stride == 1 && in == out}
	m.Child("conv", m.conv)
	return m
}

func (m *invertedResidual) Forward(x torch.Tensor) torch.Tensor {
	y := m.conv.Forward(x)
	if m.shortcut {
		y = x.Add(y, 1)
	}
	return y
}
