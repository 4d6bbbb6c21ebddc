"""What the published code does, quirk by quirk, for `--compat official-b8b335b` and what `official-5fb777b` adds to that.

Written from sections 2 to 5 and 7 of the specification, whose numbers the comments cite, as the plain sequential loop that they
describe: one attack a call, one generator, gradients that are never cleared. Starting points come from the CPU's generator
(`compat.rng` official-cpu), the official code's from a GPU's.
"""

import copy
import math

import torch
from torch.nn import functional as F

import l2ul
import nets

CLASSES = 12
SETTINGS = {"k": 8, "n": 5, "b_f": 4, "b_a": 8, "eps": 1.5, "alpha": 0.1, "iterations": 6, "lr": 0.0005, "lam": 1.0, "passes": 3, "seed": 1}
TARGET_CLASSES = 10  # for every dataset, however many classes it has


def norms(v):
    """(Σ|v|²)^½ of each image in float32, by PyTorch's own sum."""
    return v.abs().pow(2).flatten(1).sum(dim=1).pow(0.5).view(-1, 1, 1, 1)


def project(v, eps):
    n = norms(v)
    return v * torch.min(eps / n, torch.ones_like(n))


def clampbox(x, v):
    return torch.clamp(x + v, 0, 1) - x


def pgd(model, x, start, target, eps, alpha, iterations):
    """3.1: a random image brought to the ball; ascent on -ΣCE by steps of length alpha; box, then ball."""
    delta = clampbox(x, clampbox(x, project(start - x, eps)))
    for _ in range(iterations):
        delta = delta.detach().requires_grad_()
        loss = F.cross_entropy(model(x + delta), target, reduction="sum")
        (grad,) = torch.autograd.grad(-loss, delta)
        n = norms(grad)
        step = grad * (1 / torch.max(n, torch.full_like(n, 1e-6)))
        delta = project(clampbox(x, delta.detach() + step * alpha), eps)
    return torch.clamp(x + delta, 0, 1)


