"""Writes the test files of packages ckpt and pickle, as PyTorch and NumPy write them.

usage: make.py DIR PICKLES [FILE...]
Writes the .pt files and expect.json, their fingerprints, to DIR, and the .pkl files to PICKLES. Loads each FILE with
torch.load(weights_only=True) and prints its fingerprint as ckpt.File.Hash defines it.
"""

import collections
import hashlib
import json
import pathlib
import pickle
import struct
import sys

import torch

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}


def fingerprint(state):
    h = hashlib.sha256()

    def text(s):
        h.update(struct.pack("<q", len(s.encode())) + s.encode())

    for name, t in sorted(state.items()):
        t = t.detach().contiguous()
        data = bytes(t.flatten().view(torch.uint8).tolist()) if t.numel() else b""
        text(name)
        text(DTYPES[t.dtype])
        h.update(struct.pack(f"<{1 + t.dim()}q", t.dim(), *t.shape))
        h.update(struct.pack("<q", len(data)) + data)
    return h.hexdigest()


def bare(state):
    """The state dict inside what was saved, its names without the prefix of DataParallel."""
    for key in ("state_dict", "model_state_dict", "model_state", "model", "net"):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    if all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def checkpoints():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(2, 3))
    base = torch.arange(24, dtype=torch.float32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    yield "plain", net.state_dict()
    yield "parallel", {
        "net": torch.nn.DataParallel(net).state_dict(), "acc": 91.5, "epoch": 7, "optimizer": optimizer.state_dict(),
        "best": torch.tensor(1.5), "shape": torch.Size([1, 2]), "device": torch.device("cpu"),
    }
    yield "views", {
        "all": base, "head": base[:6].view(2, 3), "tail": base[20:], "transposed": base.view(4, 6).t(), "step": base[1::5],
        "last": base.view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last), "expanded": base[:3].expand(2, 3),
        "scalar": base[7], "empty": base[:0], "parameter": torch.nn.Parameter(base[:2]), "one": base.as_strided((1, 2), (99, 3)),
    }
    yield "dtypes", {name: (torch.arange(5) - 2).to(dtype) for dtype, name in DTYPES.items()} | {
        f"{name}.t": (torch.arange(6) - 2).to(dtype).view(2, 3).t() for dtype, name in DTYPES.items()
    }
    yield "dict", dict(net.state_dict())


def make(folder, pickles):
    expect = {}
    for name, state in checkpoints():
        torch.save(state, folder / f"{name}.pt")
        expect[f"{name}.pt"] = fingerprint(bare(state))
    (folder / "expect.json").write_text(json.dumps(expect, indent=1) + "\n")

    import numpy as np
    batch = {
        b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [3, 9], b"filenames": [b"a.png", b"b\xff.png"],
        "mean": np.array([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]], dtype=np.float32, order="F"), "best": np.float64(0.25),
        "set": {1}, "order": collections.OrderedDict(a=1), "big": 1 << 70, "none": None, "minus": -129, "yes": True,
        "text": "für\n\U0001F600", "tuple": (1, (2.5,), "x", b"y"),
    }
    for protocol in range(6):
        (pickles / f"batch{protocol}.pkl").write_bytes(pickle.dumps(batch, protocol))


make(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
for path in sys.argv[3:]:
    print(fingerprint(bare(torch.load(path, weights_only=True))))
