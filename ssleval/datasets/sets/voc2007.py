"""Pascal VOC 2007 classification: which of 20 classes are in the picture.

A class is present (1) if one of its objects is not marked difficult, and absent (0) if there is none. Where
all its objects are difficult (0 in ImageSets/Main), its label is -1: the image counts neither way when the
class is scored, as in the development kit (VOCevalcls.m) and in VISSL, and heads are fitted as without it, as
in VISSL.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int8

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, first_folder, published, read_lines
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


@published(
    CARD,
    "VOCdevkit/VOC2007/JPEGImages/000001.jpg",
    "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt",
    "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_trainval.txt",
    "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Main, one for each class and split."""
    base = first_folder(root, ("VOCdevkit/VOC2007", "VOC2007", "."), "ImageSets", "JPEGImages")
    lists = base / "ImageSets" / "Main"

    def open_split(split: str) -> Split:
        images = [line.split()[0] for line in read_lines(lists / f"{split}.txt")]
        columns = [_present(lists / f"{name}_{split}.txt", images) for name in CLASSES]
        paths = [f"JPEGImages/{image}.jpg" for image in images]
        return file_split(base, paths, np.stack(columns, axis=1), full_hash=options.full_hash)

    return Copy(CLASSES, open_split)


_LABELS = {"1": 1, "-1": 0, "0": -1}
"""From ImageSets/Main to labels."""


def _present(listed: Path, images: list[str]) -> Int8[np.ndarray, " n"]:
    rows = [line.split() for line in read_lines(listed)]
    if [row[0] for row in rows] != images:
        raise DataError(f"{listed}: lists other images than its split; the copy is damaged")
    return np.array([_LABELS[row[1]] for row in rows], np.int8)
