"""Trains networks from scratch by a recipe, with PyTorch's own optimizers and schedulers and one plain loop.

As a program it trains resnet20 on 500 real images and writes results/train-real.json: losses, hits and rates of every step,
scores of the held-out images, and the sha256 of the weights.

    python recipes.py [--threads N] [--scratch DIR]
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler, swa_utils

import l2ul

PADDING = 4


@dataclass
class Recipe:
    """The options of `unlearn train`, under the names of their Go fields."""

    epochs: int = 3
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    cycle_momentum: bool = False
    milestones: tuple = ()
    gamma: float = 0.1
    warmup: int = 0
    batch: int = 8
    accumulate: int = 1
    augment: bool = True
    mix_up: float = 0.0
    cut_mix: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    clip_value: float = 0.0
    ema: float = 0.0
    amp: bool = False
    val: int = 0

    def json(self):
        return json.dumps({name.replace("_", ""): value for name, value in asdict(self).items()})


def rates_of(make, lr, steps, key="lr", **settings):
    """What a scheduler sets for steps 0, 1, …"""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler, out = make(optimiser, **settings), []
    for _ in range(steps):
        out.append(optimiser.param_groups[0][key])
        optimiser.step()
        scheduler.step()
    return out


def rates(r, per_epoch, key="lr"):
    if r.schedule == "onecycle":
        steps = r.epochs * per_epoch
        return rates_of(lr_scheduler.OneCycleLR, r.lr, steps, key, max_lr=r.lr, total_steps=steps)
    rising = r.warmup * per_epoch
    warm = rates_of(lr_scheduler.LinearLR, r.lr, rising, start_factor=0.01, total_iters=rising) if rising else []
    left = r.epochs - r.warmup
    if r.schedule == "multistep":
        milestones = [m - r.warmup for m in r.milestones]
        by_epoch = rates_of(lr_scheduler.MultiStepLR, r.lr, left, milestones=milestones, gamma=r.gamma)
    elif r.schedule == "cosine":
        by_epoch = rates_of(lr_scheduler.CosineAnnealingLR, r.lr, left, T_max=left)
    else:
        by_epoch = [r.lr] * left
    return warm + [rate for rate in by_epoch for _ in range(per_epoch)]


def crops(n, seed, step):
    g = l2ul.stream(seed, "train/augment", step)
    return torch.cat([torch.randint(0, 2 * PADDING + 1, (n, 2), generator=g), torch.randint(0, 2, (n, 1), generator=g)], 1)


def augmented(x, windows):
    h, w = x.shape[2:]
    padded = F.pad(x, (PADDING,) * 4)
    out = []
    for image, (top, left, flip) in zip(padded, windows.tolist()):
        cut = image[:, top : top + h, left : left + w]
        out.append(cut.flip(2) if flip else cut)
    return torch.stack(out)


def mixed(x, r, seed, step):
    """The blended images, whom each was blended with, and the share of its own label."""
    g = l2ul.stream(seed, "train/mix", step)
    cut = r.cut_mix > 0 and (r.mix_up == 0 or torch.rand(1, generator=g).item() < 0.5)
    alpha = r.cut_mix if cut else r.mix_up
    share = torch._sample_dirichlet(torch.tensor([alpha, alpha], dtype=torch.float64), generator=g)[0].item()
    partner = torch.randperm(len(x), generator=g)
    if not cut:
        return x.mul(share).add(x[partner].mul(1 - share)), partner, share
    h, w = x.shape[2:]
    side = (1 - share) ** 0.5
    cy, half_h = torch.randint(0, h, (1,), generator=g).item(), int(h * side) // 2
    cx, half_w = torch.randint(0, w, (1,), generator=g).item(), int(w * side) // 2
    top, bottom, left, right = max(cy - half_h, 0), min(cy + half_h, h), max(cx - half_w, 0), min(cx + half_w, w)
    out = x.clone()
    out[:, :, top:bottom, left:right] = x[partner][:, :, top:bottom, left:right]
    return out, partner, 1 - (bottom - top) * (right - left) / (h * w)


def optimizer(r, params):
    if r.optimizer == "sgd":
        return torch.optim.SGD(params, r.lr, r.momentum, 0, r.weight_decay, r.nesterov, foreach=False)
    make = torch.optim.Adam if r.optimizer == "adam" else torch.optim.AdamW
    return make(params, r.lr, weight_decay=r.weight_decay, foreach=False)


def train(model, pixels, labels, indices, r, seed, layout, at_once=64):
    """Trains on uint8 NCHW pixels at indices, but for r.val of them. Returns the log; the model ends as what is kept."""
    held = torch.randperm(len(pixels), generator=l2ul.stream(seed, "train/val"))[: r.val].sort().values if r.val else []
    indices = torch.tensor([i for i in indices.tolist() if i not in set(map(int, held))])
    n = len(indices)
    per_epoch = n // r.batch if n % r.batch == 1 else -(-n // r.batch)
    params, lr = list(model.parameters()), rates(r, per_epoch)
    optimiser, average = optimizer(r, params), None
    momentum = rates(r, per_epoch, "momentum") if r.cycle_momentum else None
    if r.ema:
        average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(r.ema), use_buffers=True)
    out = {"loss": [], "hits": [], "lr": lr, "val_hits": [], "val_loss": []}
    for epoch in range(r.epochs):
        order = indices[torch.randperm(n, generator=l2ul.stream(seed, "train/shuffle", epoch))]
        for i in range(per_epoch):
            step = epoch * per_epoch + i + 1
            batch = order[i * r.batch : (i + 1) * r.batch]
            x, y = pixels[batch].float().div(255), labels[batch]
            if r.augment:
                x = augmented(x, crops(len(batch), seed, step))
            partner, share = None, 1.0
            if r.mix_up or r.cut_mix:
                x, partner, share = mixed(x, r, seed, step)
            x = x.contiguous(memory_format=layout)
            model.train()
            group = optimiser.param_groups[0]
            group["lr"] = lr[step - 1]
            if r.cycle_momentum and r.optimizer == "sgd":
                group["momentum"] = momentum[step - 1]
            elif r.cycle_momentum:
                group["betas"] = (momentum[step - 1], group["betas"][1])
            optimiser.zero_grad()
            parts = max(1, min(r.accumulate, len(batch) // 2))
            total, hits = 0.0, 0
            for part in range(parts):
                cut = slice(len(batch) * part // parts, len(batch) * (part + 1) // parts)
                with torch.autocast("cpu", torch.bfloat16, enabled=r.amp):
                    logits = model(x[cut])
                logits = logits.float()
                loss = F.cross_entropy(logits, y[cut], label_smoothing=r.label_smoothing)
                if partner is not None:
                    other = F.cross_entropy(logits, y[partner][cut], label_smoothing=r.label_smoothing)
                    loss = loss.mul(share).add(other.mul(1 - share))
                if parts > 1:
                    loss = loss.mul((cut.stop - cut.start) / len(batch))
                loss.backward()
                total += loss.item()
                hits += (logits.argmax(1) == y[cut]).sum().item()
            if r.clip_norm:
                nn.utils.clip_grad_norm_(params, r.clip_norm, foreach=False)
            if r.clip_value:
                nn.utils.clip_grad_value_(params, r.clip_value, foreach=False)
            optimiser.step()
            if average:
                average.update_parameters(model)
            out["loss"].append(total)
            out["hits"].append(hits)
        if r.val:
            x = pixels[held].float().div(255).contiguous(memory_format=layout)
            hits, loss = l2ul.evaluate(average.module if average else model, x, labels[held], at_once)
            out["val_hits"].append(hits)
            out["val_loss"].append(loss / len(held))
    if average:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    return out


def floats(model):
    """Parameters and floating buffers. The average keeps counts of batches in another way than PyTorch's."""
    return [t for t in model.state_dict().values() if t.is_floating_point()]


