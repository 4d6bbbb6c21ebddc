package models

import (
	"fmt"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// Residual networks for 32x32 images with the keys of weiaicunzai/pytorch-cifar100: architecture B of spec/l2ul.md §6.2.
// 3x3 stem, no max-pool, PyTorch's default initialisation.

func init() {
	cifar100 := func(name, summary string, parameters, macs int64, depths [4]int, bottleneck bool) {
		register(Card{
			Name: name, Summary: summary, Parameters: parameters, MACs: macs, Classes: 100, Size: 32,
			Mean: []float64{0.5071, 0.4867, 0.4408}, Std: []float64{0.2675, 0.2565, 0.2761},
		}, func(classes int64, normalise nn.Module) Classifier {
			return newCIFARResNet(depths, bottleneck, classes, normalise)
		})
	}
	cifar100("cifar-resnet18", "ResNet-18 for small images: 3x3 stem, no max-pool",
		11_220_132, 555_468_800, [4]int{2, 2, 2, 2}, false)
	cifar100("cifar-resnet50", "ResNet-50 of the L2UL paper for CIFAR-100: 3x3 stem, no max-pool, bottleneck blocks",
		23_705_252, 1_298_014_208, [4]int{3, 4, 6, 3}, true)
}

type cifarResNet struct {
	nn.Base
	normalise nn.Module
	stem      *nn.SequentialModule
	stages    [4]*nn.SequentialModule
	fc        *nn.LinearModule
}

func newCIFARResNet(depths [4]int, bottleneck bool, classes int64, normalise nn.Module) *cifarResNet {
	m := &cifarResNet{normalise: normalise, stem: nn.Sequential(conv(3, 64, 3, 1), batchNorm(64), nn.ReLU(true))}
	m.Child("normalise", m.normalise)
	m.Child("conv1", m.stem)
	in := int64(64)
	for i, depth := range depths {
		var blocks []nn.Module
		for b := range depth {
			stride := int64(1)
			if i > 0 && b == 0 {
				stride = 2
			}
			block := newCIFARBlock(in, 64<<i, stride, bottleneck)
			blocks = append(blocks, block)
			in = block.out
		}
		m.stages[i] = nn.Sequential(blocks...)
		m.Child(fmt.Sprintf("conv%d_x", i+2), m.stages[i])
	}
	m.fc = nn.Linear(in, classes, true)
	m.Child("fc", m.fc)
	return m
}

func (m *cifarResNet) Forward(x torch.Tensor) torch.Tensor { return m.fc.Forward(m.Features(x)) }

func (m *cifarResNet) Features(x torch.Tensor) torch.Tensor {
	x = m.stem.Forward(m.normalise.Forward(x))
	for _, stage := range m.stages {
		x = stage.Forward(x)
	}
	return globalAverage(x)
}

// cifarBlock keeps its layers in a chain, whose positions are the keys.
type cifarBlock struct {
	nn.Base
	residual, shortcut *nn.SequentialModule
	out                int64 // channels of the output
}

func newCIFARBlock(in, width, stride int64, bottleneck bool) *cifarBlock {
	m := &cifarBlock{out: width, shortcut: nn.Sequential()}
	relu := func() nn.Module { return nn.ReLU(true) }
	if bottleneck {
		m.out = 4 * width
		m.residual = nn.Sequential(
			conv(in, width, 1, 1), batchNorm(width), relu(),
			conv(width, width, 3, stride), batchNorm(width), relu(),
			conv(width, m.out, 1, 1), batchNorm(m.out))
	} else {
		m.residual = nn.Sequential(
			conv(in, width, 3, stride), batchNorm(width), relu(),
			conv(width, width, 3, 1), batchNorm(width))
	}
	if stride != 1 || in != m.out {
		m.shortcut = nn.Sequential(conv(in, m.out, 1, stride), batchNorm(m.out))
	}
	m.Child("residual_function", m.residual)
	m.Child("shortcut", m.shortcut)
	return m
}

func (m *cifarBlock) Forward(x torch.Tensor) torch.Tensor {
	return addRelu(m.residual.Forward(x), m.shortcut.Forward(x))
}
