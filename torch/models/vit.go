package models

import (
	"fmt"
	"math"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// Vision transformers (Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2021). Those of DeiT without a distillation token
// (Touvron et al., "Training Data-Efficient Image Transformers", 2021) are the same networks; so are timm's Ti and S. That of
// Hugging Face's transformers adds less to variances. Keys and initialisation are torchvision's for all of them; package ckpt/keys
// renames those of others.

func init() {
	const ti, s, b, l = 192, 384, 768, 1024 // values of a place
	const epsilon, epsilonHF = 1e-6, 1e-12  // added to variances
	half := []float64{0.5, 0.5, 0.5}
	augreg := func(c *Card) { // timm's weights for Ti and S (Steiner et al., "How to Train Your ViT?", 2022)
		c.Resize, c.Interpolation = 248, "bicubic"
		c.Mean, c.Std = half, half
	}
	deit := func(c *Card) { c.Interpolation = "bicubic" }
	for _, v := range []struct {
		name, summary    string
		parameters, macs int64
		vit              transformer
		card             func(c *Card) // what differs from torchvision's usual; nil for nothing
	}{
		{"vit_ti_16", "ViT-Ti/16, timm's vit_tiny_patch16_224", 5_717_416, 1_253_683_200, transformer{224, 16, 12, 3, ti, epsilon}, augreg},
		{"vit_s_16", "ViT-S/16, timm's vit_small_patch16_224", 22_050_664, 4_598_882_304, transformer{224, 16, 12, 6, s, epsilon}, augreg},
		{"vit_s_32", "ViT-S/32, timm's vit_small_patch32_224", 22_878_952, 1_142_909_952, transformer{224, 32, 12, 6, s, epsilon}, augreg},
		{"vit_b_16", "torchvision ViT-B/16", 86_567_656, 17_563_828_224, transformer{224, 16, 12, 12, b, epsilon}, nil},
		{"hf-vit_b_16", "ViT-B/16 of Hugging Face's transformers, google/vit-base-patch16-224", 86_567_656, 17_563_828_224, transformer{224, 16, 12, 12, b, epsilonHF}, func(c *Card) {
			c.Resize, c.Mean, c.Std = 224, half, half
		}},
		{"vit_b_32", "torchvision ViT-B/32", 88_224_232, 4_409_186_304, transformer{224, 32, 12, 12, b, epsilon}, nil},
		{"vit_l_16", "torchvision ViT-L/16", 304_326_632, 61_554_712_576, transformer{224, 16, 24, 16, l, epsilon}, func(c *Card) { c.Resize = 242 }},
		{"vit_l_32", "torchvision ViT-L/32", 306_535_400, 15_377_539_072, transformer{224, 32, 24, 16, l, epsilon}, nil},
		{"deit_ti_16", "DeiT-Ti, patches of 16", 5_717_416, 1_253_683_200, transformer{224, 16, 12, 3, ti, epsilon}, deit},
		{"deit_s_16", "DeiT-S, patches of 16", 22_050_664, 4_598_882_304, transformer{224, 16, 12, 6, s, epsilon}, deit},
		{"deit_b_16", "DeiT-B, patches of 16", 86_567_656, 17_563_828_224, transformer{224, 16, 12, 12, b, epsilon}, deit},
	} {
		card := imagenetCard(v.name, v.summary, v.parameters, v.macs)
		if v.card != nil {
			v.card(&card)
		}
		registerTransformer(card, v.vit)
	}
	registerTransformer(cifar10Card("cifar-vit-ti", "ViT-Ti for CIFAR-10, patches of 4", 5_362_762, 365_107_584), transformer{32, 4, 12, 3, ti, epsilon})
	registerTransformer(cifar10Card("cifar-vit-s", "ViT-S for CIFAR-10, patches of 4", 21_342_346, 1_420_309_248), transformer{32, 4, 12, 6, s, epsilon})
}

// transformer says what a network is made of.
type transformer struct {
	size, patch  int64 // pixels of the sides of images and of patches
	depth        int   // blocks
	heads, width int64
	epsilon      float64 // that layer normalisation adds to variances
}

func registerTransformer(card Card, t transformer) {
	card.FixedSize = true
	register(card, func(classes int64, normalise nn.Module) Classifier {
		return newVisionTransformer(t, classes, normalise)
	})
}

type visionTransformer struct {
	nn.Base
	normalise nn.Module
	size      int64 // pixels of the sides of images
	class     torch.Tensor
	patches   *nn.Conv2dModule
	encoder   *transformerEncoder
	head      *nn.LinearModule
}

func newVisionTransformer(t transformer, classes int64, normalise nn.Module) *visionTransformer {
	m := &visionTransformer{normalise: normalise, size: t.size, patches: biasedConv(3, t.width, t.patch, t.patch, 0)}
	torch.Scope(func() { m.class = m.Param("class_token", torch.Zeros([]int64{1, 1, t.width}, false)) })
	m.encoder = newTransformerEncoder(t)
	m.head = nn.Linear(t.width, classes, true)
	heads := &nn.SequentialModule{}
	heads.Child("head", m.head)
	m.Child("normalise", m.normalise)
	m.Child("conv_proj", m.patches)
	m.Child("encoder", m.encoder)
	m.Child("heads", heads)
	in, _ := initializer.CalculateFanInAndFanOut(m.patches.Weight)
	initializer.TruncNormal(m.patches.Weight, math.Sqrt(1/float64(in)))
	for _, t := range []torch.Tensor{m.patches.Bias, m.head.Weight, m.head.Bias} {
		initializer.Zeros(t)
	}
	return m
}

func (m *visionTransformer) Forward(x torch.Tensor) torch.Tensor {
	return m.head.Forward(m.Features(x))
}

func (m *visionTransformer) Features(x torch.Tensor) torch.Tensor {
	if shape := x.Shape(); len(shape) != 4 || shape[2] != m.size || shape[3] != m.size {
		panic(&torch.Error{Op: "models.Forward", Code: torch.Argument, Shapes: [][]int64{shape}, Msg: fmt.Sprintf(
			"this vision transformer has positions for images [n, 3, %d, %d], got %v; resize them", m.size, m.size, shape)})
	}
	x = m.patches.Forward(m.normalise.Forward(x))
	n, width := x.Size(0), x.Size(1)
	x = x.Reshape(n, width, x.Size(2)*x.Size(3)).Permute(0, 2, 1)
	x = torch.Cat([]torch.Tensor{m.class.Expand(n, -1, -1), x}, 1)
	return m.encoder.Forward(x).Select(1, 0)
}

// transformerEncoder is torchvision's Encoder: positions, blocks and a last normalisation.
type transformerEncoder struct {
	nn.Base
	positions torch.Tensor
	layers    *nn.SequentialModule
	norm      *nn.LayerNormModule
}

func newTransformerEncoder(t transformer) *transformerEncoder {
	m := &transformerEncoder{layers: &nn.SequentialModule{}}
	places := (t.size/t.patch)*(t.size/t.patch) + 1
	torch.Scope(func() { m.positions = m.Param("pos_embedding", torch.Empty([]int64{1, places, t.width}, false)) })
	initializer.Normal(m.positions, 0, 0.02)
	for i := range t.depth {
		m.layers.Child(fmt.Sprintf("encoder_layer_%d", i), newTransformerBlock(t))
	}
	m.norm = nn.LayerNorm(t.width, t.epsilon)
	m.Child("layers", m.layers)
	m.Child("ln", m.norm)
	return m
}

func (m *transformerEncoder) Forward(x torch.Tensor) torch.Tensor {
	return m.norm.Forward(m.layers.Forward(x.Add(m.positions, 1)))
}

// transformerBlock is torchvision's EncoderBlock: attention, then an MLP, each on normalised values and added to its input.
type transformerBlock struct {
	nn.Base
	norm1, norm2   *nn.LayerNormModule
	attention, mlp nn.Module
}

func newTransformerBlock(t transformer) *transformerBlock {
	m := &transformerBlock{
		norm1: nn.LayerNorm(t.width, t.epsilon), attention: nn.MultiheadAttention(t.width, t.heads),
		norm2: nn.LayerNorm(t.width, t.epsilon), mlp: transformerMLP(t.width),
	}
	m.Child("ln_1", m.norm1)
	m.Child("self_attention", m.attention)
	m.Child("ln_2", m.norm2)
	m.Child("mlp", m.mlp)
	return m
}

func (m *transformerBlock) Forward(x torch.Tensor) torch.Tensor {
	x = m.attention.Forward(m.norm1.Forward(x)).Add(x, 1)
	return x.Add(m.mlp.Forward(m.norm2.Forward(x)), 1)
}
