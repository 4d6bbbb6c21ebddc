"""Writes meta.mat, in the form of the file in ImageNet's development kit, with three classes and a synset above them.

Needs scipy 1.17.1. It also prints what legacyPermutation is compared with.
"""

import pathlib

import numpy as np
import scipy.io

fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"]
rows = [  # numbers in kinds that MATLAB chooses by their size
    (np.uint8(1), "n03", "kit fox, Vulpes macrotis", "small grey fox", 0, [], 0, 1300),
    (2.0, "n01", "English setter", "an English breed", 0, [], 0, 1300),
    (np.uint16(300), "n02", "Siberian husky", "breed of sled dog", 0, [], 0, 1300),
    (np.int32(1001), "n99", "dog", "a member of the genus", 2, [2, 300], 1, 0),
]
synsets = np.array([tuple(np.array(v) if isinstance(v, list) else v for v in row) for row in rows], dtype=[(f, object) for f in fields])
scipy.io.savemat(pathlib.Path(__file__).parent / "meta.mat", {"synsets": synsets.reshape(-1, 1)}, do_compression=True)

for n in (1, 2, 10, 23708):
    order = np.random.RandomState(0).permutation(n)
    print(n, order[:6].tolist(), order[-2:].tolist())

for labels, share in (([i * 7 % 5 % 3 for i in range(60)], 0.1), ([i % 10 for i in range(50000)], 0.1)):
    of, rng = np.array(labels), np.random.RandomState(1)
    drawn = [rng.choice(m, int(share * len(m)), replace=False) for m in (np.where(of == c)[0] for c in range(max(of) + 1))]
    drawn = np.sort(np.hstack(drawn))
    print(len(drawn), drawn[:5].tolist(), drawn.sum())
