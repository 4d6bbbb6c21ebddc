"""What gpu-check.sh runs: python gpu_check.py ROOT RESULT.json [--rows G1,G6,…] [--device cuda|cpu] [--tiny] [--list]

ROOT is an unpacked bundle whose lib/libtorch leads to this Python's packages. Tests first, then rows. The rows G… are those of
`make bench` in other sizes, with the same contestants, each a process: the algorithm as published (O), what an expert in
PyTorch would write, its fastest variant (P), and the engine (U). The others compare single operators with P in this
process. Ratios are of medians of alternating runs; a rate is what must be moved or computed at least, over U's median.
With --device cpu --tiny the rows run in small, without compiling, and no tests: that tests this script and measures nothing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", type=Path)
parser.add_argument("result", type=Path)
parser.add_argument("--rows", help="only these, separated by commas; none of the tests")
parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--list", action="store_true", help="print the rows and end")
parser.add_argument("--ours", type=Path, help="U of the rows G…; bin/ours of the bundle")
ARGS = parser.parse_args()
ROOT, RESULT, DEVICE = ARGS.root.resolve(), ARGS.result, ARGS.device
CUDA = DEVICE == "cuda"
REPEATS = 2 if ARGS.tiny else 20

# Of each row of contestants: the row of `make bench` it is, what it does, the work, the GFLOP of that (forward and
# backward; none where bytes count), and P's variant that needs no compiler.
CONTESTS = {
    "G1": ("C1", "PGD, ResNet-18, 16 images x 20 targets x 100 iterations", {"prepared": 320, "pairs": 320, "iterations": 100}, 320 * 100 * 0.56, "eager"),
    "G2": ("C1", "PGD, ResNet-18, 256 images x 2 targets x 40 iterations", {"images": 256, "prepared": 512, "pairs": 512, "iterations": 40}, 512 * 40 * 0.56, "eager"),
    "G3": (
        "C1", "PGD, ResNet-50 of CIFAR-100, 16 images x 12 targets x 20 iterations",
        {"network": "cifar-resnet50", "prepared": 192, "pairs": 192, "iterations": 20}, 192 * 20 * 5.19, "eager",
    ),
    "G1-bf16": ("C1-bf16", "G1 with the network in bfloat16", {"prepared": 320, "pairs": 320, "iterations": 100}, 320 * 100 * 0.56, "bf16"),
    "G3-bf16": (
        "C1-bf16", "G3 with the network in bfloat16",
        {"network": "cifar-resnet50", "prepared": 192, "pairs": 192, "iterations": 20}, 192 * 20 * 5.19, "bf16",
    ),
    "G6": ("C2", "scores of 50,000 images, ResNet-18", {"tests": 50000, "pixels": 50000, "eval_batch": 5000}, 50000 * 0.28, "eager-64"),
    "G8": ("C3", "unlearning step, ResNet-50 of CIFAR-100, 128 + 16 images", {"network": "cifar-resnet50", "adversarial": 128}, 144 * 7.79 + 16 * 2.6, "eager-foreach"),
    "G9": ("C6", "penalty, weight decay and momentum, ResNet-50", {"network": "resnet50"}, None, "foreach"),
}  # fmt: skip
TINY = {"images": 2, "prepared": 4, "pairs": 4, "iterations": 2, "tests": 8, "pixels": 8, "eval_batch": 4, "adversarial": 4}
# The repeats of a row end after ROW seconds, and no row begins after ALL, so that the whole stays below ten minutes.
ROW, ALL = 40, 480
BEGAN = time.monotonic()


def contest(name):
    """O, P and U take turns."""
    sys.path[:0] = [str(ROOT / "scripts/bench"), str(ROOT / "scripts/golden")]
    import run as bench

    row, what, work, gflop, plain = CONTESTS[name]
    with tempfile.TemporaryDirectory() as folder:
        work = work | (TINY if ARGS.tiny else {}) | {"device": DEVICE}
        subprocess.run([sys.executable, str(ROOT / "scripts/bench/prepare.py"), folder, json.dumps(work)], check=True)
        a = argparse.Namespace(
            inputs=folder, ours=ARGS.ours or ROOT / "bin/ours", threads=torch.get_num_threads(), repeats=1 if ARGS.tiny else 5,
            seconds=ROW, variant=plain if ARGS.tiny else None,
        )  # fmt: skip
        answers = bench.alternate(row, a)
    if isinstance(answers, str):
        return {"what": what, "left out": answers}
    median = {n: statistics.median(x["seconds"] for x in v) for n, v in answers.items()}
    check = {n: v[-1]["check"] for n, v in answers.items()}
    apart = max(abs(c - check["P"]) / abs(check["P"]) for c in check.values())
    disagree = {"failed": f"the contestants' checks differ by {apart:.2g}"} if not apart < (1e-2 if "bf16" in row else 1e-3) else {}
    return {
        "what": what, "work": work, "seconds": {n: [x["seconds"] for x in v] for n, v in answers.items()}, "P": answers["P"][-1]["variant"],
        "U/O": median["O"] / median["U"] if "O" in median else None, "U/P": median["P"] / median["U"], "TFLOP/s": None if ARGS.tiny or gflop is None else gflop / 1e3 / median["U"],
        "check": check, **disagree,
    }  # fmt: skip


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
    if ARGS.tiny:
        variants = {n: run for n, run in variants.items() if n != "compile"}
    for name, run in variants.items():
        try:
            best[name] = min(seconds(run) for _ in range(5))
        except Exception as e:  # a variant that does not work here is no contestant
            failed[name] = str(e).splitlines()[0]
    if not best:
        raise RuntimeError(f"no variant of P works: {failed}")
    fastest = min(best, key=best.get)
    for _ in range(3):
        seconds(ours)
    u, p = [], []
    for _ in range(REPEATS):
        u.append(seconds(ours))
        p.append(seconds(variants[fastest]))
    spread = {"U": [min(u), statistics.median(u), max(u)], "P": [min(p), statistics.median(p), max(p)]}
    return {
        "seconds": spread, "P": fastest, "U/P": spread["P"][1] / spread["U"][1], "GB/s": moved / spread["U"][1] / 1e9, "variants left out": failed,
    }  # fmt: skip


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


SINGLE = {
    "step-32": ("step of the L2 attack alone, 3 x 32 x 32", lambda: attack_step(5120 if CUDA else 8, 32)),
    "step-224": ("step of the L2 attack alone, 3 x 224 x 224", lambda: attack_step(512 if CUDA else 2, 224)),
    "gather": ("a batch of 12,500 from resident bytes, 3 x 32 x 32", gather),
}


ABOUT = {n: c[1] for n, c in CONTESTS.items()} | {n: c[0] for n, c in SINGLE.items()}


def rows(names):
    """Measures row after row. One that fails says so, and the next is measured: the machine may be had only once."""
    for name in names:
        if time.monotonic() - BEGAN > ALL:
            yield name, {"left out": f"{ALL} seconds were over; ask for it with --rows"}
            continue
        try:
            yield name, contest(name) if name in CONTESTS else {"what": SINGLE[name][0]} | single(name)
        except (Exception, SystemExit) as e:  # a contestant that does not start ends with the latter
            yield name, {"what": ABOUT[name], "failed": f"{type(e).__name__}: {e}"}


def single(name):
    torch.ops.load_library(str(ROOT / "lib/libl2ul.so"))
    if CUDA:
        torch.ops.load_library(str(ROOT / "lib/libl2ul_cuda.so"))
    return SINGLE[name][1]()


def main():
    if ARGS.list:
        print("\n".join(f"{n:10}{what}" for n, what in ABOUT.items()))
        return
    names = ARGS.rows.split(",") if ARGS.rows else list(ABOUT)
    if unknown := set(names) - set(ABOUT):
        parser.error(f"no rows are called {', '.join(sorted(unknown))}; --list names them")
    measured = {}
    result = {
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if CUDA else "no GPU", "tests": {}, "program": {},
        "rows" if CUDA else "rows on the CPU: no measurement": measured,
    }  # fmt: skip

    def save():
        RESULT.write_text(json.dumps(result, indent=1) + "\n")

    if not ARGS.rows and not ARGS.tiny:
        result["tests"] = dict(tests())
        save()
        result["program"] = {name: {"exit": code, "output": out[-2000:]} for name, (code, out) in program()}
        save()
    for name, row in rows(names):
        measured[name] = row
        save()
    bad = [n for part in ("tests", "program") for n, r in result[part].items() if r["exit"] not in (0, 3)]
    bad += [n for n, r in measured.items() if "failed" in r]
    print(f"{RESULT}: {result['device']}, " + (f"failed: {', '.join(bad)}" if bad else "all passed"))
    sys.exit(1 if bad or not CUDA and not ARGS.tiny else 0)


main()
