"""Writes what all contestants of `make bench` read, once: inputs.safetensors and the job of row C7.

    python prepare.py DIR

DIR/inputs.safetensors: see README.md. DIR/c7/: weights.safetensors, train/<class>/*.png, test/<class>/*.png, job.json.
Everything comes from seeds; a folder that is complete (inputs.safetensors is written last) is left alone.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import torch
from PIL import Image
from safetensors.torch import save_file

import nets

CLASSES = 10


def main(folder):
    done = folder / "inputs.safetensors"
    if done.exists():
        return
    torch.manual_seed(0)
    model = nets.new("l2ul-resnet18").eval()
    g = torch.Generator().manual_seed(1)

    def pixels(n):
        return torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)

    def classes(n):
        return torch.randint(0, CLASSES, (n,), generator=g)

    t = {f"weights.{name}": value for name, value in model.net.state_dict().items()}
    t |= {"forget.pixels": pixels(16), "test.pixels": pixels(6144), "test.labels": classes(6144)}
    t["test.order"] = torch.randperm(6144, generator=g)
    with torch.no_grad():  # the forget set is what the untrained network says it is, so the goal does not hold yet
        t["forget.labels"] = model(t["forget.pixels"].float().div(255)).argmax(1)
    t["pair.target"] = (t["forget.labels"].repeat(4) + torch.randint(1, CLASSES, (64,), generator=g)) % CLASSES
    t["pair.start"] = torch.rand(64, 3, 32, 32, generator=g)
    t["adv.images"], t["adv.labels"] = torch.rand(256, 3, 32, 32, generator=g), classes(256)
    for name, p in model.net.named_parameters():
        t[f"moved.{name}"] = p.detach() + torch.randn(p.shape, generator=g) * 0.01
        t[f"grad.{name}"] = torch.randn(p.shape, generator=g) * 0.001
        t[f"momentum.{name}"] = torch.randn(p.shape, generator=g) * 0.001
        t[f"anchor.{name}"] = torch.rand(p.shape, generator=g)

    c7 = folder / "c7"
    rows = [(int(y), f"forget-{i:03}", x) for i, (x, y) in enumerate(zip(t["forget.pixels"], t["forget.labels"]))]
    rows += [(i % CLASSES, f"image-{i:03}", x) for i, x in enumerate(pixels(512))]
    tests = [(i % CLASSES, f"image-{i:03}", x) for i, x in enumerate(pixels(256))]
    for split, images in (("train", rows), ("test", tests)):
        for label, name, x in images:
            path = c7 / split / f"c{label}" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(path)
    order = sorted((label, name) for label, name, _ in rows)
    job = {
        "forget": [order.index((label, name)) for label, name, _ in rows[:16]],
        "method": "adv-imp", "importance": "mas-batch", "num_adv": 4, "eps": 4.0, "alpha": 0.1, "iterations": 20,
        "lr": 1e-6, "reg_lambda": 1.0, "bn": "frozen-stats", "forget_batch": 32, "adv_batch": 256, "max_steps": 8,
        "seed": 0, "splits": ["forget", "retain", "test"],
    }  # fmt: skip
    (c7 / "job.json").write_text(json.dumps(job, indent=1) + "\n")
    save_file({name: value.contiguous() for name, value in model.net.state_dict().items()}, c7 / "weights.safetensors")

    temporary = folder / "inputs.tmp"
    save_file({name: value.detach().contiguous() for name, value in t.items()}, temporary)
    temporary.replace(done)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    main(target)
