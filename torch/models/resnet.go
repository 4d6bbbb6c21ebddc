package models

import (
	"fmt"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/nn/initializer"
)

// Residual networks with torchvision's keys and initialisation (He et al., "Deep Residual Learning", 2016; stride on the
// 3x3 convolution of a bottleneck), also wide ones (Zagoruyko and Komodakis, "Wide Residual Networks", 2016: twice the
// channels inside each bottleneck). l2ul-resnet18 is architecture A of spec/l2ul.md §6.2: a 3x3 stem of stride 1, the max-pool kept.

func init() {
	for _, r := range []struct {
		name, summary    string
		parameters, macs int64
		blocks           residual
	}{
		{"resnet18", "torchvision ResNet-18, 7x7 stem", 11_689_512, 1_814_073_344, residual{depths: [4]int{2, 2, 2, 2}}},
		{"resnet34", "torchvision ResNet-34, 7x7 stem", 21_797_672, 3_663_761_408, residual{depths: [4]int{3, 4, 6, 3}}},
		{"resnet50", "torchvision ResNet-50, 7x7 stem, bottleneck blocks", 25_557_032, 4_089_184_256, residual{depths: [4]int{3, 4, 6, 3}, bottleneck: 1}},
		{"resnet101", "torchvision ResNet-101, 7x7 stem, bottleneck blocks", 44_549_160, 7_801_405_440, residual{depths: [4]int{3, 4, 23, 3}, bottleneck: 1}},
		{"resnet152", "torchvision ResNet-152, 7x7 stem, bottleneck blocks", 60_192_808, 11_513_626_624, residual{depths: [4]int{3, 8, 36, 3}, bottleneck: 1}},
		{"wide_resnet50_2", "torchvision Wide ResNet-50-2: ResNet-50 with bottlenecks twice as wide", 68_883_240, 11_398_021_120, residual{depths: [4]int{3, 4, 6, 3}, bottleneck: 2}},
		{"wide_resnet101_2", "torchvision Wide ResNet-101-2: ResNet-101 with bottlenecks twice as wide", 126_886_696, 22_753_050_624, residual{depths: [4]int{3, 4, 23, 3}, bottleneck: 2}},
	} {
		imagenet(r.name, r.summary, r.parameters, r.macs, func(classes int64, normalise nn.Module) Classifier {
			return newResNet(conv(3, 64, 7, 2), r.blocks, classes, normalise)
		})
	}
	cifar10("l2ul-resnet18", "ResNet-18 of the L2UL paper for CIFAR-10: torchvision's, with a 3x3 stem", 11_173_962, 140_186_624,
		func(classes int64, normalise nn.Module) Classifier {
			return newResNet(conv(3, 64, 3, 1), residual{depths: [4]int{2, 2, 2, 2}}, classes, normalise)
		})
}

// residual says which blocks a network has.
type residual struct {
	depths     [4]int // blocks in each stage
	bottleneck int64  // channels inside a bottleneck block, over 64 in the first stage; 0 for basic blocks
}

type resNet struct {
	nn.Base
	normalise nn.Module
	conv1     *nn.Conv2dModule
	bn1       *nn.BatchNorm2dModule
	layers    [4]*nn.SequentialModule
	fc        *nn.LinearModule
}

func newResNet(stem *nn.Conv2dModule, blocks residual, classes int64, normalise nn.Module) *resNet {
	m := &resNet{normalise: normalise, conv1: stem, bn1: batchNorm(64)}
	m.Child("normalise", m.normalise)
	m.Child("conv1", m.conv1)
	m.Child("bn1", m.bn1)
	in := int64(64)
	for i, depth := range blocks.depths {
		var stage []nn.Module
		for b := range depth {
			stride := int64(1)
			if i > 0 && b == 0 {
				stride = 2
			}
			block := newResidualBlock(in, 64<<i, stride, blocks.bottleneck)
			stage = append(stage, block)
			in = block.out
		}
		m.layers[i] = nn.Sequential(stage...)
		m.Child(fmt.Sprintf("layer%d", i+1), m.layers[i])
	}
	m.fc = nn.Linear(in, classes, true)
	m.Child("fc", m.fc)
	// torchvision draws the defaults first and then draws every convolution anew; the head keeps its default.
	for _, module := range nn.Modules(m) {
		if c, ok := module.(*nn.Conv2dModule); ok {
			initializer.KaimingNormal(c.Weight, 0, "fan_out", "relu")
		}
	}
	return m
}

func (m *resNet) Forward(x torch.Tensor) torch.Tensor { return m.fc.Forward(m.Features(x)) }

func (m *resNet) Features(x torch.Tensor) torch.Tensor {
	x = m.normalise.Forward(x)
	x = F.Relu(m.bn1.Forward(m.conv1.Forward(x)), true)
	x = F.MaxPool2d(x, []int64{3, 3}, []int64{2, 2}, []int64{1, 1}, []int64{1, 1}, false)
	for _, layer := range m.layers {
		x = layer.Forward(x)
	}
	return globalAverage(x)
}

// globalAverage makes [n, c] of [n, c, h, w].
func globalAverage(x torch.Tensor) torch.Tensor {
	return F.AdaptiveAvgPool2d(x, []int64{1, 1}).Flatten(1, -1)
}

// residualBlock is torchvision's BasicBlock (two 3x3 convolutions) or Bottleneck (1x1 to so many times the width, 3x3, 1x1
// to four times the width).
type residualBlock struct {
	nn.Base
	convs      []*nn.Conv2dModule
	norms      []*nn.BatchNorm2dModule
	downsample nn.Module // nil where the shortcut is the identity
	out        int64     // channels of the output
}

func newResidualBlock(in, width, stride, bottleneck int64) *residualBlock {
	m := &residualBlock{out: width}
	if bottleneck > 0 {
		m.out = 4 * width
	}
	// torchvision makes the shortcut before the block, so its default weights are drawn first; its keys come last.
	if stride != 1 || in != m.out {
		m.downsample = nn.Sequential(conv(in, m.out, 1, stride), batchNorm(m.out))
	}
	if bottleneck > 0 {
		inner := bottleneck * width
		m.add(conv(in, inner, 1, 1), inner)
		m.add(conv(inner, inner, 3, stride), inner)
		m.add(conv(inner, m.out, 1, 1), m.out)
	} else {
		m.add(conv(in, width, 3, stride), width)
		m.add(conv(width, width, 3, 1), width)
	}
	if m.downsample != nil {
		m.Child("downsample", m.downsample)
	}
	return m
}

// add appends a convolution and its normalisation.
func (m *residualBlock) add(c *nn.Conv2dModule, channels int64) {
	m.convs, m.norms = append(m.convs, c), append(m.norms, batchNorm(channels))
	last := len(m.convs) - 1
	m.Child(fmt.Sprintf("conv%d", last+1), m.convs[last])
	m.Child(fmt.Sprintf("bn%d", last+1), m.norms[last])
}

func (m *residualBlock) Forward(x torch.Tensor) torch.Tensor {
	y, shortcut := x, x
	for i := range m.convs {
		y = m.norms[i].Forward(m.convs[i].Forward(y))
		if i < len(m.convs)-1 {
			y = F.Relu(y, true)
		}
	}
	if m.downsample != nil {
		shortcut = m.downsample.Forward(x)
	}
	return addRelu(y, shortcut)
}

// addRelu is relu(y + shortcut), written over y, the output of a batch normalisation that nobody else reads.
func addRelu(y, shortcut torch.Tensor) torch.Tensor {
	y.AddI(shortcut, 1)
	return F.Relu(y, true)
}
