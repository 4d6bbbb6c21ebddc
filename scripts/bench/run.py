"""Runs `make bench`: contestants O, P and U side by side, row by row, and writes results/NAME.json and results/NAME.md.

    python run.py [--rows C1,C2,…] [--repeats 5] [--threads 2] [--name cpu]

Each contestant of a row is a process of its own that sets up, warms up and then waits; repeats alternate between them, so
that a machine that slows down slows all. Ratios are of medians. README.md says what the rows and the contestants are.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "golden"))

import expert
from contestants import Data, settings_of

ROOT = HERE.parents[1]
WORK = ROOT / "build" / "bench"

# Counted GFLOP of a repeat (forward + input gradient, with weight gradients in C3), and the goals: U/O and U/P.
ROWS = {
    "C1": ("PGD, 16 images x 2 targets x 5 iterations, fp32", 32 * 5 * 0.56, 2.5, 1.1),
    "C1-bf16": ("the same in bf16", 32 * 5 * 0.56, None, 1.15),
    "C2": ("evaluation, 1,024 images", 1024 * 0.28, 1.5, 1.05),
    "C3": ("unlearning step, 256 + 16 images", 272 * 0.84 + 16 * 0.28, 1.3, 1.05),
    "C4": ("6,144 images from the resident set", None, 30, 1.0),
    "C5": ("200 JPEG files: decode, resize to 256, crop 224; one core", None, 2.0, 1.5),
    "C6": ("penalty, weight decay and momentum", None, 3, 1.5),
    "C7": ("end to end: k = 16, N = 4, 20 iterations, 512 + 256 images scored", None, 2.5, 1.5),
    "C8": ("parity: 100 iterations, 12 pairs", None, None, None),
}
# GB that a repeat cannot but move: of each weight of ResNet-18 five floats read and two written.
MOVED = {"C6": 7 * 4 * 11_173_962 / 1e9}


class Contestant:
    """A process that answers "run" with a line of JSON."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answers = []

    def ready(self):
        """Waits for the set-up; returns why the row cannot be run here, or None."""
        line = self.process.stdout.readline().strip()
        if line.startswith("unavailable: "):
            return line.removeprefix("unavailable: ")
        if line != "ready":
            sys.exit(f"contestant {self.name} did not start")
        return None

    def run(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        self.answers.append(json.loads(self.process.stdout.readline()))

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def command(name, row, a, *more):
    threads = 1 if row == "C5" else a.threads
    if name == "U":
        return [str(a.ours), row, str(a.inputs), str(threads), *more]
    save = ["--save", *more] if more else []
    variant = ["--variant", a.variant] if a.variant and name == "P" else []
    return [sys.executable, str(HERE / "contestants.py"), name, row, "--inputs", str(a.inputs), "--threads", str(threads), *variant, *save]


def alternate(row, a):
    """Starts the contestants one after the other, so that none sets up beside another, and lets them take turns."""
    contestants = []
    for name in ("O", "P", "U"):
        if row in ("C1-bf16", "mas") and name == "O":
            continue  # what was published has no bf16, and no importance image by image
        contestants.append(Contestant(name, command(name, row, a)))
        if reason := contestants[-1].ready():
            for c in contestants:
                c.end()
            return reason
    began = time.monotonic()
    for i in range(a.repeats):
        if i > 0 and time.monotonic() - began > a.seconds:
            break
        for c in contestants:
            if c.name != "O" or i < a.published:
                c.run()
    for c in contestants:
        c.end()
    return {c.name: c.answers for c in contestants}


def rate(row, a):
    """What the machine can do at most, in 10^9 operations or bytes a second."""
    c = Contestant(row, command("P", row, a))
    c.ready()
    for _ in range(a.repeats):
        c.run()
    c.end()
    return statistics.median(x["check"] for x in c.answers)


def job(a):
    """C7 of U: the program itself, from start to finish."""
    c7, j = a.inputs / "c7", settings_of(a.inputs)
    with tempfile.TemporaryDirectory() as out:
        argv = [
            a.program, "forget", "-m", "l2ul-resnet18", "--weights", c7 / "weights.safetensors", "--dataset", j["dataset"],
            "--data-dir", c7, "--device", j["device"], "--batch-size", j["eval_batch"], "--limit", j["limit"] or "1.0",
            "--forget", "ids:" + ",".join(map(str, j["forget"])), "--method", j["method"], "--importance", j["importance"],
            "--num-adv", j["num_adv"], "--eps", j["eps"], "--step", j["alpha"], "--iters", j["iterations"], "--lr", f"{j['lr']:f}",
            "--reg-lambda", j["reg_lambda"], "--bn", j["bn"], "--forget-batch", j["forget_batch"], "--adv-batch", j["adv_batch"],
            "--max-steps", j["max_steps"], "--seed", j["seed"], "--threads", a.threads, "-o", Path(out) / "run", "--progress", "none", "-q",
        ]  # fmt: skip
        env = os.environ | {"UNLEARN_CACHE": str(Path(out) / "cache")}
        done = subprocess.run([str(x) for x in argv], env=env, capture_output=True, text=True)
        if done.returncode not in (0, 3):
            sys.exit(f"unlearn forget: {done.stderr}")
        result = json.loads((Path(out) / "run" / "result.json").read_text())
        phases = ("attack", "importance", "unlearn", "eval")
        return {"steps": result["steps"], "check": result["after"]["test"]["loss"], "job": sum(result["seconds"][p] for p in phases)}


def whole(a):
    """C7: processes timed from outside."""
    answers = {"O": [], "P": [], "U": []}
    for i in range(a.repeats):
        for name in answers:
            if name == "O" and i >= a.published:
                continue
            began = time.perf_counter()
            if name == "U":
                answer = job(a)
            else:
                answer = json.loads(subprocess.run(command(name, "C7", a), check=True, capture_output=True, text=True).stdout)
            answers[name].append({"seconds": time.perf_counter() - began} | answer)
    return answers


def parity(a):
    """C8: U's examples against P's, which are the reference's: bits in mode reference, likeness in the others. On an untrained
    network rounding alone goes far, so where there is a trained one with real images it is measured on that too."""
    report = {"untrained": likeness(a)}
    shared = Path(os.environ.get("L2UL_SHARED", ROOT.parent / "shared"))
    if (shared / "weights").is_dir() and (shared / "data").is_dir():
        a = argparse.Namespace(**vars(a) | {"inputs": WORK / "trained"})
        work = json.dumps({"trained": str(shared), "pixels": 1024, "adversarial": 16})
        subprocess.run([sys.executable, str(HERE / "prepare.py"), str(a.inputs), work], check=True)
        report["trained"] = likeness(a)
    return report


def likeness(a):
    with tempfile.TemporaryDirectory() as out:
        found = {}
        for who, name, row in (("P", "P", "C8"), ("reference", "U", "C8"), ("exact", "U", "C8-exact"), ("bf16", "U", "C8-bf16")):
            file = Path(out) / f"{who}.safetensors"
            c = Contestant(name, command(name, row, a, str(file)))
            c.ready()
            c.run()
            c.end()
            found[who] = load_file(file)["x_adv"]
    data = Data(a.inputs)
    model, x, target = expert.frozen(data.weights), expert.pixels(data["forget.pixels"][:12]), data["pair.target"][:12]
    p = found.pop("P")
    reached = attained(model, p, target)["reached"]
    return {
        who: {"equal": torch.equal(p, u), "reached by P": reached} | apart(x, p, u) | attained(model, u, target) for who, u in found.items()
    }


def apart(x, p, u):
    """How far examples u of images x are from examples p."""
    distance = (p - u).flatten(1).norm(dim=1)
    cosine = torch.cosine_similarity((p - x).flatten(1), (u - x).flatten(1))
    return {"median_l2": distance.median().item(), "max_l2": distance.max().item(), "min_cosine": cosine.min().item()}


def attained(model, x_adv, target):
    """How many examples reach their targets, and the mean cross-entropy to them."""
    with torch.no_grad():
        logits = model(x_adv)
    return {"reached": (logits.argmax(1) == target).sum().item(), "cross_entropy": F.cross_entropy(logits, target).item()}


def summarise(row, answers, peaks):
    what, gflop, goal_o, goal_p = ROWS[row]
    median = {n: statistics.median(x["seconds"] for x in v) for n, v in answers.items()}
    spread = {n: [min(x["seconds"] for x in v), max(x["seconds"] for x in v)] for n, v in answers.items()}
    checks = {n: v[-1]["check"] for n, v in answers.items()}
    tried, failed = (answers["P"][-1].get(key, {}) for key in ("variants", "failed"))
    answers = {n: [{k: x for k, x in a.items() if k not in ("variants", "failed")} for a in v] for n, v in answers.items()}
    physical = None
    if gflop:
        physical = gflop / median["U"] / peaks["gemm"]
    elif row in MOVED:
        physical = MOVED[row] / median["U"] / peaks["memory"]
    return {
        "row": row, "what": what, "median": median, "spread": spread, "check": checks, "variant": {n: v[-1].get("variant") for n, v in answers.items()},
        "U/O": median["O"] / median["U"] if "O" in median else None, "U/P": median["P"] / median["U"], "goal U/O": goal_o, "goal U/P": goal_p,
        "physical": physical, "tried": tried, "failed": failed, "seconds": answers,
    }  # fmt: skip


def markdown(report):
    m = report["machine"]
    lines = [
        f"# CPU rows, {m['processor']}, {m['threads']} threads, torch {m['torch']} ({m['capability']}), {report['date']}", "",
        f"Medians of {report['repeats']} alternating repeats in seconds [least, greatest]; U/O and U/P are speed ratios, the goal behind each. "
        f"Physical: counted FLOPs over time over the GEMM rate of the same run ({report['gemm']:.0f} GFLOP/s); of C6 the bytes that it cannot but move, "
        f"over the rate of a += b on long vectors ({report['memory']:.0f} GB/s).", "",
        "| row | workload | O | P (its best variant) | U | U/O | U/P | physical |", "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip

    def cell(r, n):
        if n not in r["median"]:
            return "-"
        low, high = r["spread"][n]
        variant = f" {r['variant'][n]}" if n == "P" and r["variant"][n] else ""
        return f"{r['median'][n]:.3g} [{low:.3g}, {high:.3g}]{variant}"

    for r in report["rows"]:
        ratios = [f"{r[k]:.2f} ({r['goal ' + k] or '-'})" if r[k] else "-" for k in ("U/O", "U/P")]
        physical = f"{100 * r['physical']:.0f} %" if r["physical"] else "-"
        lines.append("| " + " | ".join([r["row"], r["what"], *(cell(r, n) for n in "OPU"), *ratios, physical]) + " |")
    tried = [r for r in report["rows"] if r["tried"] or r["failed"]]
    if tried:
        lines += ["", "What P chose from, each the best of three trials before the repeats, in seconds:", ""]
    for r in tried:
        trials = [f"{name} {s:.3g}" for name, s in sorted(r["tried"].items(), key=lambda x: x[1])]
        lines.append(f"- {r['row']}: " + ", ".join(trials + [f"{name} does not work here ({why})" for name, why in r["failed"].items()]))
    for row, reason in report.get("left out", {}).items():
        lines += ["", f"{row} is left out: {reason}."]
    if "parity" in report:
        lines += ["", "C8, 12 pairs after 100 iterations, perturbations of U beside P's in a ball of radius 4; the gate is bits in mode reference, and on the trained network "
                  "L2 below 0.5 and cosine above 0.99 in mode exact, in mode bf16 median L2 below 0.3, L2 below 0.9 and cosine above 0.97:", "",
                  "| network | mode | bits | median L2 | largest L2 | least cosine | targets reached (P) |", "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for network, modes in report["parity"].items():
            for mode, m in modes.items():
                lines.append(
                    f"| {network} | {mode} | {'equal' if m['equal'] else 'other'} | {m['median_l2']:.3f} | {m['max_l2']:.3f} | {m['min_cosine']:.4f} | {m['reached']} ({m['reached by P']}) |"
                )
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", default=",".join(ROWS))
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--name", default="cpu")
    a = p.parse_args()
    a.inputs, a.ours, a.program = WORK / "inputs", WORK / "ours", ROOT / "bin/unlearn"
    a.variant, a.seconds, a.published = None, float("inf"), a.repeats
    # What U sets for itself, for all: waiting threads that sleep, and freed memory that stays with the process.
    os.environ |= {"OMP_WAIT_POLICY": "passive", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1), "MALLOC_ARENA_MAX": "1"}
    subprocess.run([sys.executable, str(HERE / "prepare.py"), str(WORK / "inputs")], check=True)
    peaks = {row: rate(row, a) for row in ("gemm", "memory")}
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    report = {
        "date": time.strftime("%Y-%m-%d"), "repeats": a.repeats, **peaks, "rows": [],
        "machine": {"processor": processor, "threads": a.threads, "torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()},
    }  # fmt: skip
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for row in a.rows.split(","):
        print(row, ROWS[row][0], file=sys.stderr, flush=True)
        if row == "C8":
            report["parity"] = parity(a)
        elif isinstance(answers := whole(a) if row == "C7" else alternate(row, a), str):
            report["left out"] = report.get("left out", {}) | {row: answers}
        else:
            report["rows"].append(summarise(row, answers, peaks))
        (results / f"{a.name}.json").write_text(json.dumps(report, indent=1) + "\n")
        (results / f"{a.name}.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
