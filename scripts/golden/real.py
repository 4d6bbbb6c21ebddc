"""Forgets k real images (CIFAR-10 as JPEG, a trained l2ul-resnet18) with the reference and records what happened.

Writes results/real-k<k>-s<seed>.json after every stage; started again with the same arguments it goes on from there, inside
a stage of forgetting from its last tenth step. The attack's images and those states are kept in --scratch.

    python real.py --seed 0 --k 16 --num-adv 20 --methods neggrad,adv,adv-imp
"""

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import l2ul
import nets

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("L2UL_SHARED", HERE.parents[2] / "shared"))


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


def decode(archive, scratch):
    """uint8 NCHW pixels and labels of both splits, ordered by class, then file name; decoded once per scratch folder."""
    cache = scratch / "pixels.npz"
    if not cache.exists():
        splits = {"train": [], "test": []}
        with subprocess.Popen(["zstd", "-dc", archive], stdout=subprocess.PIPE) as zstd:
            for member in (tar := tarfile.open(fileobj=zstd.stdout, mode="r|")):
                if member.isfile() and member.name.endswith(".jpg"):
                    split, cls, name = member.name.removeprefix("./").split("/")
                    image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                    splits[split].append((cls, name, np.asarray(image).transpose(2, 0, 1)))
        arrays = {}
        for split, rows in splits.items():
            rows.sort(key=lambda r: r[:2])
            classes = sorted({r[0] for r in rows})
            arrays[split + "_x"] = np.stack([r[2] for r in rows])
            arrays[split + "_y"] = np.array([classes.index(r[0]) for r in rows])
        temporary = scratch / f"pixels.{os.getpid()}.npz"
        np.savez(temporary, **arrays)
        temporary.replace(cache)
    data = np.load(cache)
    return [(torch.from_numpy(data[s + "_x"]), torch.from_numpy(data[s + "_y"])) for s in ("train", "test")]


