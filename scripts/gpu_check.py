"""What gpu-check.sh runs: python gpu_check.py ROOT RESULT.json [--rows G1,G6,…] [--device cuda|cpu] [--tiny] [--list]

ROOT is an unpacked bundle whose lib/libtorch leads to this Python's packages. Tests first, then rows, the most important ones
first, and none that would not end in time: --list says how long each takes, and --rows asks for the others. The rows G… are those
of `make bench` in other sizes, with the same contestants, each a process: the algorithm as published (O), what an expert in
PyTorch would write, its fastest variant (P), and the engine (U). G12… hold U's examples in one precision against those in
another. The others compare single operators with P in this process. Ratios are of medians of alternating runs; a rate is
what must be moved or computed at least, over U's median. Where memory or time would not do, a row has the shape of its work
and fewer images; what it says is what it did. With --device cpu --tiny the rows run in small, without compiling, and no tests:
that tests this script and measures nothing.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("root", type=Path)
parser.add_argument("result", type=Path)
parser.add_argument("--rows", help="only these, separated by commas; none of the tests")
parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--list", action="store_true", help="print the rows and end")
parser.add_argument("--bin", type=Path, help="the folder with unlearn and ours; bin/ of the bundle")
ARGS = parser.parse_args()
ROOT, RESULT, DEVICE = ARGS.root.resolve(), ARGS.result, ARGS.device
CUDA, BIN = DEVICE == "cuda", ARGS.bin or ROOT / "bin"
sys.path[:0] = [str(ROOT / "scripts/bench"), str(ROOT / "scripts/golden")]
REPEATS = 2 if ARGS.tiny else 20

# The repeats of a row end after ROW seconds, and no row begins that would end after ALL, so that the whole stays below ten minutes.
ROW, ALL = 20, 560
BEGAN = time.monotonic()

TINY = {"images": 4, "prepared": 4, "pairs": 4, "iterations": 2, "tests": 8, "pixels": 8, "eval_batch": 4, "adversarial": 4}


# The smallest sister of a network, and the size of its images.
SISTERS = {"l2ul-resnet18": ("l2ul-resnet18", 32), "cifar-resnet50": ("cifar-resnet18", 32), "resnet50": ("resnet18", 64), "vit_b_16": ("cifar-vit-ti", 32)}


def tiny(work):
    """The work in small: of everything a little."""
    small = work | TINY | dict(zip(("network", "size"), SISTERS[work.get("network", "l2ul-resnet18")]))
    if "job" in work:
        small["job"] = work["job"] | {"num_adv": 2, "iterations": 2, "max_steps": 2, "eval_batch": 4, "limit": 8}
    return small


def prepare(folder, work):
    """Makes what contestants read; a second call changes how they compute. Returns their arguments."""
    work = (tiny(work) if ARGS.tiny else work) | {"device": DEVICE}
    subprocess.run([sys.executable, str(ROOT / "scripts/bench/prepare.py"), folder, json.dumps(work)], check=True)
    return argparse.Namespace(
        inputs=Path(folder), ours=BIN / "ours", program=BIN / "unlearn", threads=torch.get_num_threads(), repeats=1 if ARGS.tiny else 5,
        seconds=ROW, published=2, variant=None, work=work,
    )  # fmt: skip


def ratios(answers, key="seconds"):
    median = {n: statistics.median(x[key] for x in v) for n, v in answers.items()}
    return {"U/O": median["O"] / median["U"] if "O" in median else None, "U/P": median["P"] / median["U"]}


def contest(row, work, plain, gflop=None):
    """A row of `make bench`: O, P and U take turns. plain is P's variant that needs no compiler; gflop is what is computed at
    least, forward and backward, none where bytes count."""
    import run as bench

    with tempfile.TemporaryDirectory() as folder:
        a = prepare(folder, work)
        a.variant = plain if ARGS.tiny else None
        answers = bench.alternate(row, a)
    if isinstance(answers, str):
        return {"left out": answers}
    rate = gflop and not ARGS.tiny and gflop / 1e3 / statistics.median(x["seconds"] for x in answers["U"])
    return {
        "work": a.work, "seconds": {n: [x["seconds"] for x in v] for n, v in answers.items()}, "P": answers["P"][-1]["variant"],
        **ratios(answers), "TFLOP/s": rate or None, **bench.agreement(answers, "bf16" in row or work.get("tf32")),
    }  # fmt: skip


def whole(work):
    """C7: whole processes, the first of each with nothing in memory, and of these the job, without start and reading."""
    import run as bench

    with tempfile.TemporaryDirectory() as folder:
        a = prepare(folder, work)
        a.published, a.repeats = 1, min(a.repeats, 3)
        answers = bench.whole(a)
    return {
        "work": a.work, "seconds": {n: [x["seconds"] for x in v] for n, v in answers.items()}, **ratios(answers),
        "job": {n: [x["job"] for x in v] for n, v in answers.items()} | ratios(answers, "job"), **bench.agreement(answers),
    }  # fmt: skip


def ladder(work):
    """U's attack in each precision: its time, and its examples beside those in float32. What rounding alone does shows in the rung
    reference, which is float32 by the operators of P."""
    import expert
    import run as bench
    from contestants import Data, attained
    from safetensors.torch import load_file

    rungs = {"fp32": "C1", "reference": "C1-reference", "tf32": "C1", "bf16": "C1-bf16"}
    result, made = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, row in rungs.items():
            a = prepare(folder, work | {"tf32": name == "tf32"})
            u = bench.Contestant("U", bench.command("U", row, a, f"{folder}/made.safetensors"))
            u.ready()
            for _ in range(a.repeats):
                u.run()
            u.end()
            result[name] = {"seconds": [x["seconds"] for x in u.answers]}
            made[name] = load_file(f"{folder}/made.safetensors", device=DEVICE)["x_adv"]
        data = Data(Path(folder))
    model, n = expert.frozen_of(data), a.work["pairs"]
    images = expert.pixels(data["forget.pixels"])
    x = images.repeat(-(-n // len(images)), 1, 1, 1)[:n]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # what examples reach is float32's
    for name, x_adv in made.items():
        result[name] |= bench.apart(x, made["fp32"], x_adv) | attained(model, x_adv, data["pair.target"][:n])
    return {"work": a.work, "rungs": result}


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


def single(measure):
    torch.ops.load_library(str(ROOT / "lib/libl2ul.so"))
    if CUDA:
        torch.ops.load_library(str(ROOT / "lib/libl2ul_cuda.so"))
    return measure()


RN18 = {"prepared": 320, "pairs": 320, "iterations": 100}
C100 = {"network": "cifar-resnet50"}
RN50 = C100 | {"prepared": 192, "pairs": 192, "iterations": 20}
IMAGENET = {"network": "resnet50", "size": 224, "pixels": 16, "adversarial": 16}
PGD224 = IMAGENET | {"prepared": 192, "pairs": 192, "iterations": 10}
EVAL224 = IMAGENET | {"prepared": 16, "tests": 2048, "pixels": 2048, "eval_batch": 256}
VIT = {"network": "vit_b_16", "size": 224, "pixels": 16, "adversarial": 16}
PGDVIT = VIT | {"prepared": 192, "pairs": 192, "iterations": 5}
K256 = {"images": 256, "prepared": 256}
CIFAR = {"job": {"dataset": "cifar10", "num_adv": 20, "iterations": 100, "eval_batch": 1000}}
# A trained network and real images, where there are any: rounding goes further on an untrained one.
SHARED = os.environ.get("L2UL_SHARED")
TRAINED = {"trained": SHARED} if SHARED and not ARGS.tiny else {}


class Row(NamedTuple):
    seconds: int  # about what it takes on an H100: half of it and more are the contestants' starts, and P's compiler
    what: str
    measure: Callable[[], dict]


# The most important first.
ROWS = {
    "G1": Row(75, "PGD, ResNet-18, 16 images x 20 targets x 100 iterations", lambda: contest("C1", RN18, "eager", 320 * 100 * 0.56)),
    "G1-bf16": Row(50, "G1 with the network in bfloat16", lambda: contest("C1-bf16", RN18, "bf16", 320 * 100 * 0.56)),
    "G3": Row(80, "PGD, ResNet-50 of CIFAR-100, 16 images x 12 targets x 20 iterations", lambda: contest("C1", RN50, "eager", 192 * 20 * 5.19)),
    "G3-bf16": Row(65, "G3 with the network in bfloat16", lambda: contest("C1-bf16", RN50, "bf16", 192 * 20 * 5.19)),
    "G8": Row(70, "unlearning step, ResNet-50 of CIFAR-100, 128 + 16 images", lambda: contest("C3", C100 | {"adversarial": 128}, "eager-foreach", 144 * 7.79 + 16 * 2.6)),
    "G6": Row(65, "scores of 50,000 images, ResNet-18", lambda: contest("C2", {"tests": 50000, "pixels": 50000, "eval_batch": 5000}, "eager-64", 50000 * 0.28)),
    "G12": Row(40, "precisions of G1: time, and examples beside those in float32", lambda: ladder(RN18 | TRAINED)),
    "G11": Row(90, "end to end, 50,000 + 10,000 images of CIFAR-10's shape, k = 16, N = 20, 100 iterations, 8 steps", lambda: whole(CIFAR)),
    "G4": Row(95, "PGD, ResNet-50, 224 x 224, 16 images x 12 targets x 10 iterations", lambda: contest("C1", PGD224, "eager", 192 * 10 * 16.36)),
    "G4-bf16": Row(75, "G4 with the network in bfloat16", lambda: contest("C1-bf16", PGD224, "bf16", 192 * 10 * 16.36)),
    "G5": Row(95, "PGD, ViT-B/16, 224 x 224, 16 images x 12 targets x 5 iterations", lambda: contest("C1", PGDVIT, "eager", 192 * 5 * 70.26)),
    "G5-tf32": Row(80, "G5, where everybody may use TF32", lambda: contest("C1", PGDVIT | {"tf32": True}, "eager", 192 * 5 * 70.26)),
    "G7": Row(85, "scores of 2,048 images, ResNet-50, 224 x 224", lambda: contest("C2", EVAL224, "eager-64", 2048 * 8.18)),
    "G10": Row(35, "importance of batches (published), ResNet-18, 256 images", lambda: contest("mas-batch", K256, "eager", 256 * 0.84)),
    "G10-50": Row(55, "importance of batches (published), ResNet-50 of CIFAR-100, 256 images", lambda: contest("mas-batch", K256 | C100, "eager", 256 * 7.79)),
    "G10-each": Row(40, "importance image by image, ResNet-18, 256 images", lambda: contest("mas", K256, "vmap-4", 256 * 0.84)),
    "G10-50-each": Row(60, "importance image by image, ResNet-50 of CIFAR-100, 64 images", lambda: contest("mas", {"images": 64} | C100, "vmap-4", 64 * 7.79)),
    "G9": Row(45, "penalty, weight decay and momentum, ResNet-50", lambda: contest("C6", {"network": "resnet50"}, "foreach")),
    "G9-vit": Row(60, "penalty, weight decay and momentum, ViT-B/16", lambda: contest("C6", VIT, "foreach")),
    "step-32": Row(12, "step of the L2 attack alone, 3 x 32 x 32", lambda: single(lambda: attack_step(5120 if CUDA else 8, 32))),
    "step-224": Row(12, "step of the L2 attack alone, 3 x 224 x 224", lambda: single(lambda: attack_step(512 if CUDA else 2, 224))),
    "gather": Row(12, "a batch of 12,500 from resident bytes, 3 x 32 x 32", lambda: single(gather)),
    "G3-tf32": Row(80, "G3, where everybody may use TF32", lambda: contest("C1", RN50 | {"tf32": True}, "eager", 192 * 20 * 5.19)),
    "G7-tf32": Row(85, "G7, where everybody may use TF32", lambda: contest("C2", EVAL224 | {"tf32": True}, "eager-64", 2048 * 8.18)),
    "G12-50": Row(45, "precisions of G3: time, and examples beside those in float32", lambda: ladder(RN50)),
    "G2": Row(80, "PGD, ResNet-18, 256 images x 2 targets x 40 iterations", lambda: contest("C1", K256 | {"prepared": 512, "pairs": 512, "iterations": 40}, "eager", 512 * 40 * 0.56)),
}  # fmt: skip


def rows(names):
    """Measures row after row. One that fails says so, and the next is measured: the machine may be had only once."""
    for name in names:
        seconds, what, measure = ROWS[name]
        if not ARGS.tiny and time.monotonic() - BEGAN + seconds > ALL:
            yield name, {"what": what, "left out": f"it takes about {seconds} of {ALL} seconds, and there are fewer left; ask for it with --rows"}
            continue
        try:
            yield name, {"what": what} | measure()
        except (Exception, SystemExit) as e:  # a contestant that does not start ends with the latter
            yield name, {"what": what, "failed": f"{type(e).__name__}: {e}"}


def main():
    if ARGS.list:
        print("\n".join(f"{n:12}{row.seconds:3} s  {row.what}" for n, row in ROWS.items()))
        return
    names = ARGS.rows.split(",") if ARGS.rows else list(ROWS)
    if unknown := set(names) - set(ROWS):
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
    bad += [n for n, r in measured.items() if r.keys() & {"failed", "apart"}]
    print(f"{RESULT}: {result['device']}, " + (f"failed: {', '.join(bad)}" if bad else "all passed"))
    sys.exit(1 if bad or not CUDA and not ARGS.tiny else 0)


main()
