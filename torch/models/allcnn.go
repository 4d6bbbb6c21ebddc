package models

import (
	"l2ul/torch"
	"l2ul/torch/nn"
)

// The all-convolutional network of Springenberg et al. ("Striving for Simplicity", 2015, All-CNN-C) in the form of work on
// unlearning, with the keys of AdityaGolatkar/SelectiveForgetting: batch normalisation, no dropout, a linear layer behind the
// pooling, PyTorch's default initialisation.

func init() {
	cifar10("allcnn", "All-CNN for CIFAR: 96/192 channels, with batch normalisation", 1_620_010, 344_754_048,
		func(classes int64, normalise nn.Module) Classifier { return newAllCNN(classes, normalise) })
}

type allCNN struct {
	nn.Base
	normalise            nn.Module
	features, classifier *nn.SequentialModule
}

func newAllCNN(classes int64, normalise nn.Module) *allCNN {
	layer := func(in, out, kernel, stride int64) nn.Module {
		return nn.Sequential(conv(in, out, kernel, stride), batchNorm(out), nn.ReLU(true))
	}
	m := &allCNN{normalise: normalise}
	m.features = nn.Sequential(
		layer(3, 96, 3, 1), layer(96, 96, 3, 1), layer(96, 192, 3, 2),
		nn.Sequential(), // their dropout, which is off
		layer(192, 192, 3, 1), layer(192, 192, 3, 1), layer(192, 192, 3, 2),
		nn.Sequential(),
		layer(192, 192, 3, 1), layer(192, 192, 1, 1), nn.Functional(globalAverage))
	m.classifier = nn.Sequential(nn.Linear(192, classes, true))
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", m.classifier)
	return m
}

func (m *allCNN) Forward(x torch.Tensor) torch.Tensor { return m.classifier.Forward(m.Features(x)) }

func (m *allCNN) Features(x torch.Tensor) torch.Tensor {
	return m.features.Forward(m.normalise.Forward(x))
}
