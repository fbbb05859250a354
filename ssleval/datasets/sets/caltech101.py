"""Caltech-101: 101 object categories and a background class.

The field trains on 30 images of every class and tests on all others (3,060 and 6,084); nobody published which
30. Ours are fixed: 30 of each class's files, sorted by name, drawn with seed 0.
"""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import class_files, class_folders, file_split
from ssleval.datasets.published import Copy, first_folder, published
from ssleval.errors import DataError

TRAIN_PER_CLASS = 30

CARD = DatasetCard(
    name="caltech101",
    classes=102,
    lengths={"train": 3_060, "test": 6_084},
    metric="mean_per_class",
    license="CC-BY-4.0",
    source="Fei-Fei et al. 2004, doi 10.22002/D1.20086 (137 MB): 101_ObjectCategories/ in caltech101/, "
    "BACKGROUND_Google included",
)


@published(CARD, "101_ObjectCategories/CLASS/image_0001.jpg", downloads=True)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the class folders and draw the training images."""
    if options.download:
        from torchvision.datasets import Caltech101

        Caltech101(str(root.parent), download=True)
    base = first_folder(root, (".", "caltech-101"), "101_ObjectCategories") / "101_ObjectCategories"
    names = class_folders(base)
    paths, targets = class_files(base, names)
    # RandomState, not default_rng: NumPy promises never to change its stream.
    draw = np.random.RandomState(0)
    chosen: list[int] = []
    for label, name in enumerate(names):
        rows = np.flatnonzero(targets == label)
        if len(rows) <= TRAIN_PER_CLASS:
            raise DataError(f"{base / name}: {len(rows)} images, needs more than {TRAIN_PER_CLASS}")
        chosen += np.sort(draw.permutation(rows)[:TRAIN_PER_CLASS]).tolist()
    rows_of = {"train": np.array(chosen), "test": np.setdiff1d(np.arange(len(paths)), chosen)}

    def open_split(split: str) -> Split:
        rows = rows_of[split]
        return file_split(base, [paths[row] for row in rows], targets[rows], full_hash=options.full_hash)

    return Copy(names, open_split)
