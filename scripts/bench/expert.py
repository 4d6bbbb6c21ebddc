"""Contestant P: what someone who knows PyTorch well would write for the same work.

All pairs in one batch, frozen parameters and gradients of the input alone in the attack, channels_last, pixels resident
as uint8, inference mode, foreach updates. Every row offers its plausible variants (torch.compile, folded weights, batch sizes); the
fastest on the machine at hand is the contestant.
"""

import time

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

import l2ul
import nets
from contestants import anchored, retained, spaced

LAST = torch.channels_last


def network(weights, name="l2ul-resnet18", device="cpu"):
    model = nets.new(name)
    model.net.load_state_dict(weights)
    return model.to(device, memory_format=LAST)


def frozen(weights, name="l2ul-resnet18", device="cpu"):
    return network(weights, name, device).eval().requires_grad_(False)


def frozen_of(data):
    return frozen(data.weights, data.work["network"], data.device)


def pixels(batch):
    return batch.float().div_(255).contiguous(memory_format=LAST)


def norms(v):
    """float32(sqrt(sum of float64 squares)) of each image, whatever the memory format."""
    return torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()


def pgd_step(delta, grad, x, alpha, eps):
    delta = delta + alpha * (grad * norms(grad).clamp_(min=1e-6).reciprocal_())
    delta = delta.add_(x).clamp_(0, 1).sub_(x)
    return delta.mul_((norms(delta).reciprocal_() * eps).clamp_(max=1))


def pgd_iteration(loss_of, delta, x, target, eps, alpha):
    delta = delta.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(x + delta, target), delta)
    return pgd_step(delta.detach(), grad, x, alpha, eps)


def pgd(loss_of, x, start, target, eps, alpha, iterations):
    delta = l2ul.pgd_start(x, start, eps)
    for _ in range(iterations):
        delta = pgd_iteration(loss_of, delta, x, target, eps, alpha)
    return (x + delta).clamp_(0, 1)


def attack_loss(model):
    return lambda x, target: -F.cross_entropy(model(x), target, reduction="sum")


def compiled(function):
    return torch.compile(function, dynamic=False)  # every shape gets kernels of its own


def captured(work):
    """Replays work, all of whose tensors stay where they are, as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def laid_out(data, prefix, names):
    """The named tensors, those of convolutions in channels_last like the network's."""
    return [data[prefix + n].contiguous(memory_format=LAST) if data[prefix + n].dim() == 4 else data[prefix + n] for n in names]


# --- rows: dictionaries of variants ---------------------------------------------------------------------------------


def c1(data, bf16):
    n, iterations = data.work["pairs"], data.work["iterations"]
    images = pixels(data["forget.pixels"])
    x = images.repeat(-(-n // len(images)), 1, 1, 1)[:n].contiguous(memory_format=LAST)
    target, start = data["pair.target"][:n], data["pair.start"][:n].contiguous(memory_format=LAST)

    def variant(loss_of):
        def run():
            x_adv = pgd(loss_of, x, start, target, 4.0, 0.1, iterations)
            return lambda: x_adv.double().square().sum().item()

        return run

    def graph(loss_of):
        """An iteration captured once, and replayed."""
        delta = l2ul.pgd_start(x, start, 4.0)
        iteration = captured(lambda: delta.copy_(pgd_iteration(loss_of, delta, x, target, 4.0, 0.1)))

        def run():
            delta.copy_(l2ul.pgd_start(x, start, 4.0))
            for _ in range(iterations):
                iteration()
            x_adv = (x + delta).clamp_(0, 1)
            return lambda: x_adv.double().square().sum().item()

        return run

    # On a GPU a graph is never slower than what it was captured from, and compiling takes most of the time of a row.
    if not bf16:
        variants = {"eager": lambda: variant(attack_loss(frozen_of(data)))}
        if data.device.type == "cuda":
            variants["graph"] = lambda: graph(attack_loss(frozen_of(data)))
            variants["compile-graph"] = lambda: graph(compiled(attack_loss(frozen_of(data))))
        else:
            variants["compile"] = lambda: variant(compiled(attack_loss(frozen_of(data))))
        return variants

    def autocast():
        model = frozen_of(data)

        def loss_of(x, target):
            with torch.autocast(data.device.type, torch.bfloat16):
                out = model(x)
            return -F.cross_entropy(out.float(), target, reduction="sum")

        return loss_of

    def half():
        model = frozen_of(data)
        body = model.net.bfloat16()

        def loss_of(x, target):
            out = body(((x - model.mean) / model.std).bfloat16())
            return -F.cross_entropy(out.float(), target, reduction="sum")

        return loss_of

    variants = {"autocast": lambda: variant(autocast()), "bf16": lambda: variant(half())}
    if data.device.type == "cuda":
        variants["bf16-graph"] = lambda: graph(half())
        variants["bf16-compile-graph"] = lambda: graph(compiled(half()))
    else:
        variants["bf16-compile"] = lambda: variant(compiled(half()))
    return variants


def c2(data):
    images, labels = data["test.pixels"][: data.work["tests"]], data["test.labels"][: data.work["tests"]]

    def variant(model, size):
        def run():
            total = torch.zeros((), dtype=torch.float64, device=data.device)
            hits = torch.zeros((), dtype=torch.int64, device=data.device)
            with torch.inference_mode():
                for i in range(0, len(images), size):
                    out, y = model(pixels(images[i : i + size])), labels[i : i + size]
                    hits += (out.argmax(1) == y).sum()
                    total += F.cross_entropy(out, y, reduction="sum")
            return lambda: total.item() / len(images)

        return run

    def folded():
        """BN folded into the convolutions, oneDNN's fused ones underneath (inductor's freezing)."""
        import torch._inductor.config as config

        config.freezing = True
        return compiled(frozen_of(data))

    def traced(size):
        example = pixels(images[:size])
        with torch.no_grad():
            return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(frozen_of(data), example)))

    variants = {}
    for size in (64, 256) if data.device.type == "cpu" else (data.work["eval_batch"],):
        variants[f"eager-{size}"] = lambda size=size: variant(frozen_of(data), size)
        variants[f"jit-{size}"] = lambda size=size: variant(traced(size), size)
        variants[f"freezing-{size}"] = lambda size=size: variant(folded(), size)
    return variants


