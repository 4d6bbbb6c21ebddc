"""Writes analyses.safetensors, what the analyses of unlearn/analysis come to by NumPy and PyTorch.

    python analyses.py [--out DIR]

Before and after are resnet20 from seeds 0 and 1 (nets.py); images are the first draws of generators.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import make
import nets

HERE = Path(__file__).resolve().parent


def rand(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def cka(x, y):
    """Of the singular values of X, Y and of U'V, their bases: neither the form of features nor that of Gram matrices."""
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, y))
    (u, s, _), (v, r, _) = (np.linalg.svd(m - m.mean(0), full_matrices=False) for m in (x, y))
    return np.sum((s[:, None] * (u.T @ v) * r) ** 2) / np.sqrt(np.sum(s**4) * np.sum(r**4))


def layers(net, x):
    """What the stem, the blocks, the pooling and the last layer make, by hooks."""
    seen, blocks = {}, {f"layer{i}.{b}" for i in (1, 2, 3) for b in (0, 1, 2)}
    hooks = []
    for name, module in net.named_modules():
        name = name.removeprefix("net.")
        if name in blocks:
            hooks.append(module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o.clone().numpy())))
        if name == "layer1.0":
            hooks.append(module.register_forward_pre_hook(lambda m, i: seen.__setitem__("stem", i[0].clone().numpy())))
        if name == "linear":
            hooks.append(module.register_forward_pre_hook(lambda m, i: seen.__setitem__("features", i[0].clone().numpy())))
    with torch.no_grad():
        seen["logits"] = net(x).numpy()
    for h in hooks:
        h.remove()
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    t = {}

    pair = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pair.append(nets.new("resnet20").eval())
    before, after = pair

    # Similarity: random matrices, narrower and wider than they are high, and layers of the networks.
    for name, p, q in (("narrow", 5, 4), ("wide", 30, 20)):
        x, y = rand(10, 12, p), rand(11, 12, q)
        t[f"cka.{name}.x"], t[f"cka.{name}.y"] = x, y
        t[f"cka.{name}"] = torch.tensor([cka(x, y)], dtype=torch.float64)
    images = rand(1, 24, 3, 32, 32)
    a, b = layers(before, images), layers(after, images)
    order = ["stem"] + [f"layer{i}.{j}" for i in (1, 2, 3) for j in (0, 1, 2)] + ["features", "logits"]
    t["layers.cka"] = torch.tensor([cka(a[n], b[n]) for n in order], dtype=torch.float64)

    # A plane by QR, whose signs are those of Gram and Schmidt once the diagonal is positive.
    points = rand(12, 3, 40).double().numpy()
    q, r = np.linalg.qr(np.stack([points[1] - points[0], points[2] - points[0]], 1))
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    t["plane.points"] = torch.from_numpy(points)
    t["plane.axes"] = torch.from_numpy(np.ascontiguousarray(q.T))
    t["plane.places"] = torch.tensor([r[0, 0], r[0, 1], r[1, 1]], dtype=torch.float64)

    # What a network says on a plane through three images of one colour each.
    flat = (torch.eye(3).double() * 0.8 + 0.1).repeat_interleave(1024, 1).numpy()
    q, r = np.linalg.qr(np.stack([flat[1] - flat[0], flat[2] - flat[0]], 1))
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    half, n = 1.25 * max(r[0, 0], abs(r[0, 1]), r[1, 1]), 7
    at = np.linspace(-half, half, n)
    grid = np.stack([flat[0] + x * q[:, 0] + y * q[:, 1] for y in at for x in at])
    with torch.no_grad():
        top = before(torch.from_numpy(grid).float().reshape(-1, 3, 32, 32)).double().topk(2)
    t["slice.class"] = top.indices[:, 0].reshape(n, n)
    t["slice.margin"] = (top.values[:, 0] - top.values[:, 1]).reshape(n, n)
    t["slice.half"] = torch.tensor([half], dtype=torch.float64)

    # Principal components.
    rows = rand(13, 14, 6).double().numpy() * np.arange(1, 7)
    u, s, vt = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    signs = np.sign(vt[range(6), np.abs(vt).argmax(1)])
    t["pca.rows"] = torch.from_numpy(rows)
    t["pca.places"] = torch.from_numpy(np.ascontiguousarray((u * s * signs)[:, :2]))
    t["pca.explained"] = torch.from_numpy(s[:2] ** 2 / (s**2).sum())

    # Change of weights, and where: of a tensor, the norm, the relative one, the root mean square; below, at and above the median.
    first, delta, anchor = rand(14, 31) - 0.5, rand(15, 31) - 0.5, (rand(16, 31) * 8).floor() / 8
    t["weights.before"], t["weights.delta"], t["weights.anchor"] = first, delta, anchor
    w, d, o = (v.double().numpy() for v in (first, delta, anchor))
    middle = np.sort(o)[(len(o) - 1) // 2]
    parts = [o < middle, o == middle, o > middle]
    t["weights.change"] = torch.tensor(
        [np.linalg.norm(d), np.linalg.norm(d) / np.linalg.norm(w), np.sqrt((d**2).mean()), o.mean(), middle]
        + [(d[m] ** 2).sum() / (d**2).sum() for m in parts]
        + [m.mean() for m in parts],
        dtype=torch.float64,
    )
    make.save(out / "analyses.safetensors", t, {"torch": torch.__version__, "numpy": np.__version__, "layers": " ".join(order)})


if __name__ == "__main__":
    main()