def adversarial(model, images, labels, s, by_slice=False, at_once=False):
    """3.2, 3.3: repeat by repeat, slice by slice; at 5fb777b all repeats of a slice before the next. Returns x_adv, targets,
    sources, repeats and starts, in call order. Matrix products round differently in batches of other sizes, so networks that are made
    of them may attack all calls at once."""
    g = torch.Generator().manual_seed(s["seed"])  # one for all: targets and starts of each call in turn
    model.eval()
    out = []
    for repeat, i, end in l2ul.calls(len(images), s["b_f"], s["n"], "batch-major" if by_slice else "repeat-major"):
        x, y = images[i:end], labels[i:end]
        target = (torch.rand(len(x), generator=g) * TARGET_CLASSES).long()
        torch.rand(len(x), generator=g)  # drawn and never looked at
        target = torch.where(target == y, TARGET_CLASSES // 2, target)  # which may be the label
        start = torch.rand(x.shape, generator=g)
        source = torch.arange(i, end)
        x_adv = start if at_once else pgd(model, x, start, target, s["eps"], s["alpha"], s["iterations"])
        out.append((x_adv, target, source, torch.full_like(source, repeat), start))
    x_adv, target, source, repeat, start = [torch.cat(parts) for parts in zip(*out)]
    if at_once:
        x_adv = pgd(model, images[source], start, target, s["eps"], s["alpha"], s["iterations"])
    return x_adv, target, source, repeat, start


def filtered(made, k):
    """5fb777b, UTKFace: of the examples made for the most images, those of the first k."""
    return [column[made[2] < k] for column in made]


def crops(images, side, seed, stream, index=0):
    """5fb777b, UTKFace: a random crop of each image, mirrored half of the time. The program draws them in worker processes; this
    is the project's reading, a stream for each pass of a phase."""
    g = l2ul.stream(seed, f"compat/utk-augment/{stream}", index)
    corners = torch.randint(0, images.shape[2] - side + 1, (len(images), 2), generator=g).tolist()
    flips = torch.randint(0, 2, (len(images), 1), generator=g).flatten().tolist()
    cut = [x[:, top : top + side, left : left + side] for x, (top, left) in zip(images, corners)]
    return torch.stack([c.flip(2) if flip else c for c, flip in zip(cut, flips)])


def importance(model, images, s):
    """4.1 `mas-batch`: train mode, so batch statistics; unsquared norms; gradients add up from slice to slice."""
    model = copy.deepcopy(model).train()
    params = list(model.parameters())
    omega = [torch.zeros_like(p) for p in params]
    for i in range(0, s["k"], s["b_f"]):
        x = images[i : i + s["b_f"]]
        torch.norm(model(x), p=2, dim=1).mean().backward()  # no zero_grad
        for o, p in zip(omega, params):
            o += p.grad.abs() * len(x)
    count = (s["k"] // s["b_f"] + 1) * s["b_f"]
    return [o / count for o in omega]


def anchors(omega):
    """4.2 without a guard: a tensor that is the same everywhere becomes NaN."""
    return [1 - (o - o.min()) / (o.max() - o.min()) for o in omega]


def hits(model, images, labels):
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).sum().item()


def adv_imp(model, images, labels, s, x_adv, target, weights, watch, tested=None):
    """2.1, 2.2, 5: losses by sample counts, statistics of every forward, all without a look at what is not finite. `tested` gives
    the images of the stop test after a step, where they are others than those that are learned from; then (5fb777b) there is no test
    before the first step."""
    params = list(model.parameters())
    reference = [p.detach().clone() for p in params]
    velocity, step, passes = None, 0, 0
    if not tested and hits(model, images, labels) == 0:
        return "already", 0
    forget = math.ceil(s["k"] / s["b_f"])
    while True:
        for i in range(0, len(x_adv), s["b_a"]):
            xa, ya = x_adv[i : i + s["b_a"]], target[i : i + s["b_a"]]
            j = step % forget * s["b_f"]
            xf, yf = images[j : j + s["b_f"]], labels[j : j + s["b_f"]]
            model.train()
            ce_a = F.cross_entropy(model(xa), ya)
            ce_f = F.cross_entropy(model(xf), yf)
            n = len(xa) + len(xf)
            loss = ce_a * (len(xa) / n) + -ce_f * (len(xf) / n)
            grads = torch.autograd.grad(loss, params)
            with torch.no_grad():
                d = [
                    g + w * s["lam"] * (p - r) + p * 1e-4
                    for g, w, p, r in zip(grads, weights, params, reference)
                ]  # fmt: skip
                velocity = d if velocity is None else [v * 0.9 + e for v, e in zip(velocity, d)]
                for p, v in zip(params, velocity):
                    p.copy_(p - v * s["lr"])
            step += 1
            left = hits(model, tested(step) if tested else images, labels)
            watch(step, loss.item(), left, velocity)
            if left == 0:
                return "reached", step
        passes += 1
        if passes > s["passes"]:  # compared after counting: one pass more
            return "cap", step


def values(_):
    """20 steps on a small network of 12 classes: k 8, N 5, b_f 4, b_a 8, three passes that become four."""
    s = SETTINGS
    torch.manual_seed(0)
    base = nets.Tiny(CLASSES)
    g = torch.Generator().manual_seed(1)
    pattern = torch.rand(CLASSES, 3, 8, 8, generator=g)
    seen = torch.arange(96) % CLASSES

    def draw(labels):
        return pattern[labels] * 0.6 + torch.rand(len(labels), 3, 8, 8, generator=g) * 0.4

    pixels, optimiser = draw(seen), torch.optim.SGD(base.parameters(), 0.05, momentum=0.9)
    for _ in range(400):  # so that gradients and logits look like those of a real network
        optimiser.zero_grad()
        F.cross_entropy(base(pixels), seen).backward()
        optimiser.step()
    base.zero_grad()
    t = {f"net.{n}": v.clone() for n, v in base.state_dict().items()}
    y = torch.tensor([0, 3, 5, 5, 7, 9, 10, 11])
    x = draw(y)
    x_adv, target, source, repeat, start = adversarial(base, x, y, s)
    assert (target == y[source]).any(), "the fallback is to hit a label"
    t |= {"x": x, "y": y, "x_adv": x_adv, "target": target, "source": source, "repeat": repeat, "start": start}
    weights = anchors(importance(base, x, s))
    t["anchor"] = flat(weights)
    losses, left = [], []

    def watch(step, loss, n, velocity):
        losses.append(loss)
        left.append(n)
        if step in (1, 20):
            t[f"{step}.parameters"], t[f"{step}.momentum"] = flat(base.parameters()), flat(velocity)
            t[f"{step}.running"] = flat(b for b in base.buffers() if b.is_floating_point())

    outcome, steps = adv_imp(base, x, y, s, x_adv, target, weights, watch)
    t["loss"], t["hits"] = torch.tensor(losses, dtype=torch.float64), torch.tensor(left)
    return t, {"outcome": outcome, "steps": str(steps)}


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])