@torch.no_grad()
def update(params, grads, momenta, anchors, reference, lr, momentum, weight_decay, lam):
    """Penalty, weight decay, momentum and step over all tensors at once."""
    drift = torch._foreach_sub(params, reference)
    torch._foreach_mul_(drift, anchors)
    grads = torch._foreach_add(grads, drift, alpha=lam)
    torch._foreach_add_(grads, params, alpha=weight_decay)
    torch._foreach_mul_(momenta, momentum)
    torch._foreach_add_(momenta, grads)
    torch._foreach_add_(params, momenta, alpha=-lr)


@torch.no_grad()
def update_each(params, grads, momenta, anchors, reference, lr, momentum, weight_decay, lam):
    """The same, a tensor at a time: temporaries stay in the cache."""
    for p, g, v, a, r in zip(params, grads, momenta, anchors, reference):
        v.mul_(momentum).add_(g).addcmul_(a, p - r, value=lam).add_(p, alpha=weight_decay)
        p.sub_(v, alpha=lr)


@torch.no_grad()
def update_fused(params, grads, momenta, anchors, reference, lr, momentum, weight_decay, lam):
    """Plain expressions for inductor to fuse into one pass a tensor."""
    for p, g, v, a, r in zip(params, grads, momenta, anchors, reference):
        v.copy_(v * momentum + (g + lam * a * (p - r) + weight_decay * p))
        p.copy_(p - lr * v)


def c3(data):
    xa, ya = data["adv.images"].contiguous(memory_format=LAST), data["adv.labels"]
    xf, yf = pixels(data["forget.pixels"]), data["forget.labels"]

    def variant(compile_forward, step):
        model = network(data.weights, data.work["network"], data.device)
        params = list(model.parameters())
        names = [n for n, _ in model.net.named_parameters()]
        state = {n: v.clone(memory_format=torch.preserve_format) for n, v in model.net.state_dict().items()}
        reference, anchors = laid_out(data, "moved.", names), laid_out(data, "anchor.", names)
        forward = compiled(model) if compile_forward else model

        def restore():
            model.net.load_state_dict(state)
            return [torch.zeros_like(p) for p in params]

        def run(momenta):
            model.train()
            n = len(xa) + len(xf)
            loss = F.cross_entropy(forward(xa), ya) * (len(xa) / n) - F.cross_entropy(forward(xf), yf) * (len(xf) / n)
            grads = torch.autograd.grad(loss, params)
            step(params, list(grads), momenta, anchors, reference, 0.001, 0.9, 1e-4, 1.0)
            model.eval()
            with torch.inference_mode():
                hits = (model(xf).argmax(1) == yf).sum().item()
            return lambda: loss.item()

        run.restore = restore
        return run

    return {
        "eager-foreach": lambda: variant(False, update),
        "eager-each": lambda: variant(False, update_each),
        "compile-each": lambda: variant(True, update_each),
    }


