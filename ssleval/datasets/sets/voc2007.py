"""Pascal VOC 2007 classification: which of 20 classes are in the picture.

A class is present if one of its objects is not marked difficult (1 in ImageSets/Main). Images in which all
its objects are difficult (0) count as images without it; the scorer of the challenge left them out.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, published, read_lines
from ssleval.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

CARD = DatasetCard(
    name="voc2007",
    target="multilabel",
    class_names=CLASSES,
    classes=20,
    lengths={"train": 2_501, "val": 2_510, "trainval": 5_011, "test": 4_952},
    train_split="trainval",
    metric="map",
    license="Flickr terms of use, per image",
    source="Everingham et al. 2010, http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ (900 MB, trainval and "
    "annotated test): VOCdevkit/VOC2007/ in voc2007/",
)


@published(CARD)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Main, one for each class and split."""
    base = root / "VOCdevkit" / "VOC2007"
    lists = base / "ImageSets" / "Main"

    def open_split(split: str) -> Split:
        images = [line.split()[0] for line in read_lines(lists / f"{split}.txt")]
        columns = [_present(lists / f"{name}_{split}.txt", images) for name in CLASSES]
        paths = [f"JPEGImages/{image}.jpg" for image in images]
        return file_split(base, paths, np.stack(columns, axis=1), full_hash=options.full_hash)

    return Copy(CLASSES, open_split)


def _present(listed: Path, images: list[str]) -> Bool[np.ndarray, " n"]:
    rows = [line.split() for line in read_lines(listed)]
    if [row[0] for row in rows] != images:
        raise DataError(f"{listed}: lists other images than its split; the copy is damaged")
    return np.array([int(row[1]) == 1 for row in rows])
