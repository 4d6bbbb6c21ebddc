"""Writes what all contestants of `make bench` read, once: inputs.safetensors and the job of row C7.

    python prepare.py DIR ['{"network": …}']

DIR/inputs.safetensors, DIR/work.json: see README.md; the second argument changes entries of the latter, and leaves C7 out
unless it changes its job.
DIR/c5/photo/*.jpg: photographs, where $L2UL_SHARED (else ../shared beside the repository) has them.
DIR/c7/: weights.safetensors, job.json, and train/<class>/*.png, test/<class>/*.png or CIFAR-10 in its binary form.
Everything comes from seeds; a folder that is complete (inputs.safetensors is written last) is left alone.
"""

import json
import os
import sys
import tarfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import nets
from real import decode

CLASSES = 10  # of C7
JOB = {
    "dataset": "imagefolder",  # or cifar10: 50,000 + 10,000 images
    "method": "adv-imp", "importance": "mas-batch", "num_adv": 4, "eps": 4.0, "alpha": 0.1, "iterations": 20,
    "lr": 1e-6, "reg_lambda": 1.0, "bn": "frozen-stats", "forget_batch": 32, "adv_batch": 256, "max_steps": 8, "seed": 0,
    "eval_batch": 256,  # of P and U
    "limit": None,  # how many images of D_r and D_test are scored, evenly spaced
}  # fmt: skip
# The work of the rows, read by all contestants: what, where, and how much of it.
WORK = {
    "network": "l2ul-resnet18", "device": "cpu",
    "size": 32,  # of images, height and width
    "tf32": False,  # float32 on a GPU may multiply TF32
    "images": 16,  # the forget set
    "pairs": 32, "iterations": 5,  # attacked by P and U in one batch, by O in calls of one target and 32 images
    "prepared": 64,  # pairs in the file, images * repeats
    "tests": 1024, "eval_batch": 64,  # images of C2, and how many U takes at once
    "pixels": 6144,  # of C4
    "trained": None,  # a folder with weights/ and data/: its network and images, in place of an untrained one and of noise
    "adversarial": 256,  # the slice of C3
    "job": JOB,
}  # fmt: skip