def c4(data):
    resident, order = data["test.pixels"], data["test.order"]
    last = resident.contiguous(memory_format=LAST)

    def convert(source, index):
        return source[index].float().div_(255)

    def variant(source, function):
        def run():
            for i in range(0, len(order), 256):
                batch = function(source, order[i : i + 256])
            return lambda: batch.double().sum().item()

        return run

    return {
        "planar": lambda: variant(resident, convert),
        "channels-last": lambda: variant(last, convert),
        "compile": lambda: variant(resident, compiled(lambda s, i: s[i].float() / 255)),
        "compile-channels-last": lambda: variant(last, compiled(lambda s, i: s[i].float() / 255)),
    }


def c5(files):
    """torchvision's own decoder and its resizing of tensors, whose pixels are a few levels beside Pillow's."""
    transform = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])

    def run():
        images = torch.stack([transform(decode_image(str(f), mode=ImageReadMode.RGB)) for f in files])
        return lambda: images.double().mean().item()

    return {"tensors": lambda: run}


def c6(data):
    names = [n for n in data.weights if "moved." + n in data]

    first, speed, grads, anchors, reference = (
        laid_out(data, prefix, names) for prefix in ("moved.", "momentum.", "grad.", "anchor.", "weights.")
    )
    params, momenta = [torch.empty_like(t) for t in first], [torch.empty_like(t) for t in speed]

    def variant(step):
        def restore():
            torch._foreach_copy_(params, first)
            torch._foreach_copy_(momenta, speed)

        def run(_):
            step(params, grads, momenta, anchors, reference, 0.001, 0.9, 1e-4, 1.0)
            return lambda: sum(p.double().sum().item() for p in params)

        run.restore = restore
        return run

    return {
        "foreach": lambda: variant(update),
        "each": lambda: variant(update_each),
        "compile": lambda: variant(compiled(update_fused)),
    }


def anchors(omega):
    """As l2ul.anchors, without waiting for each tensor."""
    out = []
    for o in omega:
        low, high = torch.aminmax(o)
        out.append(torch.where(high > low, 1 - (o - low) / (high - low), 1))
    return out


