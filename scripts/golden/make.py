"""Writes the checked-in reference values: small safetensors and JSON files; README.md says what is in each.

    python make.py [--out DIR] [--threads N] [--format channels_last|contiguous] [names …]

Names: streams recipes rawp compat tiny block-a block-b-basic block-b-bottleneck resnet networks. Default: all, beside this script.
"""

import argparse
import copy
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import compat
import l2ul
import nets
import recipes

HERE = Path(__file__).resolve().parent


def flat(tensors):
    """The values of a list of tensors, row-major, one after the other: one vector instead of many small tensors."""
    return torch.cat([t.detach().contiguous().flatten() for t in tensors])


def digest(tensors):
    """sha256 of every tensor as uint8 [n,32]."""
    return torch.tensor([list(bytes.fromhex(l2ul.sha256(t))) for t in tensors], dtype=torch.uint8)


def sums(tensors):
    """float64 [n,2]: sum and sum of magnitudes of every tensor."""
    return torch.stack([torch.stack([t.double().sum(), t.double().abs().sum()]) for t in map(torch.Tensor.detach, tensors)])


def save(path, tensors, meta):
    """A safetensors file whose bytes depend on its contents alone (the library orders metadata at random)."""
    names = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
    header, data = {"__metadata__": meta}, []
    for name, value in sorted(tensors.items(), key=lambda item: -item[1].element_size()):  # keeps values aligned
        data.append(value.detach().contiguous().numpy().tobytes())
        end = sum(map(len, data))
        header[name] = {
            "dtype": names[value.dtype], "shape": list(value.shape), "data_offsets": [end - len(data[-1]), end]
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))


# --- streams, tables, slices ----------------------------------------------------------------------------------------