def main(folder, changes):
    work = WORK | changes | {"job": JOB | changes.get("job", {})}
    (folder / "work.json").write_text(json.dumps(work, indent=1) + "\n")
    if not changes:
        photographs(folder / "c5")
    done = folder / "inputs.safetensors"
    if done.exists():
        return
    torch.manual_seed(0)
    model = nets.new(work["network"]).eval()
    for m in model.modules():  # a head that is all zeros, as a vision transformer's at first, gives every image the same gradient: none
        if isinstance(m, torch.nn.Linear) and not m.weight.any():
            torch.nn.init.trunc_normal_(m.weight, std=0.02)
    k, side, classes_of = work["images"], work["size"], nets.NETWORKS[work["network"]][1]
    g = torch.Generator().manual_seed(1)

    def pixels(n):
        return torch.randint(0, 256, (n, 3, side, side), generator=g, dtype=torch.uint8)

    def classes(n):
        return torch.randint(0, classes_of, (n,), generator=g)

    real = None
    if work["trained"]:
        shared = Path(work["trained"])
        state = load_file(shared / "weights/resnet18-cifar10-jpeg.safetensors")
        model.net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
        _, (test, _) = decode(shared / "data/cifar10-jpeg.tar.zst", folder)
        real = test[:: len(test) // k][:k]

    t = {f"weights.{name}": value for name, value in model.net.state_dict().items()}
    t |= {"forget.pixels": pixels(k), "test.pixels": pixels(work["pixels"]), "test.labels": classes(work["pixels"])}
    if real is not None:
        t["forget.pixels"] = real
    t["test.order"] = torch.randperm(work["pixels"], generator=g)
    with torch.no_grad():  # the forget set is what the untrained network says it is, so the goal does not hold yet
        t["forget.labels"] = model(t["forget.pixels"].float().div(255)).argmax(1)
    pairs, slice_of = work["prepared"], work["adversarial"]
    t["pair.target"] = (t["forget.labels"].repeat(pairs // k) + torch.randint(1, classes_of, (pairs,), generator=g)) % classes_of
    t["pair.start"] = torch.rand(pairs, 3, side, side, generator=g)
    t["adv.images"], t["adv.labels"] = torch.rand(slice_of, 3, side, side, generator=g), classes(slice_of)
    for name, p in model.net.named_parameters():
        t[f"moved.{name}"] = p.detach() + torch.randn(p.shape, generator=g) * 0.01
        t[f"grad.{name}"] = torch.randn(p.shape, generator=g) * 0.001
        t[f"momentum.{name}"] = torch.randn(p.shape, generator=g) * 0.001
        t[f"anchor.{name}"] = torch.rand(p.shape, generator=g)

    if not changes or "job" in changes:
        job(folder / "c7", work["job"]["dataset"], model, t, pixels)
    temporary = folder / "inputs.tmp"
    save_file({name: value.detach().contiguous() for name, value in t.items()}, temporary)
    temporary.replace(done)


def photographs(c5):
    """C5's 200 files, the photographs of the project's test material again and again; none where that is missing."""
    shared = Path(os.environ.get("L2UL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    samples = shared / "data/imagenet-samples.tar"
    if c5.exists() or not samples.exists():
        return
    with tarfile.open(samples) as archive:
        blobs = [archive.extractfile(m).read() for m in sorted(archive.getmembers(), key=lambda m: m.name) if m.name.endswith(".JPEG")]
    temporary = c5.with_suffix(".tmp")
    (temporary / "photo").mkdir(parents=True, exist_ok=True)
    for i in range(200):
        (temporary / "photo" / f"{i:03}.jpg").write_bytes(blobs[i % len(blobs)])
    temporary.rename(c5)


def job(c7, dataset, model, t, pixels):
    """C7's images and weights, and which images are to be forgotten."""
    c7.mkdir(exist_ok=True)
    forget = image_files(c7, t, pixels) if dataset == "imagefolder" else cifar_files(c7 / "cifar-10-batches-bin", t, pixels)
    (c7 / "job.json").write_text(json.dumps({"forget": forget}) + "\n")
    save_file({name: value.contiguous() for name, value in model.net.state_dict().items()}, c7 / "weights.safetensors")


def cifar_files(folder, t, pixels):
    """Writes CIFAR-10 of noise, the forget set in front; returns its positions."""
    folder.mkdir(exist_ok=True)
    (folder / "batches.meta.txt").write_text("".join(f"c{i}\n" for i in range(CLASSES)))
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        x, y = pixels(10000), torch.arange(10000) % CLASSES
        if name == "data_batch_1.bin":
            x[: len(t["forget.pixels"])], y[: len(t["forget.pixels"])] = t["forget.pixels"], t["forget.labels"]
        (folder / name).write_bytes(torch.cat([y.byte()[:, None], x.flatten(1)], 1).numpy().tobytes())
    return list(range(len(t["forget.pixels"])))


def image_files(c7, t, pixels):
    """Writes 512 images, the forget set and 256 test images as PNG; returns the positions of the forget set."""
    rows = [(int(y), f"forget-{i:03}", x) for i, (x, y) in enumerate(zip(t["forget.pixels"], t["forget.labels"]))]
    rows += [(i % CLASSES, f"image-{i:03}", x) for i, x in enumerate(pixels(512))]
    tests = [(i % CLASSES, f"image-{i:03}", x) for i, x in enumerate(pixels(256))]
    for split, images in (("train", rows), ("test", tests)):
        for label, name, x in images:
            path = c7 / split / f"c{label}" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.permute(1, 2, 0).numpy()).save(path)
    order = sorted((label, name) for label, name, _ in rows)
    return [order.index((label, name)) for label, name, _ in rows[: len(t["forget.labels"])]]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    main(target, json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
