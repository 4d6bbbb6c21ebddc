"""What gpu-check.sh runs: python gpu_check.py ROOT RESULT.json

ROOT is an unpacked bundle whose lib/libtorch leads to this Python's packages. Tests first, then rows: the same work done by
the project's operators (U) and by PyTorch as someone who knows it well would write it (P: the best of the variants named),
alternating. Ratios are P's median seconds over U's; a rate is bytes that must move at least, over U's median. Without a GPU
the rows run on the CPU in small, which tests this script and measures nothing.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT, RESULT = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
REPEATS = 20 if CUDA else 2


def command(argv, cwd, seconds):
    """Runs a program; returns its exit code and what it printed."""
    try:
        done = subprocess.run([str(a) for a in argv], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b"").decode() + f"\nstopped after {seconds} s"


def tests():
    """The test programs; each package's table runs on the GPU where it says so."""
    for program in sorted((ROOT / "bin").glob("*.test")):
        package = ROOT / program.stem.replace("-", "/")
        code, out = command([program, "-test.v", "-test.timeout=120s"], package, 130)
        count = {k: len(re.findall(rf"^\s*--- {k}:", out, re.M)) for k in ("PASS", "FAIL", "SKIP")}
        yield package.relative_to(ROOT).as_posix(), {"exit": code, **count} | ({} if code == 0 else {"output": out[-4000:]})
    kernels = ROOT / "unlearn/kernels"
    libraries = [ROOT / "lib" / name for name in ("libl2ul.so", "libl2ul_cuda.so")]
    code, out = command([sys.executable, "ops_test.py", *libraries], kernels, 120)
    yield "unlearn/kernels/ops_test.py", {"exit": code} | ({} if code == 0 else {"output": out[-4000:]})


def program():
    """The program itself: what doctor says, and a network that is trained and then forgets, on the device."""
    unlearn = ROOT / "bin/unlearn"
    yield "doctor", command([unlearn, "doctor"], ROOT, 60)
    if not CUDA:
        return  # takes minutes there, and the project's own tests do it
    with tempfile.TemporaryDirectory() as out:
        common = ["-m", "resnet20", "--dataset", "shapes", "--device", DEVICE, "--progress", "none", "-q"]
        yield "train", command([unlearn, "train", *common, "--epochs", 2, "-o", f"{out}/train"], ROOT, 120)
        weights = ["--weights", f"{out}/train/model.safetensors"]
        yield "forget", command([unlearn, "forget", *common, *weights, "-k", 4, "--iters", 10, "-o", f"{out}/forget"], ROOT, 120)


def seconds(run):
    if CUDA:
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def row(moved, ours, variants):
    """Compares ours() with variants, a dictionary of functions; moved is the least number of bytes."""
    failed, best = {}, {}
    for name, run in variants.items():
        try:
            best[name] = min(seconds(run) for _ in range(5))
        except Exception as e:  # a variant that does not work here is no contestant
            failed[name] = str(e).splitlines()[0]
    fastest = min(best, key=best.get)
    for _ in range(3):
        seconds(ours)
    u, p = [], []
    for _ in range(REPEATS):
        u.append(seconds(ours))
        p.append(seconds(variants[fastest]))
    spread = {"U": [min(u), statistics.median(u), max(u)], "P": [min(p), statistics.median(p), max(p)]}
    return {
        "seconds": spread, "P": fastest, "U/P": spread["P"][1] / spread["U"][1], "GB/s": moved / spread["U"][1] / 1e9, "failed": failed,
    }  # fmt: skip


# Parameters of torchvision's ResNet-50, counted from its layers.
def resnet50():
    shapes, width = [(64, 3, 7, 7), (64,), (64,)], 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for i in range(blocks):
            for o, n, k in ((planes, width, 1), (planes, planes, 3), (4 * planes, planes, 1)):
                shapes += [(o, n, k, k), (o,), (o,)]
            if i == 0:
                shapes += [(4 * planes, width, 1, 1), (4 * planes,), (4 * planes,)]
            width = 4 * planes
    return [*shapes, (1000, width), (1000,)]


