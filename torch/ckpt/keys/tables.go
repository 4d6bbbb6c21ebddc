package keys

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"l2ul/torch/ckpt"
)

// tables holds every style of every family. Their order decides where names match several: families with fewer names first.
var tables = slices.Concat(smallResNet(), resNet(), cifarResNet(), denseNet(), vgg(), mobileNet(), visionTransformer(), swin(), convNeXt())

// always marks tables whose names are those of no other style.
func always(*ckpt.File) bool { return true }

// normalised is true of files whose network begins with a layer "normalize", as SalUn's do; [ckpt.File.StripNormalizer] has
// taken its buffers aside.
func normalised(f *ckpt.File) bool {
	return slices.ContainsFunc(f.Format.Front, func(t ckpt.Tensor) bool { return strings.HasSuffix(t.Name, "normalize.mean") })
}

// is makes a rule for a tensor of ours and its name, or names, in the other style.
func is(our string, their ...string) *rule {
	return &rule{names: [2][]pattern{{pattern(our)}, patterns(their)}}
}

func patterns(texts []string) []pattern {
	out := make([]pattern, len(texts))
	for i, text := range texts {
		out[i] = pattern(text)
	}
	return out
}

// shaped is a rule whose sides have other shapes.
func (r *rule) shaped(our, their []int64) *rule {
	r.shape = [2][]int64{our, their}
	return r
}

// same are rules for names that both sides share.
func same(names ...string) []*rule {
	rules := make([]*rule, len(names))
	for i, name := range names {
		rules[i] = is(name, name)
	}
	return rules
}

// unchanged makes tables for styles whose names are ours, which rules hold in any of their columns.
func unchanged(family string, rules []*rule, styles ...Style) (out []*table) {
	var names []string
	for _, r := range rules {
		names = append(names, string(r.names[ours][0]))
	}
	for _, s := range styles {
		out = append(out, &table{family: family, style: s, rules: same(names...)})
	}
	return out
}

// smallResNet is akamaster/pytorch_resnet_cifar10; SalUn's resnet20s and so on call the last layer fc.
func smallResNet() []*table {
	rules := same("conv1.*", "bn1.*")
	for stage := 1; stage <= 3; stage++ {
		for i := 1; i <= 2; i++ {
			rules = append(rules, same(fmt.Sprintf("layer%d.#.conv%d.*", stage, i), fmt.Sprintf("layer%d.#.bn%d.*", stage, i))...)
		}
	}
	rules = append(rules, is("linear.*", "fc.*"))
	return append(unchanged("small-resnet", rules, Akamaster), &table{"small-resnet", SalUn, rules, normalised})
}

// resNet is torchvision/models/resnet.py. timm's, SalUn's for ImageNet and L2UL's resnet.py have its names.
func resNet() []*table {
	rules := same("conv1.*", "bn1.*", "layer#.#.conv#.*", "layer#.#.bn#.*", "layer#.#.downsample.#.*", "fc.*")
	return unchanged("resnet", rules, Torchvision, Timm, SalUn, L2UL)
}

// cifarResNet is weiaicunzai/pytorch-cifar100, models/resnet.py, which L2UL's resnet_cifar100.py is. SalUn's ResNet is the same
// network unless it is for ImageNet, a 3x3 stem and no max-pool, under torchvision's names.
func cifarResNet() []*table {
	rules := []*rule{is("conv1.0.*", "conv1.*"), is("conv1.1.*", "bn1.*"), is("fc.*", "fc.*")}
	for stage := 1; stage <= 4; stage++ {
		our, their := fmt.Sprintf("conv%d_x.#.", stage+1), fmt.Sprintf("layer%d.#.", stage)
		for i := range 3 { // each convolution has a normalisation and a ReLU behind it
			rules = append(rules,
				is(fmt.Sprintf("%sresidual_function.%d.*", our, 3*i), fmt.Sprintf("%sconv%d.*", their, i+1)),
				is(fmt.Sprintf("%sresidual_function.%d.*", our, 3*i+1), fmt.Sprintf("%sbn%d.*", their, i+1)))
		}
		rules = append(rules, is(our+"shortcut.#.*", their+"downsample.#.*"))
	}
	stem := func(f *ckpt.File) bool {
		conv, ok := f.Lookup("conv1.weight")
		return normalised(f) && ok && len(conv.Shape) == 4 && conv.Shape[2] == 3
	}
	return append(unchanged("cifar-resnet", rules, Weiaicunzai, L2UL),
		&table{"cifar-resnet", SalUn, rules, stem}, &table{"cifar-resnet", Torchvision, rules, nil})
}

