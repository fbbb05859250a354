"""Cityscapes, fine annotations: 19 of 34 classes of German street scenes, 1024 x 2048.

Masks are the `labelIds` files. Ids become train ids; ids outside the 19 classes are ignored.
"""

from pathlib import Path

from ssleval.core import IGNORED, DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.dense import by_stem, mask_split
from ssleval.datasets.published import Copy, published
from ssleval.errors import DataError

TRAIN_IDS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Id in the files to name, in the order of train ids (labels.py of cityscapesScripts)."""

IDS = dict.fromkeys(range(34), IGNORED) | {value: train for train, value in enumerate(TRAIN_IDS)}

CARD = DatasetCard(
    name="cityscapes",
    target="mask",
    class_names=tuple(TRAIN_IDS.values()),
    classes=19,
    lengths={"train": 2_975, "val": 500},
    test_split="val",
    license="Cityscapes terms of use, non-commercial",
    source="Cordts et al. 2016, https://www.cityscapes-dataset.com/ (12 GB): leftImg8bit/ and gtFine/ in "
    "cityscapes/",
)


@published(
    CARD,
    "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
    "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read leftImg8bit/SPLIT/CITY and the masks of the same frames in gtFine."""

    def open_split(split: str) -> Split:
        images = list(by_stem(root, f"leftImg8bit/{split}").values())
        strays = [path for path in images if not path.endswith("_leftImg8bit.png")]
        if strays:
            raise DataError(f"{root / strays[0]}: expected CITY/..._leftImg8bit.png only; remove it")
        frames = [path.removesuffix("_leftImg8bit.png").removeprefix("leftImg8bit/") for path in images]
        masks = [f"gtFine/{frame}_gtFine_labelIds.png" for frame in frames]
        return mask_split(root, images, masks, IDS, full_hash=options.full_hash)

    return Copy(CARD.class_names, open_split)