# --- small cases for make.py ----------------------------------------------------------------------------------------

CASES = {
    "sgd": Recipe(nesterov=True),
    "adam": Recipe(optimizer="adam", lr=0.01, schedule="multistep", milestones=(1, 2), gamma=0.3),
    "adamw": Recipe(optimizer="adamw", lr=0.02, weight_decay=0.1, warmup=1, label_smoothing=0.1, clip_norm=0.5),
    "cycle": Recipe(schedule="onecycle", cycle_momentum=True),
    "adam-cycle": Recipe(optimizer="adam", lr=0.01, schedule="onecycle", cycle_momentum=True, clip_value=0.02),
    "mix": Recipe(schedule="onecycle", mix_up=0.4, cut_mix=1.0, augment=False),
    "average": Recipe(schedule="constant", ema=0.9, val=5, accumulate=2),
    "amp": Recipe(amp=True),
}


def images(n):
    """n images 3x8x8 of five classes, those of the engine's own tests of training."""
    i, c, p = torch.meshgrid(torch.arange(n), torch.arange(3), torch.arange(64), indexing="ij")
    label = i * 3 % 5
    value = (i * 31 + c * 17 + p * 7) % 60 + 100 * (c == label % 3) + 90 * ((label > 2) & (p < 16))
    return value.to(torch.uint8).view(n, 3, 8, 8), label[:, 0, 0]


