"""Writes the test files of packages ckpt and pickle, as PyTorch and NumPy write them.

usage: make.py DIR PICKLES [FILE...]
Writes the .pt, .npz and .safetensors files and expect.json, their fingerprints, to DIR, and the .pkl files to PICKLES. Loads each FILE with
torch.load(weights_only=True) or numpy.load and prints its fingerprint as ckpt.File.Hash defines it.

usage: make.py DIR -
Writes only the .pt files and their fingerprints: torch-1.13 holds those of PyTorch 1.13.1 with NumPy 1.26.4.
"""

import argparse
import collections
import functools
import hashlib
import json
import pathlib
import pickle
import struct
import sys

import numpy as np
import torch
from safetensors.torch import save_file

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
    """The state dict of what was saved, its names without the prefixes of DataParallel and torch.compile."""
    if isinstance(state, dict):
        for key in ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"):
            if isinstance(state.get(key), (dict, torch.nn.Module)):
                state = state[key]
                break
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    for prefix in ("module.", "_orig_mod.", "module."):
        if state and all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


class Net(torch.nn.Module):
    """What state_dict() has to decide: names of modules in modules, a shared one, parameters that are None, buffers of
    both kinds, a tensor with an attribute, and attributes that are no part of the state."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.layers = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), None])
        self.tied = self.layers[0][0]
        self.scale = torch.nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("passing", torch.arange(5), persistent=False)
        self.kept.origin = "an attribute"
        self.act = torch.nn.functional.gelu
        self.options = argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("runs"))
        self.kind = torch.float16


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
    yield "module", Net().bfloat16()
    beside = {
        "model": torch.nn.DataParallel(Net()), "args": argparse.Namespace(lr=0.1, milestones=[91, 136]), "best": np.float64(0.5),
        "rng": np.random.RandomState(0).get_state(), "hook": functools.partial(print, end=""), "counts": collections.defaultdict(int, a=1),
        "sparse": torch.eye(2).to_sparse(),
    }
    beside["foreign"] = [
        torch.zeros(3).to(getattr(torch, t)) for t in ("complex64", "complex128", "uint16", "float8_e4m3fn") if hasattr(torch, t)
    ] + [torch.quantize_per_tensor(torch.zeros(5), 0.1, 0, t) for t in (torch.qint8, torch.quint8, torch.qint32)]
    beside["numpy"] = [
        np.float16(1.5), np.uint64(2**64 - 1), np.str_("a"), np.complex64(1j), np.longdouble(1), np.datetime64("2020-01-01"),
        np.array(["cat", "dog"]), np.array([b"a"]), np.array([None, 1]), np.zeros(2, [("a", "f4")]), np.arange(3, dtype=">i4"),
        np.matrix([[1, 2]]), np.ma.masked_array([1, 2]),
    ]
    yield "beside", beside
    compiled = {f"_orig_mod.module.{k}": v for k, v in net.state_dict().items()}
    yield "compiled", {"state_dict": compiled, "arch": "resnet18", "args": argparse.Namespace(lr=0.1)}


def arrays():
    """Arrays of every type, in both orders, of no and of one element."""
    base = np.arange(24).reshape(2, 3, 4)
    out = {str(np.dtype(t)): base.astype(t) for t in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
    return out | {
        "fc.weight": np.asfortranarray(base.astype("f4")), "scalar": np.float32(7), "line": np.arange(3), "empty": np.zeros((0, 3)),
        "every/other": base[:, ::2],
    }


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).view(np.shape(array))


def make_saved(folder):
    """Writes the files of torch.save and returns their fingerprints."""
    # The stream holds the source of each class and the path of its file.
    torch.serialization.get_source_lines_and_file = lambda cls: ([f"class {cls.__name__}:\n", "    ...\n"], 1, "net.py")
    expect = {}
    for name, state in checkpoints():
        torch.save(state, folder / f"{name}.pt")
        expect[f"{name}.pt"] = fingerprint(bare(state))
        torch.save(state, folder / f"{name}.legacy.pt", _use_new_zipfile_serialization=False)
        expect[f"{name}.legacy.pt"] = fingerprint(bare(state))
    return expect


def make_others(folder, pickles):
    """Writes all other files and returns the fingerprints of those that hold tensors."""
    expect = {}
    weights = dict(checkpoints())["compiled"]["state_dict"]
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in weights.values())}, "weight_map": {}}
    for i, part in enumerate((sorted(weights)[:4], sorted(weights)[4:]), 1):
        shard = f"sharded-{i:05}-of-00002.safetensors"
        save_file({k: weights[k] for k in part}, folder / shard, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, shard)
    (folder / "sharded.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    expect["sharded.safetensors.index.json"] = fingerprint(bare(weights))
    for name, save in (("arrays", np.savez), ("packed", np.savez_compressed)):
        save(folder / f"{name}.npz", **arrays())
        expect[f"{name}.npz"] = fingerprint({k: tensor(v) for k, v in arrays().items()})
    batch = {
        b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [3, 9], b"filenames": [b"a.png", b"b\xff.png"],
        "mean": np.array([[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]], dtype=np.float32, order="F"), "best": np.float64(0.25),
        "set": {1}, "order": collections.OrderedDict(a=1), "big": 1 << 70, "none": None, "minus": -129, "yes": True,
        "text": "für\n\U0001F600", "tuple": (1, (2.5,), "x", b"y"),
    }
    for protocol in range(6):
        (pickles / f"batch{protocol}.pkl").write_bytes(pickle.dumps(batch, protocol))
    return expect


out = pathlib.Path(sys.argv[1])
fingerprints = make_saved(out)
if sys.argv[2] != "-":
    fingerprints |= make_others(out, pathlib.Path(sys.argv[2]))
(out / "expect.json").write_text(json.dumps(fingerprints, indent=1) + "\n")
for path in sys.argv[3:]:
    if path.endswith(".npz"):
        print(fingerprint({k: tensor(v) for k, v in np.load(path).items()}))
    else:
        print(fingerprint(bare(torch.load(path, weights_only=True))))