// denseNet is torchvision/models/densenet.py, whose _load_state_dict knows the old names; timm has the new ones.
func denseNet() []*table {
	rules := same("features.conv0.*", "features.norm0.*", "features.denseblock#.denselayer#.norm#.*", "features.denseblock#.denselayer#.conv#.*",
		"features.transition#.norm.*", "features.transition#.conv.*", "features.norm5.*", "classifier.*")
	old := same("features.conv0.*", "features.norm0.*", "features.transition#.norm.*", "features.transition#.conv.*", "features.norm5.*", "classifier.*")
	for _, layer := range []string{"norm", "conv"} {
		our := "features.denseblock#.denselayer#." + layer
		old = append(old, is(our+"#.*", our+".#.*"))
	}
	return append(unchanged("densenet", rules, Torchvision, Timm), &table{"densenet", TorchvisionOld, old, always})
}

// vgg is torchvision/models/vgg.py and timm/models/vgg.py, whose first two linear layers are convolutions.
func vgg() []*table {
	rules := append(same("features.#.*"),
		is("classifier.0.weight", "pre_logits.fc1.weight").shaped([]int64{-1, 512 * 7 * 7}, []int64{-1, 512, 7, 7}),
		is("classifier.0.bias", "pre_logits.fc1.bias"),
		is("classifier.3.weight", "pre_logits.fc2.weight").shaped([]int64{-1, 4096}, []int64{-1, 4096, 1, 1}),
		is("classifier.3.bias", "pre_logits.fc2.bias"),
		is("classifier.6.*", "head.fc.*"))
	return append(unchanged("vgg", rules, Torchvision), &table{"vgg", Timm, rules, has("pre_logits.fc1.weight")})
}

// has marks tables by a name that only they have, where the rest could be another network's.
func has(name string) func(*ckpt.File) bool {
	return func(f *ckpt.File) bool {
		_, ok := f.Lookup(name)
		return ok
	}
}

// mobileNet is torchvision/models/mobilenetv2.py, which counts all blocks, and timm's mobilenetv2_100, which counts stages.
func mobileNet() []*table {
	rules := []*rule{
		is("features.0.0.*", "conv_stem.*"), is("features.0.1.*", "bn1.*"),
		is("features.18.0.*", "conv_head.*"), is("features.18.1.*", "bn2.*"), is("classifier.1.*", "classifier.*"),
		is("features.1.conv.0.0.*", "blocks.0.0.conv_dw.*"), is("features.1.conv.0.1.*", "blocks.0.0.bn1.*"), // no expansion
		is("features.1.conv.1.*", "blocks.0.0.conv_pw.*"), is("features.1.conv.2.*", "blocks.0.0.bn2.*"),
	}
	n := 2
	for stage, depth := range []int{2, 3, 4, 3, 3, 1} {
		for block := range depth {
			our, their := fmt.Sprintf("features.%d.conv.", n), fmt.Sprintf("blocks.%d.%d.", stage+1, block)
			rules = append(rules,
				is(our+"0.0.*", their+"conv_pw.*"), is(our+"0.1.*", their+"bn1.*"),
				is(our+"1.0.*", their+"conv_dw.*"), is(our+"1.1.*", their+"bn2.*"),
				is(our+"2.*", their+"conv_pwl.*"), is(our+"3.*", their+"bn3.*"))
			n++
		}
	}
	return append(unchanged("mobilenet", rules, Torchvision), &table{"mobilenet", Timm, rules, has("conv_stem.weight")})
}

// visionTransformer is torchvision/models/vision_transformer.py (before version 2 of its MLPBlock the layers inside had names),
// timm/models/vision_transformer.py, and ViTForImageClassification of transformers, which L2UL holds as "encoder".
// transformers adds 1e-12 to variances and the others 1e-6, which is not in the file: the network is hf-vit_b_16.
func visionTransformer() []*table {
	const layer = "encoder.layers.encoder_layer_#."
	old := append(same("class_token", "conv_proj.*", "encoder.pos_embedding", "encoder.ln.*", "heads.head.*",
		layer+"ln_#.*", layer+"self_attention.in_proj_*", layer+"self_attention.out_proj.*"),
		is(layer+"mlp.0.*", layer+"mlp.linear_1.*"), is(layer+"mlp.3.*", layer+"mlp.linear_2.*"))
	timm := []*rule{
		is("class_token", "cls_token"), is("encoder.pos_embedding", "pos_embed"), is("conv_proj.*", "patch_embed.proj.*"),
		is(layer+"ln_#.*", "blocks.#.norm#.*"),
		is(layer+"self_attention.in_proj_*", "blocks.#.attn.qkv.*"), is(layer+"self_attention.out_proj.*", "blocks.#.attn.proj.*"),
		is(layer+"mlp.0.*", "blocks.#.mlp.fc1.*"), is(layer+"mlp.3.*", "blocks.#.mlp.fc2.*"),
		is("encoder.ln.*", "norm.*"), is("heads.head.*", "head.*"),
	}
	hf := func(prefix string) []*rule {
		embeddings, their := prefix+"vit.embeddings.", prefix+"vit.encoder.layer.#."
		return []*rule{
			is("class_token", embeddings+"cls_token"), is("encoder.pos_embedding", embeddings+"position_embeddings"),
			is("conv_proj.*", embeddings+"patch_embeddings.projection.*"),
			is(layer+"ln_1.*", their+"layernorm_before.*"), is(layer+"ln_2.*", their+"layernorm_after.*"),
			is(layer+"self_attention.in_proj_*", their+"attention.attention.query.*", their+"attention.attention.key.*", their+"attention.attention.value.*"),
			is(layer+"self_attention.out_proj.*", their+"attention.output.dense.*"),
			is(layer+"mlp.0.*", their+"intermediate.dense.*"), is(layer+"mlp.3.*", their+"output.dense.*"),
			is("encoder.ln.*", prefix+"vit.layernorm.*"), is("heads.head.*", prefix+"classifier.*"),
		}
	}
	return append(unchanged("vit", timm, Torchvision),
		&table{"vit", TorchvisionOld, old, always},
		&table{"vit", Timm, timm, always},
		&table{"vit", HF, hf(""), always},
		&table{"vit", L2UL, hf("encoder."), always})
}