def values(tiny, layout):
    """Every case on the network tiny(), 27 images, seed 11; and the rates of schedulers for themselves."""
    torch.manual_seed(0)
    start = tiny().state_dict()
    t, meta = {f"net.{n}": v.clone() for n, v in start.items()}, {}
    pixels, labels = images(27)
    for name, recipe in CASES.items():
        model = tiny()
        model.load_state_dict(start)
        model = model.to(memory_format=layout)
        log = train(model, pixels, labels, torch.arange(27), recipe, 11, layout)
        t |= {f"{name}.{key}": torch.tensor(v, dtype=torch.int64 if "hits" in key else torch.float64) for key, v in log.items() if v}
        t[f"{name}.state"] = torch.cat([v.contiguous().flatten() for v in floats(model)])
        meta[name] = recipe.json()
    warm = lambda o: lr_scheduler.SequentialLR(  # noqa: E731
        o, [lr_scheduler.LinearLR(o, 0.01, total_iters=10), lr_scheduler.CosineAnnealingLR(o, 30)], milestones=[10]
    )
    t["rates.warmup"] = torch.tensor(rates_of(warm, 0.1, 40), dtype=torch.float64)
    t["rates.multistep"] = torch.tensor(
        rates_of(lr_scheduler.MultiStepLR, 0.1, 182, milestones=[91, 136]), dtype=torch.float64
    )
    return t, meta


# --- real images ----------------------------------------------------------------------------------------------------

REAL = {
    "sgd": Recipe(epochs=3, lr=0.05, batch=50),
    "all": Recipe(
        epochs=3, optimizer="adamw", lr=0.003, weight_decay=0.05, warmup=1, batch=50, accumulate=2, mix_up=0.2, cut_mix=1.0,
        label_smoothing=0.1, clip_norm=1.0, ema=0.9, val=50,
    ),  # fmt: skip
}  # fmt: skip


def main():
    import make
    import nets
    import real

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "l2ul-golden")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    a.scratch.mkdir(parents=True, exist_ok=True)
    _, (pixels, labels) = real.decode(real.SHARED / "data/cifar10-jpeg.tar.zst", a.scratch)  # the test split: the smaller one
    pixels, labels = pixels[::20], labels[::20]
    record = {
        "about": {
            "torch": torch.__version__, "cpu": make.cpu(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": str(a.threads), "format": "channels_last",
        },
        "model": "resnet20", "every": 20, "seed": 1,
    }  # fmt: skip
    for name, recipe in REAL.items():
        torch.manual_seed(l2ul.stream_seed(1, "train/init"))
        model = nets.new("resnet20").to(memory_format=torch.channels_last)
        log = train(model, pixels, labels, torch.arange(len(pixels)), recipe, 1, torch.channels_last)
        record[name] = {"recipe": json.loads(recipe.json())} | log | {"floats_sha256": l2ul.sha256(*floats(model.net))}
        print(name, "loss", log["loss"][0], "to", log["loss"][-1], "held out", log["val_hits"])
    (make.HERE / "results" / "train-real.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