def streams(_):
    t, meta = {}, {}
    for n in (50000, 18966, 1281167):
        for seed in (0, 1, 2):
            t[f"randperm.{n}.{seed}"] = l2ul.forget_indices(n, 16, seed)
    t["targets.uniforms"] = torch.tensor([0.49625659, 0.76822180, 0.08847743, 0.13203049])
    t["targets.labels"] = torch.tensor([4, 4, 0, 9])
    t["targets.other"] = l2ul.other_class(t["targets.uniforms"], t["targets.labels"], 10)
    t["targets.half"] = l2ul.half_class(t["targets.uniforms"], t["targets.labels"], 10)

    # Every rounding case: all classes, uniforms at the edges of the bins.
    grid = torch.cat([torch.arange(64) / 64, torch.tensor([1 - 2.0**-24, 2.0**-24])])
    for classes in (2, 3, 5, 10, 100):
        labels = torch.arange(len(grid)) % classes
        t[f"targets.grid.{classes}"] = l2ul.other_class(grid, labels, classes)
    t["targets.grid.uniforms"] = grid

    labels = torch.arange(70) % 10
    for order in ("repeat-major", "batch-major"):
        pairs = l2ul.draw_pairs(labels, (3, 2, 2), 10, 3, seed=7, b_f=32, order=order)
        for name, value in vars(pairs).items():
            t[f"pairs.{order}.{name}"] = value
    meta["pairs"] = "labels arange(70) % 10, 10 classes, 3 repeats, images 3x2x2, seed 7, b_f 32"

    rows = [(p, *d, *f, last) for p, d, f, last in l2ul.schedule(70, 32, 1400, 256, 2)]
    t["schedule.adv"] = torch.tensor(rows, dtype=torch.int64)
    rows = [(p, *d, *f, last) for p, d, f, last in l2ul.schedule(70, 32, 70, 32, 2)]
    t["schedule.neggrad"] = torch.tensor(rows, dtype=torch.int64)
    meta["schedule"] = "rows: pass, driver begin, end, forget begin, end, 1 if last of its pass; k 70, b_f 32, b_a 256, N 20"

    seeds = [(s, p, i) for s in (0, 1, -7, 2**63 - 1) for p in ("attack/targets", "attack/starts", "train/init") for i in (0, 12)]
    t["seeds"] = torch.tensor([l2ul.stream_seed(*s) for s in seeds], dtype=torch.int64)
    meta["seeds"] = json.dumps(seeds)

    # Learning rates after 0, 1, 2 … steps.
    weight = nn.Parameter(torch.zeros(1))

    def rates(make, lr, steps, **kw):
        optimiser = torch.optim.SGD([weight], lr=lr, momentum=0.9)
        schedule, out = make(optimiser, **kw), []
        for _ in range(steps):
            group = optimiser.param_groups[0]
            out.append((group["lr"], group["momentum"]))
            optimiser.step()
            schedule.step()
        return torch.tensor(out, dtype=torch.float64)

    scheduler = torch.optim.lr_scheduler
    t["rates.cosine"] = rates(scheduler.CosineAnnealingLR, 0.01, 201, T_max=200)[:, 0]
    t["rates.step"] = rates(scheduler.StepLR, 0.1, 100, step_size=30, gamma=0.1)[:, 0]
    t["rates.onecycle"] = rates(
        scheduler.OneCycleLR, 0.1, 200, max_lr=0.005, total_steps=200, pct_start=0.3,
        div_factor=25, final_div_factor=1e4, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    meta["rates"] = "cosine: lr 0.01, T_max 200; step: lr 0.1, size 30, gamma 0.1; onecycle: [lr, momentum], max 0.005, 200 steps"
    return t, meta


# --- random weight perturbation on the small networks that are checked in ----------------------------------------------


def perturbed(a):
    """With the weights, images and Ω̄ of the files of the small networks, seed 5, with and without importance."""
    layout = torch.channels_last if a.format == "channels_last" else torch.contiguous_format
    t, meta = {}, {}
    for name in ("tiny", "block-a"):
        held = load_file(HERE / f"{name}.safetensors")
        x, y = held["x"].contiguous(memory_format=layout), held["y"]
        for case in ("none", "importance"):
            model = SMALL[name]()
            model.load_state_dict({n.removeprefix("net."): v for n, v in held.items() if n.startswith("net.")})
            model = model.to(memory_format=layout)
            weights, at = None, 0
            if case == "importance":
                weights = []
                for p in model.parameters():
                    anchor = held["anchor.mas"][at : at + p.numel()].view(p.shape)
                    weights.append(1 - anchor)
                    at += p.numel()
            for k in (2, 6):  # of six images of five classes one is always classified rightly
                net = copy.deepcopy(model)
                out = l2ul.rawp(net, x[:k].contiguous(memory_format=layout), y[:k], 5, weights)
                t[f"{name}.{case}.{k}.parameters"] = flat(net.parameters())
                t[f"{name}.{case}.{k}.hits"] = torch.tensor(out.hits, dtype=torch.int64)
                meta[f"{name}.{case}.{k}"] = json.dumps({"outcome": out.outcome, "steps": out.steps})
    return t, meta


# --- small networks: attack, importance, steps ----------------------------------------------------------------------


class OneBlock(nn.Module):
    """A 3x3 convolution to 8 channels, one residual block of stride 2, global pool, linear → 5.

    Channels stay multiples of 8: oneDNN in torch 2.11.0 writes past its buffer in the weight gradient of a 1x1
    convolution of stride 2 with fewer input channels (channels_last, AVX2, one thread).
    """

    def __init__(self, block, width):
        super().__init__()
        self.stem = nets.conv(3, 8, 3)
        self.block = block
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.block(self.stem(x)), 1).flatten(1))


def basic_a():
    downsample = nn.Sequential(nets.conv(8, 16, 1, 2), nn.BatchNorm2d(16))
    return OneBlock(nets.Basic(8, 16, 2, downsample), 16)


