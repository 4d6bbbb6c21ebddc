"""One contestant of `make bench` on one row, in one process. README.md defines rows, inputs and the protocol.

    python contestants.py O|P ROW --inputs DIR [--threads N] [--variant NAME|auto] [--save FILE]

Rows: C1 C1-bf16 C2 C3 C4 C5 C6 C7 C8, mas-batch, P's mas, gemm and memory. Sets up, warms up, prints `ready`; then every line `run` on stdin is
answered by one JSON line. C7 runs its job at once, prints one JSON line and ends: the caller times the process.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import torch
from safetensors.torch import load_file, save_file


class Data(dict):
    """The prepared tensors, with the weights as a state dict; what P reads lies on the device, what O reads on the CPU."""

    def __init__(self, folder, resident=True):
        self.work = json.loads((folder / "work.json").read_text())
        self.device = torch.device(self.work["device"])
        super().__init__(load_file(folder / "inputs.safetensors", device=str(self.device) if resident else "cpu"))
        self.weights = {n.removeprefix("weights."): t for n, t in self.items() if n.startswith("weights.")}


def timed(run):
    """Seconds of one repeat, and its check. What is restored before and computed for the check is not timed."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    state = run.restore() if hasattr(run, "restore") else None
    wait()
    start = time.perf_counter()
    check = run(state) if hasattr(run, "restore") else run()
    wait()
    seconds = time.perf_counter() - start
    return seconds, check()


def fastest(variants):
    """Builds every variant, warms it twice, takes the best of three runs; returns the winner and everybody's seconds."""
    best, seconds, failed = None, {}, {}
    for name, build in variants.items():
        try:
            run = build()
            timed(run), timed(run)
            seconds[name] = min(timed(run)[0] for _ in range(3))
        except Exception as e:  # a variant that does not work here (no compiler, say) is no contestant
            failed[name] = str(e).splitlines()[0] if str(e) else type(e).__name__
            continue
        if best is None or seconds[name] < seconds[best[0]]:
            best = name, run
    if best is None:
        sys.exit(f"no variant works here: {failed}")
    return *best, seconds, failed


def peak(work, amount):
    """How fast the machine does work, of so many operations or bytes, in 10^9 a second."""

    def run():
        start = time.perf_counter()
        work()
        rate = amount / (time.perf_counter() - start) / 1e9
        return lambda: rate

    return {"torch": lambda: run}


def gemm():
    """The machine's float32 peak: 2048x2048x2048 through MKL, in GFLOP/s."""
    a, b, out = torch.rand(2048, 2048), torch.rand(2048, 2048), torch.empty(2048, 2048)
    return peak(lambda: torch.mm(a, b, out=out), 2 * 2048**3)


def memory():
    """The machine's memory, by a += b on vectors of 160 MB, larger than caches: two words read, one written, in GB/s."""
    a, b = torch.rand(40_000_000), torch.rand(40_000_000)
    return peak(lambda: a.add_(b), 3 * 4 * 40_000_000)


def anchored(anchors):
    """How much of all parameters is free to move: the check of the rows of importance."""
    return sum((1 - a.double()).sum().item() for a in anchors)


def job(folder):
    """The job of C7: settings, weights, and of each split the sorted list of files and labels, or pixels and labels."""
    settings, folder = settings_of(folder), folder / "c7"

    def files(split):
        classes = sorted(p.name for p in (folder / split).iterdir())
        return [(str(path), i) for i, c in enumerate(classes) for path in sorted((folder / split / c).iterdir())]

    def binary(split):
        names = sorted((folder / "cifar-10-batches-bin").glob({"train": "data_batch_*.bin", "test": "test_batch.bin"}[split]))
        rows = torch.cat([torch.from_file(str(n), size=n.stat().st_size, dtype=torch.uint8).view(-1, 3073) for n in names])
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].long()

    read = files if settings["dataset"] == "imagefolder" else binary
    return settings, load_file(folder / "weights.safetensors"), read("train"), read("test")


def settings_of(folder):
    """The settings of C7's job."""
    work = json.loads((folder / "work.json").read_text())
    return json.loads((folder / "c7/job.json").read_text()) | work["job"] | {"device": work["device"]}


def retained(job, n):
    """The positions of n training images that are not to be forgotten."""
    gone = set(job["forget"])
    return [i for i in range(n) if i not in gone]


def spaced(job, indices):
    """What the job's limit leaves of the images to score."""
    n, limit = len(indices), job["limit"] or len(indices)
    return [indices[i * n // limit] for i in range(limit)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("contestant", choices=("O", "P"))
    p.add_argument("row", choices=("C1", "C1-bf16", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "mas", "mas-batch", "gemm", "memory"))
    p.add_argument("--inputs", type=Path, required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--variant", default="auto")
    p.add_argument("--save", type=Path, help="C8: write x_adv [12,3,32,32] to this safetensors file after every run")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    work = json.loads((a.inputs / "work.json").read_text())
    if a.row == "C1-bf16" and work["device"] == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        print("unavailable: this CPU has no bf16 instructions (avx512_bf16); emulating them takes minutes a run", flush=True)
        return
    if a.row == "C5" and not (a.inputs / "c5").is_dir():
        print("unavailable: it takes photographs, shared/data/imagenet-samples.tar", flush=True)
        return
    if a.contestant == "O":
        import official as rows
    else:
        import expert as rows

    # float32 means float32 on a GPU too, for every contestant, unless the work says otherwise.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = work["tf32"]
    # P lets cuDNN try its algorithms, which pays where a shape comes again and again; the published code does not.
    torch.backends.cudnn.benchmark = a.contestant == "P"
    if a.row == "C7":
        print(json.dumps(rows.c7(*job(a.inputs))), flush=True)
        return

    if a.row in ("gemm", "memory"):
        variants = {"gemm": gemm, "memory": memory}[a.row]()
    elif a.row == "C5":
        variants = rows.c5(sorted((a.inputs / "c5").rglob("*.jpg")))
    else:
        data, name = Data(a.inputs, a.contestant == "P"), a.row.lower().replace("-", "_")
        variants = rows.c1(data, name == "c1_bf16") if name.startswith("c1") else getattr(rows, name)(data)
    if callable(variants):
        run, variant, seconds, failed = variants, "published", {}, {}
        timed(run)
    elif a.variant != "auto":
        run, variant, seconds, failed = variants[a.variant](), a.variant, {}, {}
        timed(run), timed(run)
    else:
        variant, run, seconds, failed = fastest(variants)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() != "run":
            sys.exit(f'unknown request {line.strip()!r}; the only one is "run"')
        elapsed, check = timed(run)
        if a.save:
            save_file({"x_adv": run.result.contiguous()}, a.save)
        answer = {"seconds": elapsed, "check": check, "variant": variant, "variants": seconds, "failed": failed}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
