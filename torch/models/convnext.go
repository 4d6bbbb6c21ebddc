package models

import (
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// ConvNeXt with torchvision's keys and initialisation (Liu et al., "A ConvNet for the 2020s", 2022).

func init() {
	for _, c := range []struct {
		name, summary    string
		parameters, macs int64
		resize           int
		depths           [4]int
		width            int64 // channels of the first stage
		drop             float64
	}{
		{"convnext_tiny", "torchvision ConvNeXt-T", 28_589_128, 4_455_531_264, 236, [4]int{3, 3, 9, 3}, 96, 0.1},
		{"convnext_small", "torchvision ConvNeXt-S", 50_223_688, 8_683_712_256, 230, [4]int{3, 3, 27, 3}, 96, 0.4},
		{"convnext_base", "torchvision ConvNeXt-B", 88_591_464, 15_354_729_472, 232, [4]int{3, 3, 27, 3}, 128, 0.5},
	} {
		card := imagenetCard(c.name, c.summary, c.parameters, c.macs)
		card.Resize = c.resize
		register(card, func(classes int64, normalise nn.Module) Classifier {
			return newConvNeXt(c.depths[:], c.width, c.drop, classes, normalise)
		})
	}
}

type convNeXt struct {
	nn.Base
	normalise, features, norm nn.Module
	head                      *nn.LinearModule
}

// newConvNeXt makes a network of stages of so many blocks, each twice as wide as the one before, whose last block is left out in
// training with probability drop, and those before it less often.
func newConvNeXt(depths []int, width int64, drop float64, classes int64, normalise nn.Module) *convNeXt {
	layers := []nn.Module{nn.Sequential(biasedConv(3, width, 4, 4, 0), channelNorm(width))}
	rate := dropRates(depths, drop)
	for i, depth := range depths {
		if i > 0 {
			layers = append(layers, nn.Sequential(channelNorm(width), biasedConv(width, 2*width, 2, 2, 0)))
			width *= 2
		}
		var stage []nn.Module
		for range depth {
			stage = append(stage, newConvNeXtBlock(width, rate()))
		}
		layers = append(layers, nn.Sequential(stage...))
	}
	m := &convNeXt{normalise: normalise, features: nn.Sequential(layers...), norm: channelNorm(width), head: nn.Linear(width, classes, true)}
	m.Child("normalise", m.normalise)
	m.Child("features", m.features)
	m.Child("classifier", nn.Sequential(m.norm, nn.Flatten(), m.head))
	for _, module := range nn.Modules(m) {
		switch l := module.(type) {
		case *nn.Conv2dModule:
			initializer.TruncNormal(l.Weight, 0.02)
			initializer.Zeros(l.Bias)
		case *nn.LinearModule:
			initializer.TruncNormal(l.Weight, 0.02)
			initializer.Zeros(l.Bias)
		}
	}
	return m
}

func (m *convNeXt) Forward(x torch.Tensor) torch.Tensor { return m.head.Forward(m.Features(x)) }

func (m *convNeXt) Features(x torch.Tensor) torch.Tensor {
	x = m.features.Forward(m.normalise.Forward(x))
	return m.norm.Forward(x.AdaptiveAvgPool2d([]int64{1, 1})).Flatten(1, -1)
}

// channelNormModule is torchvision's LayerNorm2d, which normalises the channels of each place.
type channelNormModule struct{ *nn.LayerNormModule }

func channelNorm(channels int64) nn.Module { return channelNormModule{nn.LayerNorm(channels, 1e-6)} }

func (m channelNormModule) Forward(x torch.Tensor) torch.Tensor {
	return m.LayerNormModule.Forward(x.Permute(0, 2, 3, 1)).Permute(0, 3, 1, 2)
}

// convNeXtBlock is torchvision's CNBlock: a depthwise convolution and an MLP for each place, scaled per channel and added.
type convNeXtBlock struct {
	nn.Base
	scale       torch.Tensor // [channels, 1, 1]
	block, drop nn.Module
}

func newConvNeXtBlock(width int64, drop float64) *convNeXtBlock {
	m := &convNeXtBlock{drop: nn.StochasticDepth(drop)}
	m.block = nn.Sequential(
		nn.Conv2d(width, width, 7, 1, 3, 1, width, true, "zeros"),
		nn.Permute(0, 2, 3, 1),
		nn.LayerNorm(width, 1e-6),
		nn.Linear(width, 4*width, true), nn.GELU(), nn.Linear(4*width, width, true),
		nn.Permute(0, 3, 1, 2),
	)
	torch.Scope(func() { m.scale = m.Param("layer_scale", torch.Ones([]int64{width, 1, 1}, false).MulScalar(1e-6)) })
	m.Child("block", m.block)
	m.Child("stochastic_depth", m.drop)
	return m
}

func (m *convNeXtBlock) Forward(x torch.Tensor) torch.Tensor {
	y := m.drop.Forward(m.scale.Mul(m.block.Forward(x)))
	y.AddI(x, 1)
	return y
}
