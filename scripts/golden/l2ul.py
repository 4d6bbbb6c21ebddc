"""L2UL ("Learning to Unlearn", Cha et al., AAAI 2024) written straight from the project's specification.

This is the independent reference the engine is compared with, so it is plain rather than fast. Section numbers are
those of the specification. Where bits matter, every elementwise operation is written out and rounded on its own
(`a.mul(s)` then `add`, never `add(alpha=s)`, which fuses), and sums of squares are taken in float64.
"""

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

# --- random streams (3.3) -------------------------------------------------------------------------------------------


def stream_seed(seed, purpose, index=0):
    """First 8 bytes, little endian, of sha256("l2ul/<seed>/<purpose>/<index>"), top bit cleared."""
    digest = hashlib.sha256(f"l2ul/{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & (1 << 63) - 1


def stream(seed, purpose, index=0):
    return torch.Generator().manual_seed(stream_seed(seed, purpose, index))


def forget_indices(n, k, seed):
    """D_f: the first k entries of a permutation drawn with the raw seed (section 1), so sets are nested in k."""
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not in 1..{n}")
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]


# --- adversarial pairs (3) ------------------------------------------------------------------------------------------


def other_class(u, labels, classes):
    """Rule `other` (3.2): uniform over the classes other than the label. u: float32 in [0,1)."""
    if classes < 2:
        raise ValueError("there is no other class")
    t = u.mul(classes - 1).trunc().clamp(max=classes - 2).long()
    return t + (t >= labels)


