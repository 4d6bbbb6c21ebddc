"""Compares the reference in l2ul.py with the independent values of shared/golden.

tiny.safetensors is computed again here and compared group by group: within a tolerance (it was made on a CPU with
AVX-512), exact equality counted. real-k16.json is set beside results/real-k16-s0.json (own streams) and
results/real-k16-shared.json (its streams), where they exist. Exit status 1 if a group is outside its tolerance.

    python check_shared.py [folder of the shared values]
"""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from safetensors.torch import load_file

import l2ul
import nets

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("L2UL_SHARED", HERE.parents[2] / "shared"))


def tiny(path):
    torch.set_num_threads(1)
    want = load_file(path)
    x, y, target, source, start = (want[n] for n in ("x", "y", "pair.target", "pair.source", "pair.start"))
    got = {}

    def fresh():
        net = nets.Tiny()
        net.load_state_dict({n.removeprefix("net."): t for n, t in want.items() if n.startswith("net.")})
        return net

    names = [n for n, _ in fresh().named_parameters()]
    deltas = {}
    for tag, eps, alpha, iterations in (("eps1.5.alpha0.1", 1.5, 0.1, 100), ("eps0", 0.0, 0.1, 1), ("alpha0", 1.5, 0.0, 1)):
        model = fresh()
        with l2ul.frozen(model):
            l2ul.pgd(
                model, x[source], start, target, eps, alpha, iterations,
                record=lambda t, d: deltas.__setitem__(f"pgd.{tag}.delta{t}", d.clone()),
            )  # fmt: skip
    got |= {n: d for n, d in deltas.items() if n in want}

    omegas = {
        "mas": l2ul.importance(fresh(), x, y, "mas"),
        "mas-plain": l2ul.importance(fresh(), x, y, "mas", norm="plain"),
        "mas-batch": l2ul.importance_batch(fresh(), x, 4),
        "mas-batch-noacc": l2ul.importance_batch(fresh(), x, 4, accumulating=False),
        "fisher-emp": l2ul.importance(fresh(), x, y, "fisher-emp"),
        "fisher-true": l2ul.importance(fresh(), x, y, "fisher-true"),
    }
    for kind, omega in omegas.items():
        got |= {f"omega.{kind}.{n}": t for n, t in zip(names, omega)}
        # Ω̄ from the stored Ω: the normalisation alone.
        got |= {f"anchor.{kind}.{n}": l2ul.anchors([want[f"omega.{kind}.{n}"]])[0] for n in names}

    x_adv = (x[source] + want["pgd.eps1.5.alpha0.1.delta100"]).clamp(0, 1)
    adversarial = l2ul.Attack(x_adv, target, *[torch.empty(0)] * 3)
    anchor = [want[f"anchor.mas.{n}"] for n in names]
    for method in ("neggrad", "adv", "adv-imp", "imp"):
        model, losses = fresh(), []
        settings = l2ul.Settings(method=method, b_f=4, b_a=10, lr=0.05, max_steps=5)

        def watch(step, _):
            if step in (1, 2, 5):
                got.update({f"step.{method}.{step}.{n}": t.clone() for n, t in model.state_dict().items()})

        losses = l2ul.unlearn(model, x, y, settings, adversarial, anchor, watch=watch).loss
        got[f"step.{method}.loss"] = torch.tensor(losses, dtype=torch.float64)

    groups, failed = defaultdict(lambda: [0, 0, 0.0]), False
    for name, g in got.items():
        w, group = want[name], ".".join(name.split(".")[:2]) if not name.startswith("pgd.eps1.5") else name
        entry = groups[group]
        entry[0] += g.numel()
        entry[1] += (g == w).sum().item()
        entry[2] = max(entry[2], (g.double() - w.double()).abs().max().item() / max(1e-30, w.double().abs().max().item()))
    missing = [n for n in want if n not in got and n.split(".")[0] not in ("net", "x", "y", "pair")]
    for group, (n, equal, worst) in groups.items():
        tolerance = 1e-3 if group.endswith("delta100") else 1e-5
        failed |= worst > tolerance
        print(f"{group:32} {equal:7} of {n:7} equal, largest difference / largest value {worst:.1e}"
              f"{'  OUTSIDE ' + str(tolerance) if worst > tolerance else ''}")  # fmt: skip
    print(f"CPU here: {torch.backends.cpu.get_cpu_capability()}; not compared: {missing or 'none'}")
    return int(failed or bool(missing))


def real(path):
    want = json.loads(path.read_text())
    for name in ("real-k16-s0.json", "real-k16-shared.json"):
        if not (HERE / "results" / name).exists():
            continue
        got = json.loads((HERE / "results" / name).read_text())
        print(f"\n{name} ({got['settings']['cpu_capability']}, {got['settings']['format']}) beside {path.name}")
        print(f"  same D_f {got['indices'] == want['indices']}, same targets {got.get('targets') == want['targets']}")
        before = {split: row["hits"] for split, row in got["before"].items()}
        print(f"  before {before}, shared { {s: want['before'][s] for s in before} }")
        if "attack" in got:
            print(f"  attack {got['attack']['success']} hits, sums {got['attack']['xadv_sum64_first4']}")
            print(f"  shared {want['attack']['success']} hits, sums {want['attack']['xadv_sum64_first4']}")
        for method in ("neggrad", "adv", "adv-imp"):
            if method in got:
                a, b = got[method], want[method]
                agree = next((i for i, (p, q) in enumerate(zip(a["hits"], b["hits"])) if p != q), min(len(a["hits"]), len(b["hits"])))
                after = [a["after"][s]["hits"] for s in ("forget", "retain", "test")]
                print(
                    f"  {method:8} steps {a['steps']}, shared {b['steps']}; first {agree} hit counts equal; "
                    f"forget, retain, test {after}, shared {[b[s] for s in ('forget', 'retain', 'test')]}"
                )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED / "golden"
    status = tiny(folder / "tiny.safetensors")
    real(folder / "real-k16.json")
    sys.exit(status)
