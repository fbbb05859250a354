"""COCO 2017 detection: boxes and masks of objects of 80 classes; crowds are marked as such."""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.objects import object_split, read_coco
from ssleval.datasets.published import Copy, first_folder, published
from ssleval.errors import DataError

CARD = DatasetCard(
    name="coco2017",
    target="objects",
    classes=80,
    lengths={"train": 118_287, "val": 5_000},
    test_split="val",
    license="annotations CC BY 4.0; Flickr terms of use, per image",
    source="Lin et al. 2014, https://cocodataset.org/#download (20 GB): train2017/, val2017/ and "
    "annotations/ in coco2017/",
)


@published(
    CARD,
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "train2017/000000000009.jpg",
    "val2017/000000000139.jpg",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the names of the classes; the objects of a split when it is opened."""
    base = first_folder(root, (".", "coco", "COCO"), "annotations", "val2017")
    names = read_coco(base / "annotations" / "instances_val2017.json").names

    def open_split(split: str) -> Split:
        table = base / "annotations" / f"instances_{split}2017.json"
        found = read_coco(table)
        if found.names != names:
            raise DataError(f"{table}: other categories than instances_val2017.json")
        if any(one.outlines is None for one in found.annotations):
            raise DataError(f"{table}: an object without outline (segmentation)")
        folder = base / f"{split}2017"
        return object_split(folder, found.files, found.annotations, names, full_hash=options.full_hash)

    return Copy(names, open_split)