def half_class(u, labels, classes):
    """Rule `half` (3.2) of the official code: a hit on the label falls back to floor(K/2), possibly the label."""
    t = u.mul(classes).trunc().long()
    return torch.where(t == labels, classes // 2, t)


def calls(k, b_f, repeats, order="repeat-major"):
    """The calls (repeat, first, last) of the attack in their order (3.3)."""
    slices = [(i, min(i + b_f, k)) for i in range(0, k, b_f)]
    if order == "repeat-major":
        return [(r, i, j) for r in range(repeats) for i, j in slices]
    return [(r, i, j) for i, j in slices for r in range(repeats)]


@dataclass
class Pairs:
    """M pairs in call order. source: position in D_f."""

    source: torch.Tensor  # int64 [M]
    repeat: torch.Tensor  # int64 [M]
    target: torch.Tensor  # int64 [M]
    start: torch.Tensor  # float32 [M,C,H,W] in [0,1)


def draw_pairs(labels, shape, classes, repeats, seed, b_f=32, order="repeat-major", rule="other"):
    """Targets and starting images for `repeats` pairs an image, drawn call by call from two streams."""
    targets, starts = stream(seed, "attack/targets"), stream(seed, "attack/starts")
    source, repeat, target, start = [], [], [], []
    for r, i, j in calls(len(labels), b_f, repeats, order):
        n = j - i
        u = torch.rand(n, generator=targets)
        if rule == "other":
            target.append(other_class(u, labels[i:j], classes))
        else:
            torch.rand(n, generator=targets)  # the official code draws these and drops them
            target.append(half_class(u, labels[i:j], classes))
        start.append(torch.rand(n, *shape, generator=starts))
        source.append(torch.arange(i, j))
        repeat.append(torch.full((n,), r))
    return Pairs(*(torch.cat(parts) for parts in (source, repeat, target, start)))


def norms(v):
    """Per-image Euclidean norm, float32(sqrt(sum of float64 squares)), as [n,1,1,1]."""
    return v.double().square().flatten(1).sum(1).sqrt().float().view(-1, 1, 1, 1)


def clampbox(x, v):
    return x.add(v).clamp(0, 1).sub(x)


def project_l2(v, eps):
    n = norms(v)
    factor = n.reciprocal().mul(eps).clamp(max=1) if eps > 0 else torch.zeros_like(n)
    return v.mul(torch.where(n == 0, torch.ones_like(n), factor))


def project_linf(v, eps):
    return v.clamp(-eps, eps)


def pgd_start(x, start, eps, norm="l2"):
    project = project_l2 if norm == "l2" else project_linf
    return clampbox(x, clampbox(x, project(start.sub(x), eps)))


def pgd_step(delta, grad, x, alpha, eps, norm="l2"):
    """One step of ascent along grad (3.1). L2 projects after the box, Linf before it."""
    if norm == "l2":
        step = grad.mul(norms(grad).clamp(min=1e-6).reciprocal())
        return project_l2(clampbox(x, delta.add(step.mul(alpha))), eps)
    return clampbox(x, project_linf(delta.add(grad.sign().mul(alpha)), eps))


def pgd_gradient(model, x, delta, target):
    """Gradient with respect to delta of -(summed cross-entropy to the target)."""
    delta = delta.detach().requires_grad_()
    loss = F.cross_entropy(model(x + delta), target, reduction="sum")
    (grad,) = torch.autograd.grad(-loss, delta)
    if not grad.isfinite().all():
        bad = (~grad.isfinite()).flatten(1).any(1).nonzero()[0].item()
        raise FloatingPointError(f"the gradient of pair {bad} of its chunk is not finite")
    return grad


def pgd(model, x, start, target, eps, alpha, iterations, norm="l2", record=None):
    """delta after exactly `iterations` steps, for one chunk. record(t, delta) sees t = 0 (start) to iterations."""
    delta = pgd_start(x, start, eps, norm)
    if record:
        record(0, delta)
    for t in range(iterations):
        delta = pgd_step(delta, pgd_gradient(model, x, delta, target), x, alpha, eps, norm)
        if record:
            record(t + 1, delta)
    return delta


@dataclass
class Attack:
    x_adv: torch.Tensor  # float32 [M,C,H,W]
    target: torch.Tensor  # int64 [M]
    success: torch.Tensor  # bool [M]: prediction equals the target
    loss: torch.Tensor  # float32 [M]: cross-entropy to the target at the end
    norm: torch.Tensor  # float32 [M]: L2 norm of delta


def attack(model, images, pairs, eps, alpha, iterations, norm="l2", chunk=64, progress=None):
    """Attacks all pairs in chunks; the model is in eval mode with frozen parameters while it runs."""
    layout = memory_format(images)
    with frozen(model):
        parts = []
        for i in range(0, len(pairs.target), chunk):
            x = images[pairs.source[i : i + chunk]].contiguous(memory_format=layout)
            start = pairs.start[i : i + chunk].contiguous(memory_format=layout)
            target = pairs.target[i : i + chunk]
            delta = pgd(model, x, start, target, eps, alpha, iterations, norm)
            x_adv = x.add(delta).clamp(0, 1)
            with torch.no_grad():
                logits = model(x_adv)
            loss = F.cross_entropy(logits, target, reduction="none")
            parts.append((x_adv, target, logits.argmax(1) == target, loss, norms(delta).flatten()))
            if progress:
                progress(i + len(target), len(pairs.target))
        joined = [torch.cat(p) for p in zip(*parts)]
        joined[0] = joined[0].contiguous(memory_format=layout)
        return Attack(*joined)


def memory_format(t):
    return torch.channels_last if t.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


class frozen:
    """Context: eval mode, no parameter requires a gradient; both are restored."""

    def __init__(self, model):
        self.model = model

    def __enter__(self):
        self.training = self.model.training
        self.wanted = [p for p in self.model.parameters() if p.requires_grad]
        self.model.eval()
        for p in self.wanted:
            p.requires_grad_(False)

    def __exit__(self, *_):
        self.model.train(self.training)
        for p in self.wanted:
            p.requires_grad_(True)


# --- batch normalisation modes (5) ----------------------------------------------------------------------------------

BN_MODES = ("train", "frozen-stats", "eval", "frozen")


def set_bn(model, mode):
    """Puts the model in train mode with its BatchNorm layers normalising as `mode` says."""
    model.train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.train(mode in ("train", "frozen-stats"))
            m.track_running_stats = mode != "frozen-stats"


def eval_mode(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats = True
    model.eval()


# --- importance (4) -------------------------------------------------------------------------------------------------


def trainable(model, bn="train"):
    """Parameters the method may move, in registration order; `frozen` leaves out those of BatchNorm layers."""
    held = set()
    if bn == "frozen":
        held = {p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters(recurse=False)}
    return [p for p in model.parameters() if p not in held]


def accumulate(omega, amounts, weight, count):
    """omega += (weight * amount) / count, rounded in that order."""
    for o, a in zip(omega, amounts):
        o.add_(a.mul(weight).div(count))


def importance(model, images, labels, kind="mas", norm="squared", params=None, samples=None, seed=0):
    """Per-sample estimators of 4.1 over D_f, in eval mode: mas, fisher-emp, fisher-true, uniform (all ones)."""
    params = params or trainable(model)
    if kind == "uniform":
        return [torch.ones_like(p) for p in params]
    omega, k = [torch.zeros_like(p) for p in params], len(images)
    draws = stream(seed, "fisher/samples")
    eval_mode(model)
    layout = memory_format(images)
    for i in range(k):
        logits = model(images[i : i + 1].contiguous(memory_format=layout))
        if kind == "mas":
            total = logits.square().sum() if norm == "squared" else logits.norm()
            accumulate(omega, (g.abs() for g in torch.autograd.grad(total, params)), 1, k)
            continue
        log_p = F.log_softmax(logits, dim=1)[0]
        p = log_p.detach().exp()
        if kind == "fisher-emp":
            weights = {int(labels[i]): 1}
        elif samples:
            drawn = torch.multinomial(p, samples, replacement=True, generator=draws)
            weights = {c: n / samples for c, n in enumerate(torch.bincount(drawn, minlength=len(p)).tolist()) if n}
        else:
            weights = dict(enumerate(p.tolist()))
        for c, w in weights.items():
            grads = torch.autograd.grad(log_p[c], params, retain_graph=True)
            accumulate(omega, (g.square() for g in grads), w, k)
    return omega


def importance_batch(model, images, b_f, norm="plain", bn="train", accumulating=True, params=None):
    """`mas-batch` (4.1), the official form: batch statistics, mean of unsquared norms, gradients never zeroed."""
    params = params or trainable(model)
    k = len(images)
    omega, total = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    set_bn(model, "frozen-stats" if bn == "train" else "eval")
    for i in range(0, k, b_f):
        logits = model(images[i : i + b_f])
        s = (logits.norm(dim=1) if norm == "plain" else logits.square().sum(1)).mean()
        grads = torch.autograd.grad(s, params)
        total = [t.add(g) for t, g in zip(total, grads)] if accumulating else grads
        accumulate(omega, (g.abs() for g in total), len(logits), 1)
    eval_mode(model)
    return [o / ((k // b_f + 1) * b_f) for o in omega]


def anchors(omega):
    """1 - min-max normalised importance, per tensor; a constant tensor gets ones (4.2)."""
    out = []
    for o in omega:
        low, high = o.min(), o.max()
        out.append(torch.ones_like(o) if low == high else 1 - (o - low) / (high - low))
    return out


def penalty(params, reference, weights):
    """R of 4.3 and the squared distance to the reference, in float64 sums."""
    r = d = 0.0
    for p, ref, a in zip(params, reference, weights or [None] * len(params)):
        square = (p.detach().double() - ref.double()).square()
        d += square.sum().item()
        r += square.sum().item() / 2 if a is None else square.mul(a.double()).sum().item() / 2
    return r, d


# --- the step and the loop (2, 5) -----------------------------------------------------------------------------------


def schedule(k, b_f, n_driver, b_driver, passes):
    """Yields (pass, driver range, forget range, last of its pass). The forget position never resets (2.1)."""
    forget = [(i, min(i + b_f, k)) for i in range(0, k, b_f)]
    driver = [(i, min(i + b_driver, n_driver)) for i in range(0, n_driver, b_driver)]
    s = 0
    for p in range(passes):
        for i, d in enumerate(driver):
            yield p, d, forget[s % len(forget)], i == len(driver) - 1
            s += 1


@dataclass
class SGD:
    """SGD with momentum and weight decay over every tensor, with the anchor gradient added first (5)."""

    params: list
    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lam: float = 0.0
    anchors: list | None = None
    reference: list | None = None
    velocity: list | None = None

    @torch.no_grad()
    def step(self, grads):
        first = self.velocity is None
        if first:
            self.velocity = [None] * len(self.params)
        for i, (p, g) in enumerate(zip(self.params, grads)):
            if self.anchors and self.lam:
                g = g.add(self.anchors[i].mul(self.lam).mul(p.sub(self.reference[i])))
            d = g.add(p.mul(self.weight_decay))
            self.velocity[i] = d if first else self.velocity[i].mul(self.momentum).add(d)
            p.copy_(p.sub(self.velocity[i].mul(self.lr)))


@torch.no_grad()
def evaluate(model, images, labels, batch=1024):
    """Hits of argmax and summed cross-entropy (float64) in eval mode."""
    eval_mode(model)
    hits, loss = 0, 0.0
    for i in range(0, len(images), batch):
        logits = model(images[i : i + batch])
        y = labels[i : i + batch]
        hits += (logits.argmax(1) == y).sum().item()
        loss += F.cross_entropy(logits, y, reduction="none").double().sum().item()
    return hits, loss


@dataclass
class Settings:
    method: str = "neggrad"  # neggrad | adv | imp | adv-imp | oracle
    goal: str = "misclassify"  # misclassify | relabel
    b_f: int = 32
    b_a: int = 256  # also the batch of the retained images of `oracle`
    lr: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lam: float = 1.0
    loss_weights: str = "sample"  # sample | sum
    bn: str = "train"
    bn_adv: str | None = None  # None: as bn
    passes: int = 1000
    check: str = "auto"  # auto | step | pass
    max_steps: int | None = None


@dataclass
class Outcome:
    outcome: str = "cap"  # reached | already | cap | diverged
    steps: int = 0
    passes: int = 0
    hits: list = field(default_factory=list)  # hits of y (misclassify) or y* (relabel) after each checked step
    loss: list = field(default_factory=list)  # loss minimised, without the penalty
    loss_driver: list = field(default_factory=list)  # mean cross-entropy of the driver slice (adv, oracle)
    loss_forget: list = field(default_factory=list)  # mean cross-entropy of the forget slice
    velocity: list | None = None


def unlearn(model, images, labels, settings, adversarial=None, anchor=None, driver=None, goal_labels=None, watch=None, keep=None):
    """Runs one method on D_f = (images, labels). adversarial: Attack; anchor: Ω̄; driver: (R, its labels).

    watch(step, optimiser) is called after every step. keep: a file that the state goes to every tenth step, and from
    which a run that was stopped goes on. Changes the model; leaves it in eval mode.
    """
    st = settings
    uses_adv, uses_imp = st.method in ("adv", "adv-imp"), st.method in ("imp", "adv-imp")
    wanted = labels if st.goal == "misclassify" else goal_labels
    sign = -1 if st.goal == "misclassify" else 1
    goal_hits = 0 if st.goal == "misclassify" else len(images)
    check = st.check if st.check != "auto" else ("pass" if st.method == "neggrad" else "step")
    out = Outcome()
    if evaluate(model, images, wanted)[0] == goal_hits:
        out.outcome = "already"
        return out

    if uses_adv:
        drive_x, drive_y = adversarial.x_adv, adversarial.target
    elif st.method == "oracle":
        drive_x, drive_y = driver
    else:
        drive_x = drive_y = None
    n_driver, b_driver = (len(images), st.b_f) if drive_x is None else (len(drive_x), st.b_a)

    params = trainable(model, st.bn)
    optimiser = SGD(params, st.lr, st.momentum, st.weight_decay)
    if uses_imp:
        optimiser.lam, optimiser.anchors = st.lam, anchor
        optimiser.reference = [p.detach().clone() for p in params]
    if keep and keep.exists():
        state = torch.load(keep)
        model.load_state_dict(state["model"])
        optimiser.velocity, out = state["velocity"], Outcome(**state["outcome"])

    done = out.steps
    for i, (p, (da, db), (fa, fb), last) in enumerate(schedule(len(images), st.b_f, n_driver, b_driver, st.passes)):
        if i < done:
            continue
        ce_driver = None
        if drive_x is not None:
            set_bn(model, st.bn_adv or st.bn)
            ce_driver = F.cross_entropy(model(drive_x[da:db]), drive_y[da:db])
        set_bn(model, st.bn)
        ce_forget = F.cross_entropy(model(images[fa:fb]), wanted[fa:fb])
        if ce_driver is None:
            loss = ce_forget if sign > 0 else -ce_forget
        else:
            n_a, n_f = db - da, fb - fa
            weighted = uses_adv and st.loss_weights == "sample"
            w_a, w_f = (n_a / (n_a + n_f), n_f / (n_a + n_f)) if weighted else (1, 1)
            a, f = ce_driver * w_a, ce_forget * w_f
            loss = a + f if sign > 0 else a - f
        grads = torch.autograd.grad(loss, params)
        optimiser.step(grads)

        out.steps, out.passes = out.steps + 1, p + 1
        out.loss.append(loss.item())
        out.loss_forget.append(ce_forget.item())
        if ce_driver is not None:
            out.loss_driver.append(ce_driver.item())
        if watch:
            watch(out.steps, optimiser)
        if not math.isfinite(out.loss[-1]) or not all(q.isfinite().all() for q in params):
            out.outcome = "diverged"
            break
        if check == "step" or last:
            out.hits.append(evaluate(model, images, wanted)[0])
            if out.hits[-1] == goal_hits:
                out.outcome = "reached"
                break
        if st.max_steps and out.steps >= st.max_steps:
            break
        if keep and out.steps % 10 == 0:
            temporary = keep.with_suffix(".tmp")
            torch.save({"model": model.state_dict(), "velocity": optimiser.velocity, "outcome": vars(out)}, temporary)
            temporary.replace(keep)
    out.velocity = optimiser.velocity
    eval_mode(model)
    return out


# --- random weight perturbation (2.4) ---------------------------------------------------------------------------------


def rawp(model, images, labels, seed, weights=None, max_steps=None):
    """θ⁰ + σ·rms(θ⁰)·ξ for the smallest σ of the ladder that misclassifies all; weights: Ω̂, or None. Goal misclassify."""
    out = Outcome()
    if evaluate(model, images, labels)[0] == 0:
        out.outcome = "already"
        return out
    params = trainable(model)
    start = [p.detach().clone() for p in params]
    directions = []
    for i, p in enumerate(start):
        xi = torch.randn(p.shape, generator=stream(seed, "rawp/noise", i))
        rms = p.double().square().mean().sqrt().float()
        directions.append(xi.mul(rms) if weights is None else xi.mul(rms).mul(weights[i]))
    for j in range(49):
        with torch.no_grad():
            for p, p0, d in zip(params, start, directions):
                p.copy_(p0.add(d.mul(1e-3 * 2 ** (j / 4))))
        out.steps, out.passes = j + 1, 1
        out.hits.append(evaluate(model, images, labels)[0])
        if out.hits[-1] == 0:
            out.outcome = "reached"
            break
        if out.steps == max_steps:
            break
    return out


# --- identity -------------------------------------------------------------------------------------------------------


def sha256(*tensors):
    """sha256 over the tensors' values, little endian, row-major, one after the other."""
    h = hashlib.sha256()
    for t in tensors:
        h.update(t.detach().contiguous().numpy().tobytes())
    return h.hexdigest()