def update():
    """G9: penalty, weight decay and momentum over a network's parameters."""
    shapes = resnet50() if CUDA else [(64, 64, 3, 3), (64,)]
    p, g, v, a, r = ([torch.randn(s, device=DEVICE) for s in shapes] for _ in range(5))

    @torch.no_grad()
    def foreach():
        drift = torch._foreach_sub(p, r)
        torch._foreach_mul_(drift, a)
        grads = torch._foreach_add(g, drift, alpha=1.0)
        torch._foreach_add_(grads, p, alpha=1e-4)
        torch._foreach_mul_(v, 0.9)
        torch._foreach_add_(v, grads)
        torch._foreach_add_(p, v, alpha=-1e-6)

    @torch.no_grad()
    def each(p, g, v, a, r):
        for p_, g_, v_, a_, r_ in zip(p, g, v, a, r):
            v_.copy_(v_ * 0.9 + (g_ + a_ * (p_ - r_) + 1e-4 * p_))
            p_.copy_(p_ - 1e-6 * v_)

    compiled = torch.compile(each, dynamic=False)
    ours = lambda: torch.ops.l2ul.anchored_sgd_(p, g, v, a, r, 1e-6, 0.9, 1e-4, 1.0, False)  # noqa: E731
    return row(7 * 4 * sum(t.numel() for t in p), ours, {"foreach": foreach, "compile": lambda: compiled(p, g, v, a, r)})


def attack_step(images, size):
    """The step of the L2 attack alone, without the network."""
    x, g = torch.rand(images, 3, size, size, device=DEVICE), torch.randn(images, 3, size, size, device=DEVICE)
    d, seen = torch.randn_like(x) * 0.01, torch.empty_like(x)
    norm = lambda t: torch.linalg.vector_norm(t, dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()  # noqa: E731

    def step(d, g, x):  # and the images that the network sees next
        d = d + 0.1 * (g * norm(g).clamp(min=1e-6).reciprocal())
        d = (d + x).clamp(0, 1) - x
        d = d * (norm(d).reciprocal() * 4.0).clamp(max=1)
        return d, x + d

    compiled = torch.compile(step, dynamic=False)
    ours = lambda: torch.ops.l2ul.pgd_l2_step_(d, seen, g, x, 0.1, 4.0)  # noqa: E731
    return row(5 * 4 * x.numel(), ours, {"eager": lambda: step(d, g, x), "compile": lambda: compiled(d, g, x)})


def gather():
    """A batch from resident bytes."""
    pixels = torch.randint(0, 256, (50000 if CUDA else 500, 3, 32, 32), dtype=torch.uint8, device=DEVICE)
    index = torch.randperm(len(pixels), device=DEVICE)[: len(pixels) // 4]
    table = (torch.arange(256, device=DEVICE).float() / 255).expand(3, 256).contiguous()
    convert = lambda: pixels[index].float().div_(255)  # noqa: E731
    compiled = torch.compile(lambda p, i: p[i].float() / 255, dynamic=False)
    ours = lambda: torch.ops.l2ul.gather_lut(pixels, index, table)  # noqa: E731
    return row(5 * index.numel() * 3 * 32 * 32, ours, {"eager": convert, "compile": lambda: compiled(pixels, index)})


def rows():
    torch.ops.load_library(str(ROOT / "lib/libl2ul.so"))
    torch.ops.load_library(str(ROOT / "lib/libl2ul_cuda.so"))
    yield "G9 update, ResNet-50", update()
    yield "attack step, 3 x 32 x 32", attack_step(5120 if CUDA else 8, 32)
    yield "attack step, 3 x 224 x 224", attack_step(512 if CUDA else 2, 224)
    yield "gather, 3 x 32 x 32", gather()


def main():
    result = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if CUDA else "no GPU"}
    result["tests"] = dict(tests())
    result["program"] = {name: {"exit": code, "output": out[-2000:]} for name, (code, out) in program()}
    result["rows" if CUDA else "rows on the CPU, no measurement"] = dict(rows())
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    bad = [n for part in ("tests", "program") for n, r in result[part].items() if r["exit"] not in (0, 3)]
    print(f"{RESULT}: {result['device']}, " + (f"failed: {', '.join(bad)}" if bad else "all passed"))
    sys.exit(1 if bad or not CUDA else 0)


main()
