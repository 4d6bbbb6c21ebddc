"""Contestant O: the method as its authors published it (commit b8b335b), in our own words.

What makes it slow is theirs and is kept: loaders that convert image by image without workers, attack calls of one
target and one forget batch, gradients for all parameters during the attack, mean and std repeated to the size of the
input, the penalty through autograd, a test of the whole forget set with one `.item()` a batch after every step. Nothing
is added to slow it down. Norms are float32(sqrt(sum of float64 squares)), as in every contestant.
"""

import time

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize, ToTensor

import l2ul
import nets
from contestants import anchored, retained, spaced


class NormalizeLayer(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("means", torch.tensor(mean), persistent=False)
        self.register_buffer("sds", torch.tensor(std), persistent=False)

    def forward(self, x):
        n, c, h, w = x.shape
        means = self.means.repeat((n, h, w, 1)).permute(0, 3, 1, 2)
        sds = self.sds.repeat((n, h, w, 1)).permute(0, 3, 1, 2)
        return (x - means) / sds


class PixelSet(Dataset):
    """What torchvision's CIFAR10 with ToTensor does: an image at a time through PIL."""

    def __init__(self, pixels, labels):
        self.data, self.targets = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = ToTensor()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.data[i])), self.targets[i]


class FileSet(Dataset):
    """torchvision's ImageFolder with ToTensor."""

    def __init__(self, rows):
        self.rows, self.targets, self.transform = rows, [label for _, label in rows], ToTensor()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        path, label = self.rows[i]
        with open(path, "rb") as f:
            return self.transform(Image.open(f).convert("RGB")), label


def network(weights, name="l2ul-resnet18", device="cpu"):
    make, classes, _, mean, std = nets.NETWORKS[name]
    net = make(classes)
    net.load_state_dict(weights)
    return nn.Sequential(NormalizeLayer(mean, std), net).to(device)


def network_of(data):
    return network(data.weights, data.work["network"], data.device)


def perturb(model, x, target, start, eps, alpha, iterations):
    """advertorch's L2PGDAttack: one call, all parameters keep their gradients."""
    delta = nn.Parameter(l2ul.pgd_start(x, start, eps))
    for _ in range(iterations):
        loss = -F.cross_entropy(model(x + delta), target, reduction="sum")
        loss.backward()
        delta.data = l2ul.pgd_step(delta.data, delta.grad.data, x, alpha, eps)
        delta.grad.data.zero_()
    return (x + delta).clamp(0, 1).detach()


def test(model, loader):
    model.eval()
    hits = total = 0
    loss = 0.0
    device = next(model.parameters()).device
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            out = model(x)
            hits += (out.argmax(1) == y).sum().item()
            loss += F.cross_entropy(out, y, reduction="sum").item()
            total += len(y)
    return hits, loss / total


def importance(model, loader, b_f):
    """The published MAS: train mode, gradients of the mean norm of a batch, never cleared."""
    omega = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    device = next(model.parameters()).device
    model.train()
    model.zero_grad()
    for x, _ in loader:
        model(x.to(device)).norm(dim=1).mean().backward()
        for n, p in model.named_parameters():
            omega[n] += p.grad.abs() * len(x)
    for n, o in omega.items():
        o /= (len(loader.dataset) // b_f + 1) * b_f
        omega[n] = 1 - (o - o.min()) / (o.max() - o.min())
    return omega


def penalty(model, before, anchor):
    loss = 0
    for n, p in model.named_parameters():
        loss += (anchor[n] * (p - before[n]).pow(2)).sum() / 2
    return loss


def step(model, optimizer, adversarial, forget, before, anchor, lam):
    (xa, ya), (xf, yf) = adversarial, forget
    optimizer.zero_grad()
    n = len(xa) + len(xf)
    loss = F.cross_entropy(model(xa), ya) * (len(xa) / n)
    loss = loss - F.cross_entropy(model(xf), yf) * (len(xf) / n)
    ce = loss.item()
    loss = loss + lam * penalty(model, before, anchor)
    loss.backward()
    optimizer.step()
    return ce


def sgd(model, lr):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)


# --- rows -----------------------------------------------------------------------------------------------------------


def c1(data, bf16):
    if bf16:
        raise SystemExit("O has no bf16 form")
    model, device = network_of(data).eval(), data.device
    loader = DataLoader(PixelSet(data["forget.pixels"], data["forget.labels"]), batch_size=32)

    def run():
        images, at = [], 0
        while at < data.work["pairs"]:
            for x, _ in loader:
                pairs = slice(at, at + len(x))
                target, start = data["pair.target"][pairs].to(device), data["pair.start"][pairs].to(device)
                x_adv = perturb(model, x.to(device), target, start, 4.0, 0.1, data.work["iterations"])
                images.append(x_adv.cpu().numpy())
                at += len(x)
                if at >= data.work["pairs"]:
                    break
        return lambda: sum(torch.from_numpy(x).double().square().sum().item() for x in images)

    return run


def c2(data):
    model, n = network_of(data), data.work["tests"]
    loader = DataLoader(PixelSet(data["test.pixels"][:n], data["test.labels"][:n]), batch_size=1024)

    def run():
        hits, loss = test(model, loader)
        return lambda: loss

    return run