SMALL = {
    "tiny": nets.Tiny,
    "block-a": basic_a,
    "block-b-basic": lambda: OneBlock(nets.CifarBlock(8, 16, 2, False), 16),
    "block-b-bottleneck": lambda: OneBlock(nets.CifarBlock(8, 8, 2, True), 32),
}


def small(name, a):
    """Everything of section 11 on one small network: k = 6, N = 4, b_f = 4, b_a = 10, lr 0.05, images 3x8x8."""
    layout = torch.channels_last if a.format == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    base = SMALL[name]()
    g = torch.Generator().manual_seed(1)
    pattern = torch.rand(5, 3, 8, 8, generator=g)

    def draw(labels):
        return pattern[labels].mul(0.6).add(torch.rand(len(labels), 3, 8, 8, generator=g).mul(0.4))

    # A little training gives running statistics, gradients and logits that look like those of a real network.
    seen = torch.arange(40) % 5
    pixels, optimiser = draw(seen), torch.optim.SGD(base.parameters(), 0.05, momentum=0.9)
    for _ in range(400):
        optimiser.zero_grad()
        F.cross_entropy(base(pixels), seen).backward()
        optimiser.step()
    base.zero_grad()
    base = base.to(memory_format=layout)
    t = {f"net.{n}": v.clone() for n, v in base.state_dict().items()}
    meta = {"parameters": json.dumps([n for n, _ in base.named_parameters()])}
    meta["buffers"] = json.dumps([n for n, _ in base.named_buffers()])
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    x = draw(y).contiguous(memory_format=layout)
    assert l2ul.evaluate(base, x, y)[0] == 6, "the forget set must be classified rightly before"
    goal = l2ul.other_class(torch.rand(6, generator=g), y, 5)
    pairs = l2ul.draw_pairs(y, (3, 8, 8), 5, 4, seed=0, b_f=4)
    retain_y = torch.arange(12) % 5
    retain_x = draw(retain_y).contiguous(memory_format=layout)
    t |= {"x": x, "y": y, "goal": goal, "retain.x": retain_x, "retain.y": retain_y}
    t |= {f"pair.{n}": v for n, v in vars(pairs).items()}

    def fresh():
        return copy.deepcopy(base)

    # Forward and gradients, in both modes.
    for mode in ("eval", "train"):
        model, inputs = fresh(), x.clone(memory_format=torch.preserve_format).requires_grad_()
        model.train(mode == "train")
        logits = model(inputs)
        loss = F.cross_entropy(logits, y)
        grads = torch.autograd.grad(loss, [inputs, *model.parameters()])
        t |= {f"{mode}.logits": logits, f"{mode}.loss": loss, f"{mode}.grad.x": grads[0], f"{mode}.grad": flat(grads[1:])}

    # PGD.
    model = fresh()
    source, start = x[pairs.source].contiguous(memory_format=layout), pairs.start.contiguous(memory_format=layout)
    cases = {
        "l2": (1.5, 0.1, 100, "l2"), "linf": (0.06, 0.01, 100, "linf"),
        "l2.eps0": (0.0, 0.1, 1, "l2"), "l2.alpha0": (1.5, 0.0, 1, "l2"),
        "linf.eps0": (0.0, 0.01, 1, "linf"), "linf.alpha0": (0.06, 0.0, 1, "linf"),
    }  # fmt: skip
    for case, (eps, alpha, iterations, norm) in cases.items():
        def keep(step, delta):
            if step in ((0, 1, 10, 100) if iterations == 100 else (1,)):
                t[f"pgd.{case}.delta{step}"] = delta.clone()

        with l2ul.frozen(model):
            l2ul.pgd(model, source, start, pairs.target, eps, alpha, iterations, norm, record=keep)
    delta = l2ul.pgd_start(source, start, 1.5)
    small_step = torch.randn(24, 3, 8, 8, generator=g).contiguous(memory_format=layout).mul(1e-9)  # under the floor of 1e-6
    t["pgd.floor.grad"] = small_step
    t["pgd.floor.delta"] = l2ul.pgd_step(delta, small_step, source, 0.1, 1.5)
    t["pgd.zero.delta"] = l2ul.pgd_step(delta, torch.zeros_like(delta), source, 0.1, 1.5)
    t["pgd.zero.linf"] = l2ul.pgd_step(delta, torch.zeros_like(delta), source, 0.01, 0.06, "linf")
    meta["pgd"] = json.dumps(cases)
    adversarial = l2ul.attack(model, x, pairs, 1.5, 0.1, 100)
    t |= {f"attack.{n}": v for n, v in vars(adversarial).items()}

    # Importance.
    full = name == "tiny"  # the blocks repeat the main cases only
    omegas = {"mas": l2ul.importance(fresh(), x, y, "mas"), "mas-batch": l2ul.importance_batch(fresh(), x, 4)}
    omegas["fisher-true"] = l2ul.importance(fresh(), x, y, "fisher-true")
    if full:
        omegas |= {
            "mas-plain": l2ul.importance(fresh(), x, y, "mas", norm="plain"),
            "mas-batch-noacc": l2ul.importance_batch(fresh(), x, 4, accumulating=False),
            "mas-batch-eval": l2ul.importance_batch(fresh(), x, 4, bn="eval"),
            "mas-batch-squared": l2ul.importance_batch(fresh(), x, 4, norm="squared"),
            "fisher-emp": l2ul.importance(fresh(), x, y, "fisher-emp"),
            "fisher-true-16": l2ul.importance(fresh(), x, y, "fisher-true", samples=16),
            "uniform": l2ul.importance(fresh(), x, y, "uniform"),
        }
    for kind, omega in omegas.items():
        t[f"omega.{kind}"], t[f"anchor.{kind}"] = flat(omega), flat(l2ul.anchors(omega))
    t["anchor.one"] = l2ul.anchors([torch.tensor([0.25])])[0]
    t["anchor.constant"] = l2ul.anchors([torch.full((3, 2), 0.1)])[0]
    anchor = l2ul.anchors(omegas["mas"])

    # R and its gradient, by autograd and directly, at a point away from the reference.
    model = fresh()
    reference = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g).mul(0.01))
    params = list(model.parameters())
    value = sum((w * (p - r).square()).sum() for p, r, w in zip(params, reference, anchor)) / 2
    t["penalty.at"] = flat(params)
    t["penalty.value"] = torch.tensor(l2ul.penalty(params, reference, anchor), dtype=torch.float64)
    t["penalty.autograd"] = flat(torch.autograd.grad(0.7 * value, params))
    t["penalty.direct"] = flat([w.mul(0.7).mul(p.detach() - r) for p, r, w in zip(params, reference, anchor)])

    # Steps and loops.
    def run(tag, keep=(1, 2, 5), **kw):
        model = fresh()
        settings = l2ul.Settings(**{"b_f": 4, "b_a": 10, "lr": 0.05} | kw)

        def watch(step, optimiser):
            if step in keep:
                t[f"{tag}.{step}.parameters"] = flat(model.parameters())
                t[f"{tag}.{step}.momentum"] = flat(optimiser.velocity)
                t[f"{tag}.{step}.running"] = flat(b for b in model.buffers() if b.is_floating_point())
                t[f"{tag}.{step}.tracked"] = torch.stack([b for b in model.buffers() if not b.is_floating_point()])

        out = l2ul.unlearn(model, x, y, settings, adversarial, anchor, (retain_x, retain_y), goal, watch)
        for loss in ("loss", "loss_driver", "loss_forget"):
            if getattr(out, loss):
                t[f"{tag}.{loss}"] = torch.tensor(getattr(out, loss), dtype=torch.float64)
        t[f"{tag}.hits"] = torch.tensor(out.hits, dtype=torch.int64)
        meta[tag] = json.dumps({"outcome": out.outcome, "steps": out.steps, "passes": out.passes, "settings": kw})

    never = {"max_steps": 5, "passes": 5}
    for method in ("neggrad", "adv", "adv-imp"):
        run(f"step.{method}", method=method, lr=0.001, **never)
    if full:
        for method in ("imp", "oracle"):
            run(f"step.{method}", method=method, lr=0.001, **never)
        for method in ("neggrad", "adv", "imp", "adv-imp", "oracle"):
            run(f"relabel.{method}", (5,), method=method, goal="relabel", lr=0.001, **never)
        run("step.adv-sum", (1,), method="adv", loss_weights="sum", lr=0.001, **never)
        for mode in l2ul.BN_MODES:
            if mode != "frozen":  # that one has other trainable parameters, thus other anchors
                run(f"bn.{mode}", (1,), method="adv-imp", bn=mode, lr=0.001, max_steps=1)
            run(f"bn.{mode}.adv", (1,), method="adv", bn=mode, lr=0.001, max_steps=1)
        run("bn.train.adv-eval", (1,), method="adv", bn="train", bn_adv="eval", lr=0.001, max_steps=1)
    for method in ("neggrad", "adv", "adv-imp"):
        run(f"loop.{method}", (), method=method, b_f=6, lr=0.02, passes=60)
    run("loop.cap", (), method="neggrad", lr=1e-6, passes=2)
    run("loop.diverged", (), method="neggrad", lr=1e30, passes=10)
    return t, meta


