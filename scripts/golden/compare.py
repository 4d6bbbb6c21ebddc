"""Holds runs of `unlearn forget` on real images against results/real-k<k>-s<seed>.json of the reference.

    python compare.py RUN_FOLDER...

Each folder is a run with `-c preset:l2ul/cifar10-resnet18 --mode reference --threads 1 -b 500 --limit 0.1`, and the
record's `max_steps` as `--max-steps`, on the shared weights and images; eval.json in it, if any, is `unlearn eval --splits test -b 500` of its model (its result, or the
last line of --json). Prints a Markdown table, then every
difference; exits 1 if there is one. Bits can only agree on the instruction set the reference was made on.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

import l2ul
import nets

HERE = Path(__file__).resolve().parent


def percent(hits, n):
    return f"{100 * hits / n:.2f}"


def main():
    wrong, rows = [], []
    for folder in map(Path, sys.argv[1:]):
        result = json.loads((folder / "result.json").read_text())
        k, seed, method = len(result["forget"]["indices"]), result["seed"], result["method"]
        path = HERE / "results" / f"real-k{k}-s{seed}.json"
        reference = json.loads(path.read_text()) if path.exists() else {}
        want = reference.get(method)

        def check(what, got, expected):
            if got != expected:
                wrong.append(f"{folder.name}: {what}: {got}, the reference has {expected}")

        test = result["after"]["test"]
        if (folder / "eval.json").exists():
            answer = json.loads((folder / "eval.json").read_text())
            test = answer.get("result", answer)["test"]
        after = {"forget": result["after"]["forget"], "retain": result["after"]["retain"], "test": test}
        if reference:
            check("indices", result["forget"]["indices"], reference["indices"])
            check("D_r before", result["before"]["retain"]["hits"], reference["before"]["retain"]["hits"])
        if want:
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            values = [line["values"] for line in lines if line["phase"] == "unlearn"]
            check("steps", result["steps"], want["steps"])
            check("outcome", result["outcome"], want["outcome"])
            check("hits of each step", [int(v["hits"]) for v in values if "hits" in v], want["hits"])
            check("loss of each step", [v["loss"] for v in values], want["loss"])
            for split in after:
                if after[split]["n"] == want["after"][split]["n"]:
                    check(f"{split} after", after[split]["hits"], want["after"][split]["hits"])
            net = nets.new("l2ul-resnet18")
            net.net.load_state_dict(load_file(folder / "model.safetensors"))
            check("parameters", l2ul.sha256(*net.parameters()), want["parameters_sha256"])
        theirs = want["after"] if want else {}
        cells = []
        for split in ("forget", "retain", "test"):
            cell = f"{percent(after[split]['hits'], after[split]['n'])} ({after[split]['hits']}/{after[split]['n']})"
            cells.append(cell + (f" = {theirs[split]['hits']}/{theirs[split]['n']}" if theirs else ""))
        steps = f"{result['steps']} = {want['steps']}" if want else str(result["steps"])
        rows.append([str(k), str(seed), method, steps, *cells, f"{result['seconds']['total']:.0f}"])

    header = ["k", "seed", "method", "steps", "D_f %", "D_r %", "D_test %", "s"]
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |")
    for line in wrong:
        print(line if len(line) < 400 else line[:400] + " …")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