def mas_batch(data):
    images, k = data["forget.pixels"], data.work["images"]
    size = min(32, k)
    assert k % size == 0, f"{k} images are no slices of {size}"

    def variant(change, repeat):
        model = network(data.weights, data.work["network"], data.device)
        l2ul.set_bn(model, "frozen-stats")  # as in training, but the running statistics stay
        params, forward = list(model.parameters()), change(model)
        omega, total = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
        x = pixels(images[:size])

        def part():
            grads = torch.autograd.grad(forward(x).norm(dim=1).mean(), params)
            torch._foreach_add_(total, grads)
            torch._foreach_add_(omega, torch._foreach_abs(total), alpha=size / ((k // 32 + 1) * 32))

        add = repeat(part)

        def run():
            torch._foreach_zero_(omega)
            torch._foreach_zero_(total)
            for i in range(0, k, size):
                x.copy_(pixels(images[i : i + size]))
                add()
            anchor = anchors(omega)
            return lambda: anchored(anchor)

        return run

    same = lambda f: f  # noqa: E731
    variants = {"eager": lambda: variant(same, same)}
    if data.device.type == "cuda":
        variants["graph"] = lambda: variant(same, captured)
        variants["compile-graph"] = lambda: variant(compiled, captured)
    return variants


def mas(data):
    images, k = data["forget.pixels"], data.work["images"]

    def vectorised(size):
        """Gradients of size images at once, each its own."""
        model = frozen_of(data)
        params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        omega = [torch.zeros_like(p) for p in params.values()]

        def total(params, image):
            return torch.func.functional_call(model, (params, buffers), (image[None],)).square().sum()

        gradients = torch.func.vmap(torch.func.grad(total), (None, 0))

        def run():
            torch._foreach_zero_(omega)
            for i in range(0, k, size):
                for o, g in zip(omega, gradients(params, pixels(images[i : i + size])).values()):
                    o.add_(g.abs_().sum(0), alpha=1 / k)
            anchor = anchors(omega)
            return lambda: anchored(anchor)

        return run

    def one_by_one(repeat):
        model = network(data.weights, data.work["network"], data.device).eval()
        params = list(model.parameters())
        omega, x = [torch.zeros_like(p) for p in params], pixels(images[:1])

        def part():
            grads = torch.autograd.grad(model(x).square().sum(), params)
            torch._foreach_add_(omega, torch._foreach_abs(grads), alpha=1 / k)

        add = repeat(part)

        def run():
            torch._foreach_zero_(omega)
            for i in range(k):
                x.copy_(pixels(images[i : i + 1]))
                add()
            anchor = anchors(omega)
            return lambda: anchored(anchor)

        return run

    if data.device.type == "cpu":
        return {"vmap-4": lambda: vectorised(4), "each": lambda: one_by_one(lambda f: f)}
    return {"vmap-16": lambda: vectorised(16), "vmap-64": lambda: vectorised(64), "graph": lambda: one_by_one(captured)}


def c7(job, weights, train, tests):
    """The whole job; the process is timed from outside, so compiling would not pay."""
    import numpy as np
    from PIL import Image

    def load(rows):
        if isinstance(rows, list):
            images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in rows])
            rows = torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([label for _, label in rows])
        return [t.to(job["device"]) for t in rows]

    (x, y), (xt, yt), size = load(train), load(tests), job["eval_batch"]
    model = network(weights, device=job["device"])
    began = time.perf_counter()
    kept, tested = spaced(job, retained(job, len(y))), spaced(job, range(len(yt)))
    xf, yf = pixels(x[job["forget"]]), y[job["forget"]]
    splits = [(x[kept], y[kept]), (x[job["forget"]], yf), (xt[tested], yt[tested])]

    def measure():
        model.eval()
        out = []
        with torch.inference_mode():
            for images, labels in splits:
                logits = torch.cat([model(pixels(images[i : i + size])) for i in range(0, len(images), size)])
                out.append(((logits.argmax(1) == labels).sum().item(), F.cross_entropy(logits, labels).item()))
        return out

    measure()
    pairs = l2ul.draw_pairs(yf.cpu(), (3, 32, 32), 10, job["num_adv"], job["seed"], job["forget_batch"])
    target = pairs.target.to(job["device"])
    model.requires_grad_(False)
    source = xf[pairs.source.to(job["device"])].contiguous(memory_format=LAST)
    start = pairs.start.to(job["device"]).contiguous(memory_format=LAST)
    x_adv = pgd(attack_loss(model), source, start, target, job["eps"], job["alpha"], job["iterations"])
    model.requires_grad_(True)

    params = list(model.parameters())
    anchor = anchors(l2ul.importance_batch(model, xf, job["forget_batch"]))
    reference = [p.detach().clone(memory_format=torch.preserve_format) for p in params]
    momenta = [torch.zeros_like(p) for p in params]
    step = update_each if job["device"] == "cpu" else update
    batches = [slice(i, i + job["adv_batch"]) for i in range(0, len(x_adv), job["adv_batch"])]
    steps = 0
    while steps < job["max_steps"]:
        xa, ya = x_adv[batches[steps % len(batches)]], target[batches[steps % len(batches)]]
        l2ul.set_bn(model, job["bn"])
        n = len(xa) + len(xf)
        loss = F.cross_entropy(model(xa), ya) * (len(xa) / n) - F.cross_entropy(model(xf), yf) * (len(xf) / n)
        grads = torch.autograd.grad(loss, params)
        step(params, grads, momenta, anchor, reference, job["lr"], 0.9, 1e-4, job["reg_lambda"])
        l2ul.eval_mode(model)
        steps += 1
        with torch.inference_mode():
            if not (model(xf).argmax(1) == yf).any():
                break
    after = measure()
    return {"steps": steps, "check": after[2][1], "hits": [a[0] for a in after], "job": time.perf_counter() - began}


def c8(data):
    x = pixels(data["forget.pixels"][:12])
    target, start = data["pair.target"][:12], data["pair.start"][:12].contiguous(memory_format=LAST)

    def variant():
        model = frozen(data.weights)

        def run():
            # The reference's own step: this row compares bits, not speed.
            delta = l2ul.pgd(model, x, start, target, 4.0, 0.1, 100)
            run.result = x.add(delta).clamp(0, 1)
            return lambda: run.result.double().square().sum().item()

        return run

    return {"eager": variant}
