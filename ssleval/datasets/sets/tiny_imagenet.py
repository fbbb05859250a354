"""Tiny ImageNet: 200 classes of ImageNet-1k at 64 pixels, as cs231n's archive unpacks.

Classes are WordNet ids, sorted. Training images lie in train/WNID/images/ beside a list of boxes; validation
images lie loose in val/images/, their classes in val_annotations.txt. Labels of the test images are not
public.
"""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import class_files, class_folders, file_split
from ssleval.datasets.published import Copy, first_folder, published, read_lines
from ssleval.errors import DataError

CARD = DatasetCard(
    name="tiny_imagenet",
    classes=200,
    lengths={"train": 100_000, "val": 10_000},
    test_split="val",
    license="ImageNet's: non-commercial research",
    source="Le and Yang 2015, http://cs231n.stanford.edu/tiny-imagenet-200.zip (237 MB): "
    "tiny-imagenet-200/ in tiny_imagenet/",
)


@published(
    CARD,
    "tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG",
    "tiny-imagenet-200/val/images/val_0.JPEG",
    "tiny-imagenet-200/val/val_annotations.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the folders of train/ and the list of val/."""
    base = first_folder(root, ("tiny-imagenet-200", "."), "train", "val")
    names = class_folders(base / "train")
    listed = base / "val" / "val_annotations.txt"

    def open_split(split: str) -> Split:
        if split == "train":
            paths, labels = class_files(base, [f"train/{name}/images" for name in names])
            return file_split(base, paths, labels, full_hash=options.full_hash)
        # IMAGE WNID and a box, with tabs between them.
        rows = [line.split() for line in read_lines(listed)]
        if unknown := sorted({row[1] for row in rows} - set(names)):
            raise DataError(f"{listed}: classes absent from train/: {', '.join(unknown[:5])}")
        labels = np.array([names.index(row[1]) for row in rows], np.int64)
        return file_split(base, [f"val/images/{row[0]}" for row in rows], labels, full_hash=options.full_hash)

    return Copy(names, open_split)