# --- full networks --------------------------------------------------------------------------------------------------


def resnet(_):
    """Forward, backward and three steps of two networks in both memory formats, as slices, sums and hashes."""
    t, meta = {}, {}
    for name, n, size in (("l2ul-resnet18", 8, 32), ("resnet50", 4, 64)):
        g = torch.Generator().manual_seed(1)
        x, y = torch.rand(n, 3, size, size, generator=g), torch.randint(0, 10, (n,), generator=g)
        t[f"{name}.y"], t[f"{name}.x.sha256"] = y, digest([x])
        meta[name] = f"torch.manual_seed(0), {name}; Generator 1: x = rand({n},3,{size},{size}), y = randint(0,10,({n},))"
        for layout in ("contiguous", "channels_last"):
            form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            torch.manual_seed(0)
            base, inputs, tag = nets.new(name).to(memory_format=form), x.contiguous(memory_format=form), f"{name}.{layout}"
            with torch.no_grad():
                t[f"{tag}.eval.logits"] = base.eval()(inputs)
            for optimiser in ("l2ul", "torch"):
                model = copy.deepcopy(base).train()
                params = list(model.parameters())
                own = l2ul.SGD(params, 0.01)
                ready = torch.optim.SGD(params, 0.01, momentum=0.9, weight_decay=1e-4, foreach=False)
                for step in (1, 2, 3):
                    logits = model(inputs)
                    loss = F.cross_entropy(logits, y)
                    grads = torch.autograd.grad(loss, params)
                    if step == 1 and optimiser == "l2ul":
                        t[f"{tag}.train.logits"], t[f"{tag}.grad.sums"] = logits, sums(grads)
                        t[f"{tag}.grad.sha256"], t[f"{tag}.grad.first"] = digest(grads), flat(p.flatten()[:4] for p in grads)
                    t[f"{tag}.{optimiser}.{step}.loss"] = loss
                    if optimiser == "l2ul":
                        own.step(grads)
                    else:
                        for p, grad in zip(params, grads):
                            p.grad = grad
                        ready.step()
                    state = [*params, *(b for b in model.net.buffers())]
                    t[f"{tag}.{optimiser}.{step}.sums"], t[f"{tag}.{optimiser}.{step}.sha256"] = sums(state), digest(state)
                    t[f"{tag}.{optimiser}.{step}.first"] = flat(p.flatten()[:4] for p in params)
    meta["order"] = "gradients: parameters in registration order; states: parameters, then buffers; first: 4 values of each"
    meta["optimisers"] = "l2ul: every operation rounded; torch: torch.optim.SGD(foreach=False), whose add(alpha) fuses; lr 0.01"
    return t, meta


