"""The names and shapes of tensors in each project's networks, for the tests of torch/ckpt/keys.

Writes torch/ckpt/keys/testdata/keys.json: family, style, and the tensors of a small network of that family in the order of its
state dict. Wants torchvision, timm and transformers beside torch (README.md has the versions).

keys.py --convert PROGRAM    converts random networks by `PROGRAM convert` and compares what they compute in both projects
"""

import argparse
import json
import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision import models as tv
from torchvision.models.convnext import CNBlockConfig
from transformers import ViTConfig, ViTForImageClassification

import nets

OUT = Path(__file__).parents[2] / "torch/ckpt/keys/testdata/keys.json"


class Encoder(nn.Module):
    """What csm9493/L2UL, utils.py, puts around transformers' network."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder


def transformers_vit():
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32,
                       patch_size=8, num_labels=5, layer_norm_eps=1e-6)
    return ViTForImageClassification(config)


def networks():
    """Yields family, style, network."""
    yield "vit", "torchvision", tv.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
    yield "vit", "timm", VisionTransformer(32, 8, num_classes=5, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2,
                                           norm_layer=partial(nn.LayerNorm, eps=1e-6))
    yield "vit", "hf", transformers_vit()
    yield "vit", "l2ul", Encoder(transformers_vit())
    yield "swin", "torchvision", tv.SwinTransformer([4, 4], 16, [2, 1, 2, 1], [1, 2, 2, 4], [4, 4], num_classes=5)
    yield "swin", "timm", SwinTransformer(128, num_classes=5, embed_dim=16, depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4)
    yield "convnext", "torchvision", tv.ConvNeXt(
        [CNBlockConfig(8, 16, 2), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)], num_classes=5)
    yield "convnext", "timm", ConvNeXt(num_classes=5, depths=(2, 1, 2, 1), dims=(8, 16, 24, 32))
    yield "densenet", "torchvision", tv.DenseNet(8, (2, 1, 2, 1), 16, num_classes=5)
    yield "densenet", "timm", DenseNet(8, (2, 1, 2, 1), num_classes=5)
    yield "mobilenet", "torchvision", tv.mobilenet_v2(num_classes=5)
    yield "mobilenet", "timm", timm.create_model("mobilenetv2_100", num_classes=5)
    yield "vgg", "torchvision", tv.vgg11_bn(num_classes=5)
    yield "vgg", "timm", timm.create_model("vgg11_bn", num_classes=5)
    for style in "torchvision", "l2ul", "salun":
        yield "resnet", style, tv.resnet50(num_classes=5)
    yield "resnet", "timm", timm.create_model("resnet50", num_classes=5)
    yield "cifar-resnet", "weiaicunzai", nets.new("cifar-resnet50", 5).net
    salun = tv.resnet50(num_classes=5)  # Classification/models/ResNet.py: torchvision's, with another stem and no max-pool
    salun.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    yield "cifar-resnet", "salun", salun
    yield "small-resnet", "akamaster", nets.new("resnet20", 5).net


# What torchvision renames when it loads: models/densenet.py, _load_state_dict, and models/vision_transformer.py, MLPBlock.
DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$")


def old(family, state):
    """The names of torchvision's old files, which torchvision itself takes back to the new ones."""
    if family == "densenet":
        names = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in state.items()}
        back = {(m := DENSENET.match(k)) and m[1] + m[2] or k: v for k, v in names.items()}
        assert list(back) == list(state)
    else:
        names = {k.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for k, v in state.items()}
        state = dict(names)
        state = type("State", (dict,), {"_metadata": None})(state)  # of no version, as those files are
        tv.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5).load_state_dict(state)
    return names


def write():
    out = []
    for family, style, net in networks():
        state = net.state_dict()
        states = [(style, state)]
        if style == "torchvision" and family in ("densenet", "vit"):
            states.append(("torchvision-old", old(family, state)))
        if (family, style) == ("small-resnet", "akamaster"):  # Classification/models/ResNets.py calls the last layer fc
            states.append(("salun", {k.replace("linear.", "fc."): v for k, v in state.items()}))
        for style, state in states:
            out.append({"family": family, "style": style, "tensors": [[k, list(v.shape)] for k, v in state.items()]})
    lines = (json.dumps(x, separators=(",", ":")) for x in out)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("[" + ",\n".join(lines) + "]\n")


def convert(program):
    """Compares the networks of two projects, one with the weights of the other as PROGRAM converts them."""
    torch.manual_seed(0)
    found = [(f, s, n.eval()) for f, s, n in networks() if f in ("vit", "swin", "convnext", "densenet", "mobilenet", "vgg") and s != "l2ul"]
    for family, style, source in found:
        with torch.no_grad():  # normalisations that do nothing and zeros everywhere would hide mistakes
            for p in source.state_dict().values():
                if p.is_floating_point():
                    p.add_(torch.rand_like(p) * 0.1)
        for other, to, target in found:
            if other != family or to == style:
                continue
            with tempfile.TemporaryDirectory() as dir:
                torch.save(source.state_dict(), f"{dir}/in.pt")
                subprocess.run([program, "convert", f"{dir}/in.pt", f"{dir}/out.pt", "--keys", to], check=True)
                target.load_state_dict(torch.load(f"{dir}/out.pt", weights_only=True))
            size = {"vit": 32, "swin": 128}.get(family, 64)
            x = torch.rand(2, 3, size, size)
            with torch.no_grad():
                a, b = (getattr(y, "logits", y) for y in (source(x), target(x)))
            print(f"{family}: {style} to {to}: largest logit {a.abs().max():.3g}, largest difference {(a - b).abs().max():.3g}")
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


parser = argparse.ArgumentParser()
parser.add_argument("--convert", metavar="PROGRAM")
args = parser.parse_args()
convert(args.convert) if args.convert else write()
