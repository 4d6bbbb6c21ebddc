"""Writes small files in the formats of unlearn/data, by the tools that make the real ones, and datasets.json: what the libraries
that people read them with in Python make of them.

    python datasets.py

Needs numpy 2.4.6, torchvision 0.26.0, Pillow 13.0.0, scipy 1.17.1 and pyarrow 26.0.1 beside torch.
"""

import gzip
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import torchvision.datasets as tv
from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "unlearn/data/testdata"


def drawn(n, *shape):
    """n different images that compress well."""
    i = np.arange(n * int(np.prod(shape)), dtype=np.int64).reshape(n, *shape)
    return ((i * 7 // 5 + i // 37 * 11) & 0xF0).astype(np.uint8)


def described(pairs):
    """What a sequence of images and labels is, as the tests compare it."""
    images, labels = zip(*((np.asarray(image.convert("RGB")), int(label)) for image, label in pairs))
    planes = [np.ascontiguousarray(i.transpose(2, 0, 1)) for i in images]
    return {"labels": labels, "size": images[0].shape[:2], "pixels": [hashlib.sha256(p).hexdigest() for p in planes]}


def folder(name):
    path = OUT / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def idx():
    """MNIST's, which torchvision reads from MNIST/raw."""
    at = folder("idx")
    for stem, n in (("train", 4), ("t10k", 2)):
        images, labels = drawn(n, 28, 28), np.arange(n, dtype=np.uint8) * 3 % 10
        (at / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, n, 28, 28) + images.tobytes())
        (at / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + labels.tobytes())

    class Here(tv.MNIST):
        raw_folder = str(at)

    return {split: described(Here(str(at), train=split == "train")) for split in ("train", "test")}


def svhn():
    at = folder("svhn")
    for split, n, y, packed in (("train", 3, np.array([[1], [10], [7]], np.uint8), True), ("test", 3, np.array([[10.0], [3.0], [9.0]]), False)):
        scipy.io.savemat(at / f"{split}_32x32.mat", {"X": drawn(n, 3, 32, 32).transpose(3, 2, 1, 0), "y": y}, do_compression=packed)

    class Here(tv.SVHN):
        def _check_integrity(self):  # the sums are those of the real files
            return True

    return {split: described(Here(str(at), split=split)) for split in ("train", "test")}


def stl10(scratch):
    at = folder("stl10")
    base = scratch / "stl10_binary"
    base.mkdir()
    for split, y in (("test", [10, 1]), ("train", [4, 2])):
        (base / f"{split}_X.bin").write_bytes(drawn(2, 3, 96, 96).tobytes())
        (base / f"{split}_y.bin").write_bytes(bytes(y))
    with open(at / "stl10_binary.tar.gz", "wb") as f, gzip.GzipFile("", "wb", mtime=0, fileobj=f) as z, tarfile.open(fileobj=z, mode="w") as t:
        for file in sorted(base.iterdir()):
            add(t, f"stl10_binary/{file.name}", file.read_bytes())

    class Here(tv.STL10):
        def _check_integrity(self):
            return True

    return {split: described(Here(str(scratch), split=split)) for split in ("train", "test")}


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def coded(image, form):
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, quality=90)
    return out.getvalue()


def images(n):
    """Coded images of one size and labels, the first a JPEG, the next a PNG."""
    return [(coded(image, ("JPEG", "PNG")[i % 2]), 5 * i % 7, ("jpg", "png")[i % 2]) for i, image in enumerate(drawn(n, 12, 10, 3))]


def opened(samples):
    return described((Image.open(io.BytesIO(content)), label) for content, label, _ in samples)


def webdataset():
    """Shards as tar and the writers of the webdataset library make them: the files of a sample one after the other."""
    at = folder("webdataset")
    samples = images(7)
    for shard, part in enumerate((samples[:3], samples[3:])):
        with tarfile.open(at / f"small-train-{shard:03d}.tar", "w", format=tarfile.PAX_FORMAT) as t:
            for i, (content, label, suffix) in enumerate(part):
                add(t, f"dir/{shard}{i:04d}.{suffix}", content)
                add(t, f"dir/{shard}{i:04d}.cls", str(label).encode())
    test = images(2)
    with tarfile.open(at / "small-validation-000.tar", "w", format=tarfile.GNU_FORMAT) as t:
        for i, (content, label, suffix) in enumerate(test):
            add(t, f"{i:06d}.json", json.dumps({"label": label, "text": "ü"}).encode())
            add(t, f"{i:06d}.{suffix}", content)
    return {"train": opened(samples), "test": opened(test)}


def parquet():
    """As the datasets library pushes them to the hub: a struct of bytes and path, and the class names in the metadata."""
    at = folder("parquet/data")
    samples = images(7)
    names = [f"class {i}" for i in range(7)]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("label", pa.int64())], {"huggingface": json.dumps({"info": {"features": features}})})

    def write(name, part, rows, **options):
        columns = [[{"bytes": content, "path": f"{i}.{suffix}"} for i, (content, _, suffix) in enumerate(part)], [label for _, label, _ in part]]
        pq.write_table(pa.table(columns, schema=schema), at / name, row_group_size=rows, **options)

    write("train-00000-of-00002.parquet", samples[:4], 2, compression="snappy")
    write("train-00001-of-00002.parquet", samples[4:], 100, compression="zstd", write_page_index=True)
    test = images(2)
    write("test-00000-of-00001.parquet", test, 100, compression="none", use_dictionary=False)
    return {"train": opened(samples), "test": opened(test)}


def main():
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        values = {"mnist": idx(), "svhn": svhn(), "stl10": stl10(Path(scratch)), "webdataset": webdataset(), "parquet": parquet()}
    text = json.dumps(values, indent=1)
    (OUT / "datasets.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