def networks(a):
    """Every network after torch.manual_seed(0): weights, size, logits and gradients on two images."""
    layout = torch.channels_last if a.format == "channels_last" else torch.contiguous_format
    out = {}
    for name, (_, classes, size, _, _) in nets.NETWORKS.items():
        torch.manual_seed(0)
        model = nets.new(name)
        row, state = {"next": torch.rand(1).item()}, model.net.state_dict()  # the generator's position afterwards
        params = dict(model.named_parameters())
        row |= {"parameters": sum(p.numel() for p in params.values()), "tensors": len(params)}
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            nets.new(name).eval()(torch.zeros(1, 3, size, size))
        row["macs"] = counter.get_total_flops() // 2
        try:
            published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
            assert (row["parameters"], round(row["macs"] / 1e9, 3)) == (published["num_params"], published["_ops"]), name
        except ValueError:
            pass  # not one of torchvision's
        lines = [f"{n} {str(v.dtype).removeprefix('torch.')} [{' '.join(map(str, v.shape))}]" for n, v in state.items()]
        row["keys"] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        row["sha256"] = joint(state.values())
        row["sums"] = [short(v.double().sum()) for v in state.values()]
        out[name] = row

        torch.manual_seed(3)
        head = list(params.values())[-2]
        if not head.any():  # as in a vision transformer; it would hide all that is before it
            nn.init.normal_(head, std=0.02)

        # A linear function of the logits has gradients even where a softmax is saturated, as that of a deep untrained network.
        model = model.to(memory_format=layout)
        small = getattr(model.net, "image_size", min(size, 64))  # the size that a vision transformer has positions for
        x = torch.rand(2, 3, small, small, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=layout)
        wave = (torch.arange(2 * classes) % 7 - 3).float().view(2, classes)
        for mode in ("eval", "train"):
            torch.manual_seed(2)  # of dropout
            logits = model.train(mode == "train")(x)
            grads = torch.autograd.grad((logits * wave).sum(), list(params.values()))
            row[mode] = {"sha256": joint([logits, *grads])}
            if mode == "eval":
                row[mode] |= {
                    "logits": [short(v) for v in logits[:, :5].flatten()],
                    "sums": [short(v) for pair in sums(grads) for v in pair],
                }
    return out