def as_input(pixels, layout):
    return pixels.float().div(255).contiguous(memory_format=layout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--k", type=int, default=16)
    p.add_argument("--num-adv", type=int, default=20)
    p.add_argument("--methods", default="neggrad,adv,adv-imp")
    p.add_argument("--iterations", type=int, default=100)
    p.add_argument("--max-steps", type=int, default=0, help="of unlearning; 0 for 1000 passes")
    p.add_argument("--chunk", type=int, default=64)
    p.add_argument("--eval-batch", type=int, default=500)
    p.add_argument("--threads", type=int, default=1, help="one lets reference and engine run side by side; bits depend on it")
    p.add_argument("--format", choices=("channels_last", "contiguous"), default="channels_last")
    p.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "l2ul-golden")
    p.add_argument("--out", type=Path)
    p.add_argument(
        "--one-generator", type=int, metavar="SEED",
        help="draw targets, then starts, from one generator with this seed, as shared/golden/real-k16.json does (1234)",
    )  # fmt: skip
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    layout = torch.channels_last if a.format == "channels_last" else torch.contiguous_format
    out = a.out or HERE / "results" / f"real-k{a.k}-s{a.seed}.json"
    a.scratch.mkdir(parents=True, exist_ok=True)

    settings = {
        "torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability(), "threads": a.threads,
        "format": a.format, "k": a.k, "seed": a.seed, "num_adv": a.num_adv, "eps": 4.0, "alpha": 0.1,
        "iterations": a.iterations, "chunk": a.chunk, "eval_batch": a.eval_batch,
    }  # fmt: skip
    if a.one_generator is not None:
        settings["one_generator"] = a.one_generator
    identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    record = {"settings": settings}
    if out.exists():
        record = json.loads(out.read_text())
        if record["settings"] != settings:
            sys.exit(f"{out} was made with other settings; move it away first")

    def save():
        temporary = out.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(out)

    (train_x, train_y), (test_x, test_y) = decode(SHARED / "data/cifar10-jpeg.tar.zst", a.scratch)
    weights = load_file(SHARED / "weights/resnet18-cifar10-jpeg.safetensors")
    weights = {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}

    def fresh():
        model = nets.new("l2ul-resnet18")
        model.net.load_state_dict(weights)
        return model.to(memory_format=layout)

    indices = l2ul.forget_indices(len(train_x), a.k, a.seed)
    images, labels = as_input(train_x[indices], layout), train_y[indices]
    kept = torch.ones(len(train_x), dtype=torch.bool)
    kept[indices] = False
    retain = kept.nonzero().flatten()[::10]

    def measure(model):
        result = {}
        for name, x, y in (
            ("forget", images, labels), ("retain", train_x[retain], train_y[retain]), ("test", test_x, test_y)
        ):  # fmt: skip
            hits, loss = 0, 0.0
            for i in range(0, len(x), a.eval_batch):
                part = x[i : i + a.eval_batch]
                part = part if part.is_floating_point() else as_input(part, layout)
                h, s = l2ul.evaluate(model, part, y[i : i + a.eval_batch], a.eval_batch)
                hits, loss = hits + h, loss + s
            result[name] = {"n": len(x), "hits": hits, "mean_ce": loss / len(x)}
        return result

    record |= {"indices": indices.tolist(), "labels": labels.tolist()}
    if "before" not in record:
        record["before"] = measure(fresh())
        log("before", record["before"])
        save()

    methods = a.methods.split(",")
    adversarial = anchor = None
    if any("adv" in m for m in methods):
        pairs = l2ul.draw_pairs(labels, images.shape[1:], 10, a.num_adv, a.seed)
        if a.one_generator is not None:
            g = torch.Generator().manual_seed(a.one_generator)
            pairs.target = l2ul.other_class(torch.rand(len(pairs.source), generator=g), labels[pairs.source], 10)
            pairs.start = torch.rand(pairs.start.shape, generator=g)
        record["targets"] = pairs.target.tolist()
        store = a.scratch / f"attack-{identity}.pt"
        if "attack" not in record or not store.exists():
            began = time.monotonic()
            adversarial = l2ul.attack(
                fresh(), images, pairs, 4.0, 0.1, a.iterations, chunk=a.chunk,
                progress=lambda i, n: log(f"attack {i}/{n}"),
            )  # fmt: skip
            torch.save(vars(adversarial), store)
            sums = adversarial.x_adv.double().flatten(1).sum(1)
            record["attack"] = {
                "success": adversarial.success.sum().item(),
                "mean_ce": adversarial.loss.double().mean().item(),
                "delta_norm_min": adversarial.norm.min().item(),
                "delta_norm_max": adversarial.norm.max().item(),
                "xadv_sum64": sums.sum().item(),
                "xadv_sum64_first4": sums[:4].tolist(),
                "xadv_sha256": l2ul.sha256(adversarial.x_adv),
                "seconds": time.monotonic() - began,
            }
            log("attack", record["attack"])
            save()
        adversarial = l2ul.Attack(**torch.load(store))
    if any("imp" in m for m in methods):
        model = fresh()
        began = time.monotonic()
        anchor = l2ul.anchors(l2ul.importance(model, images, labels, "mas"))
        total = sum(t.numel() for t in anchor)
        record["importance"] = {
            "anchor_mean": sum(t.double().sum().item() for t in anchor) / total,
            "anchor_sha256": l2ul.sha256(*anchor),
            "seconds": time.monotonic() - began,
        }
        log("importance", record["importance"])
        save()

    for method in methods:
        if method in record:
            if record[method].get("max_steps", 0) != a.max_steps and record[method]["outcome"] == "cap":
                sys.exit(f"{out} has {method} under another cap of steps; move it away first")
            continue
        model, began = fresh(), time.monotonic()
        keep = a.scratch / f"{method}-{identity}.pt"
        out_of = l2ul.unlearn(
            model, images, labels, l2ul.Settings(method=method, max_steps=a.max_steps), adversarial, anchor,
            watch=lambda step, _: log(f"{method} step {step}"), keep=keep,
        )  # fmt: skip
        seconds = time.monotonic() - began
        reference = [weights[name] for name, _ in model.net.named_parameters()]
        r, distance = l2ul.penalty(list(model.parameters()), reference, anchor if "imp" in method else None)
        record[method] = {
            "outcome": out_of.outcome, "steps": out_of.steps, "passes": out_of.passes, "seconds": seconds,
            "after": measure(model), "distance": distance**0.5, "penalty": r if "imp" in method else None,
            "parameters_sha256": l2ul.sha256(*model.parameters()),
            "state_sha256": l2ul.sha256(*model.net.state_dict().values()),
            "max_steps": a.max_steps, "hits": out_of.hits, "loss": out_of.loss, "loss_adversarial": out_of.loss_driver,
            "loss_forget": out_of.loss_forget,
        }  # fmt: skip
        log(method, {key: value for key, value in record[method].items() if not isinstance(value, list)})
        save()


if __name__ == "__main__":
    main()
