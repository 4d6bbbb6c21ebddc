package models

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// VGG with torchvision's keys and initialisation (Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale
// Image Recognition", 2015), as published and with batch normalisation.

func init() {
	for _, v := range []struct {
		name, summary            string
		convolutions             [5]int // between poolings; their channels are 64, 128, 256, 512, 512
		macs, parameters, normed int64  // parameters without and with batch normalisation
	}{
		{"vgg11", "torchvision VGG-11", [5]int{1, 1, 2, 2, 2}, 7_609_090_048, 132_863_336, 132_868_840},
		{"vgg13", "torchvision VGG-13", [5]int{2, 2, 2, 2, 2}, 11_308_466_176, 133_047_848, 133_053_736},
		{"vgg16", "torchvision VGG-16", [5]int{2, 2, 3, 3, 3}, 15_470_264_320, 138_357_544, 138_365_992},
		{"vgg19", "torchvision VGG-19", [5]int{2, 2, 4, 4, 4}, 19_632_062_464, 143_667_240, 143_678_248},
	} {
		imagenet(v.name, v.summary, v.parameters, v.macs, func(classes int64, normalise nn.Module) Classifier {
			return newVGG(v.convolutions, false, classes, normalise)
		})
		imagenet(v.name+"_bn", v.summary+" with batch normalisation", v.normed, v.macs, func(classes int64, normalise nn.Module) Classifier {
			return newVGG(v.convolutions, true, classes, normalise)
		})
	}
}

type vgg struct {
	nn.Base
	normalise, features, hidden nn.Module
	head                        *nn.LinearModule
}

func newVGG(convolutions [5]int, normed bool, classes int64, normalise nn.Module) *vgg {
	var layers []nn.Module
	in := int64(3)
	for i, n := range convolutions {
		width := min(int64(64)<<i, 512)
		for range n {
			layers = append(layers, biasedConv(in, width, 3, 1, 1))
			if normed {
				layers = append(layers, batchNorm(width))
			}
			layers = append(layers, nn.ReLU(true))
			in = width
		}
		layers = append(layers, nn.MaxPool2d(2, 2, 0, 1, false))
	}
	hidden := []nn.Module{
		nn.Linear(512*7*7, 4096, true), nn.ReLU(true), nn.Dropout(0.5),
		nn.Linear(4096, 4096, true), nn.ReLU(true), nn.Dropout(0.5),
	}
	m := &vgg{normalise: normalise, features: nn.Sequential(layers...), head: nn.Linear(4096, classes, true)}
	m.hidden = nn.Sequential(append([]nn.Module{nn.AdaptiveAvgPool2d(7, 7), nn.Flatten()}, hidden...)...)
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", nn.Sequential(append(hidden, m.head)...))
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			initializer.KaimingNormal(l.Weight, 0, "fan_out", "relu")
			initializer.Zeros(l.Bias)
		case *nn.LinearModule:
			initializer.Normal(l.Weight, 0, 0.01)
			initializer.Zeros(l.Bias)
		}
	}
	return m
}

func (m *vgg) Forward(x torch.Tensor) torch.Tensor { return m.head.Forward(m.Features(x)) }

func (m *vgg) Features(x torch.Tensor) torch.Tensor {
	return m.hidden.Forward(m.features.Forward(m.normalise.Forward(x)))
}
