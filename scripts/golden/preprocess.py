"""Writes preprocess.json: what Pillow and torchvision make of images, for the tests of unlearn/data.

    python preprocess.py [--shared DIR]

Of every image the sha256 of its pixels (planar RGB) under each setting of SETTINGS: of the 61 photographs of
`shared/data/imagenet-samples.tar`, of the files in `unlearn/data/jpeg/testdata`, and of drawn images with odd sizes. And what
networks with seeded weights say to the photographs, prepared as their authors do.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, features
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

SETTINGS = [(256, 224, "bilinear"), (232, 224, "bilinear"), (256, 224, "bicubic"), (384, 384, "bicubic")]

# Width and height: as narrow and flat as can be, tiny, odd, already right, with a huge ratio of the sides.
DRAWN = [
    (1, 1), (1, 300), (300, 1), (2, 3), (7, 5), (255, 257), (256, 256), (224, 224), (230, 231), (500, 375), (375, 500), (640, 233), (3000, 20), (19, 2777), (1024, 1024),
]  # fmt: skip

# Names of ours, the constructor, and how it wants images.
NETWORKS = {
    "resnet50": (torchvision.models.resnet50, (256, 224, "bilinear")),
    "vit_b_16": (torchvision.models.vit_b_16, (256, 224, "bilinear")),
}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def transform(resize, crop, interpolation):
    return Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(crop)])


def drawn(width, height):
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    return Image.fromarray(((7 * x * x + 13 * y * (c + 1) + 5 * x * y + 91 * c) ^ (x * y // 4) & 255).astype(np.uint8))


def planes(image):
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def sums(image):
    return [hashlib.sha256(planes(transform(*s)(image))).hexdigest() for s in SETTINGS]


def photographs(shared):
    with tarfile.open(shared / "data/imagenet-samples.tar") as archive:
        for member in sorted((m for m in archive.getmembers() if m.name.endswith(".JPEG")), key=lambda m: m.name):
            yield Path(member.name).name, Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")


def logits(build, setting, images):
    """The first five logits of each image, and the class of the largest."""
    torch.manual_seed(0)
    net = build().eval()
    head = list(net.parameters())[-2]
    if not head.any():  # as in a vision transformer
        torch.nn.init.normal_(head, std=0.02)
    answers = []
    with torch.inference_mode():
        for image in images:
            x = torch.from_numpy(planes(transform(*setting)(image))).float() / 255
            answer = net(((x - MEAN) / STD)[None])[0]
            answers.append({"class": answer.argmax().item(), "logits": answer[:5].tolist()})
    return answers


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shared", type=Path, default=os.environ.get("L2UL_SHARED", ROOT.parent / "shared"))
    a = p.parse_args()
    samples = dict(photographs(a.shared))
    files = ROOT / "unlearn/data/jpeg/testdata"
    report = {
        "versions": {"pillow": PIL.__version__, "torchvision": torchvision.__version__.split("+")[0], "libjpeg-turbo": features.version("libjpeg_turbo")},
        "settings": [{"resize": r, "crop": c, "filter": f} for r, c, f in SETTINGS],
        "photographs": {name: sums(image) for name, image in samples.items()},
        "files": {f.name: sums(Image.open(f).convert("RGB")) for f in sorted(files.glob("*.jpg"))},
        "drawn": [{"width": w, "height": h, "sums": sums(drawn(w, h))} for w, h in DRAWN],
        "networks": {
            name: {"setting": SETTINGS.index(setting), "answers": logits(build, setting, samples.values())}
            for name, (build, setting) in NETWORKS.items()
        },
    }
    (HERE / "preprocess.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