def short(value):
    return float(f"{value.item():.9g}")


def joint(tensors):
    """sha256 of all values, row-major, one tensor after the other."""
    h = hashlib.sha256()
    for t in tensors:
        h.update(t.detach().contiguous().numpy().tobytes())
    return h.hexdigest()


def cpu():
    """The processor's name: MKL and oneDNN choose by more than the instruction set."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*")
    p.add_argument("--out", type=Path, default=HERE)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--format", choices=("channels_last", "contiguous"), default="channels_last")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    about = {
        "torch": torch.__version__,
        "cpu": cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(a.threads),
        "format": a.format,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    layout = torch.channels_last if a.format == "channels_last" else torch.contiguous_format
    makers = {"streams": streams, "recipes": lambda _: recipes.values(nets.Tiny, layout), "resnet": resnet, "rawp": perturbed, "compat": compat.values} | {n: lambda a, n=n: small(n, a) for n in SMALL}
    for name in a.names or [*makers, "networks"]:
        if name == "networks":
            path = a.out / "networks.json"
            path.write_text(json.dumps({"about": about} | networks(a)).replace('"next"', '\n"next"') + "\n")
        else:
            path = a.out / f"{name}.safetensors"
            tensors, meta = makers[name](a)
            save(path, tensors, about | meta)
        print(f"{path.stat().st_size:8} {path}")


if __name__ == "__main__":
    main()