def c3(data):
    model, device = network_of(data), data.device
    state = {n: v.clone() for n, v in model.state_dict().items()}
    names = [n.removeprefix("1.") for n, _ in model.named_parameters()]
    before = {"1." + n: data["moved." + n].to(device) for n in names}
    anchor = {"1." + n: data["anchor." + n].to(device) for n in names}
    adversarial = DataLoader(TensorDataset(data["adv.images"], data["adv.labels"]), batch_size=256)
    forget = DataLoader(PixelSet(data["forget.pixels"], data["forget.labels"]), batch_size=32)

    def restore():
        model.load_state_dict(state)
        return sgd(model, 0.001)

    def run(optimizer):
        model.train()
        batches = [[t.to(device) for t in next(iter(loader))] for loader in (adversarial, forget)]
        ce = step(model, optimizer, *batches, before, anchor, 1.0)
        test(model, forget)
        return lambda: ce

    run.restore = restore
    return run


def c4(data):
    loader = DataLoader(PixelSet(data["test.pixels"], data["test.labels"]), batch_size=256, sampler=data["test.order"].tolist())

    def run():
        for x, _ in loader:
            pass
        return lambda: x.double().sum().item()

    return run


def c5(files):
    """Images as torchvision's ImageFolder and the transforms of ImageNet scripts make them, through Pillow."""
    transform = Compose([Resize(256), CenterCrop(224), PILToTensor()])

    def run():
        images = torch.stack([transform(Image.open(f).convert("RGB")) for f in files])
        return lambda: images.double().mean().item()

    return run


def c6(data):
    model, device = network_of(data), data.device
    names = [n.removeprefix("1.") for n, _ in model.named_parameters()]
    before = {"1." + n: data.weights[n].to(device) for n in names}
    anchor = {"1." + n: data["anchor." + n].to(device) for n in names}
    optimizer = sgd(model, 0.001)
    params = list(model.parameters())

    def restore():
        with torch.no_grad():
            for n, p in zip(names, params):
                p.copy_(data["moved." + n])
                p.grad = data["grad." + n].to(device, copy=True)
                optimizer.state[p]["momentum_buffer"] = data["momentum." + n].to(device, copy=True)

    def run(_):
        (1.0 * penalty(model, before, anchor)).backward()
        optimizer.step()
        return lambda: sum(p.detach().double().sum().item() for p in params)

    run.restore = restore
    return run


def mas_batch(data):
    model = network_of(data)
    forget = DataLoader(PixelSet(data["forget.pixels"], data["forget.labels"]), batch_size=32)

    def run():
        anchor = importance(model, forget, 32)
        return lambda: anchored(anchor.values())

    return run


def c7(job, weights, train, tests):
    """The whole job; the process is timed from outside."""
    train, tests = (FileSet(rows) if isinstance(rows, list) else PixelSet(*rows) for rows in (train, tests))
    model, device = network(weights, device=job["device"]), job["device"]
    began = time.perf_counter()
    forget = DataLoader(Subset(train, job["forget"]), batch_size=job["forget_batch"])
    retain = DataLoader(Subset(train, spaced(job, retained(job, len(train)))), batch_size=1024)
    rest = DataLoader(Subset(tests, spaced(job, range(len(tests)))), batch_size=1024)
    for loader in (retain, forget, rest):
        test(model, loader)

    labels = torch.tensor([train.targets[i] for i in job["forget"]])
    pairs = l2ul.draw_pairs(labels, (3, 32, 32), 10, job["num_adv"], job["seed"], job["forget_batch"])
    images, at = [], 0
    for _ in range(job["num_adv"]):
        for x, _ in forget:
            part = slice(at, at + len(x))
            target, start = pairs.target[part].to(device), pairs.start[part].to(device)
            x_adv = perturb(model, x.to(device), target, start, job["eps"], job["alpha"], job["iterations"])
            images += list(x_adv.cpu().numpy())
            at += len(x)
    adversarial = DataLoader(
        TensorDataset(torch.stack([torch.from_numpy(x) for x in images]), pairs.target), batch_size=job["adv_batch"]
    )
    anchor = importance(network(weights, device=device), forget, job["forget_batch"])

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer, steps = sgd(model, job["lr"]), 0
    slices = iter(forget)
    while steps < job["max_steps"]:
        for batch in adversarial:
            try:
                own = next(slices)
            except StopIteration:
                slices = iter(forget)
                own = next(slices)
            l2ul.set_bn(model, job["bn"])
            batch, own = ([t.to(device) for t in part] for part in (batch, own))
            step(model, optimizer, batch, own, before, anchor, job["reg_lambda"])
            l2ul.eval_mode(model)
            steps += 1
            if test(model, forget)[0] == 0 or steps == job["max_steps"]:
                break
        else:
            continue
        break
    after = [test(model, loader) for loader in (retain, forget, rest)]
    return {"steps": steps, "check": after[2][1], "hits": [a[0] for a in after], "job": time.perf_counter() - began}


def c8(data):
    model = network_of(data).eval()
    x = data["forget.pixels"][:12].float().div(255)

    def run():
        images = [
            perturb(model, x[i : i + 1], data["pair.target"][i : i + 1], data["pair.start"][i : i + 1], 4.0, 0.1, 100)
            for i in range(12)
        ]
        run.result = torch.cat(images)
        return lambda: run.result.double().square().sum().item()

    return run