// swin is torchvision/models/swin_transformer.py, which counts mergings of patches as stages, and timm's.
func swin() []*table {
	const attention = "features.#.#.attn.relative_position_"
	index := &rule{names: [2][]pattern{ours: {attention + "index"}}, of: attention + "bias_table", derive: relativePositions}
	rules := []*rule{
		is("features.0.0.*", "patch_embed.proj.*"), is("features.0.2.*", "patch_embed.norm.*"), is("norm.*", "norm.*"), is("head.*", "head.fc.*"), index,
	}
	for stage := range 4 {
		our, their := fmt.Sprintf("features.%d.#.", 2*stage+1), fmt.Sprintf("layers.%d.blocks.#.", stage)
		rules = append(rules,
			is(our+"norm#.*", their+"norm#.*"), is(our+"attn.relative_position_bias_table", their+"attn.relative_position_bias_table"),
			is(our+"attn.qkv.*", their+"attn.qkv.*"), is(our+"attn.proj.*", their+"attn.proj.*"),
			is(our+"mlp.0.*", their+"mlp.fc1.*"), is(our+"mlp.3.*", their+"mlp.fc2.*"))
		if stage > 0 {
			our, their := fmt.Sprintf("features.%d.", 2*stage), fmt.Sprintf("layers.%d.downsample.", stage)
			rules = append(rules, is(our+"norm.*", their+"norm.*"), is(our+"reduction.*", their+"reduction.*"))
		}
	}
	return append(unchanged("swin", rules, Torchvision), &table{"swin", Timm, rules, always})
}

// maxWindow is more than any network's; it bounds what relativePositions makes.
const maxWindow = 32

// relativePositions makes torchvision's relative_position_index, int64 [w⁴], of a table of biases, [(2w-1)², heads]: for each pair
// of places in a window of w x w the row of the table for their distance (Liu et al., "Swin Transformer", 2021, section 3.2).
func relativePositions(of *ckpt.Tensor) (*ckpt.Tensor, error) {
	var side int64
	if len(of.Shape) == 2 && of.Shape[0] > 0 && of.Shape[1] > 0 {
		side = int64(math.Sqrt(float64(of.Shape[0])))
	}
	if w := (side + 1) / 2; side%2 == 0 || side*side != of.Shape[0] || w > maxWindow {
		return nil, fmt.Errorf("%s of shape %v is no table of relative positions", of.Name, of.Shape)
	}
	w := (side + 1) / 2
	data := make([]byte, 0, 8*w*w*w*w)
	for from := range w * w {
		for to := range w * w {
			down, right := from/w-to/w+w-1, from%w-to%w+w-1
			data = binary.LittleEndian.AppendUint64(data, uint64(down*side+right)) //nolint:gosec // never negative
		}
	}
	return &ckpt.Tensor{DType: ckpt.I64, Shape: []int64{w * w * w * w}, Data: data}, nil
}

// convNeXt is torchvision/models/convnext.py, which counts downsampling layers as stages, and timm's.
func convNeXt() []*table {
	rules := []*rule{
		is("features.0.0.*", "stem.0.*"), is("features.0.1.*", "stem.1.*"), is("classifier.0.*", "head.norm.*"), is("classifier.2.*", "head.fc.*"),
	}
	for stage := range 4 {
		our, their := fmt.Sprintf("features.%d.#.", 2*stage+1), fmt.Sprintf("stages.%d.blocks.#.", stage)
		rules = append(rules,
			is(our+"layer_scale", their+"gamma").shaped([]int64{-1, 1, 1}, []int64{-1}),
			is(our+"block.0.*", their+"conv_dw.*"), is(our+"block.2.*", their+"norm.*"),
			is(our+"block.3.*", their+"mlp.fc1.*"), is(our+"block.5.*", their+"mlp.fc2.*"))
		if stage > 0 {
			rules = append(rules, is(fmt.Sprintf("features.%d.#.*", 2*stage), fmt.Sprintf("stages.%d.downsample.#.*", stage)))
		}
	}
	return append(unchanged("convnext", rules, Torchvision), &table{"convnext", Timm, rules, always})
}
