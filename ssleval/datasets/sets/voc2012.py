"""Pascal VOC 2012 segmentation: background and 20 classes; 255, the border of objects, is ignored.

`voc2012` has the 1,464 training images of the challenge, `voc2012_aug` 10,582 with the masks of SBD
(Hariharan et al. 2011), as in papers on frozen backbones. Both are scored on the same 1,449 images.
"""

from dataclasses import replace
from pathlib import Path

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.dense import mask_split, named_classes
from ssleval.datasets.published import Copy, Published, read_lines

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

CARD = DatasetCard(
    name="voc2012",
    target="mask",
    class_names=CLASSES,
    classes=21,
    lengths={"train": 1_464, "val": 1_449},
    test_split="val",
    license="Flickr terms of use, per image",
    source="Everingham et al. 2010, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (2 GB): "
    "VOCdevkit/VOC2012/ in voc2012/",
)

AUGMENTED = replace(
    CARD,
    name="voc2012_aug",
    lengths={"trainaug": 10_582, "val": 1_449},
    train_split="trainaug",
    source=CARD.source.replace("in voc2012/", "in voc2012_aug/")
    + ", with SegmentationClassAug/ and ImageSets/Segmentation/trainaug.txt of SBD",
)


def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Segmentation."""
    base = root / "VOCdevkit" / "VOC2012"

    def open_split(split: str) -> Split:
        names = read_lines(base / "ImageSets" / "Segmentation" / f"{split}.txt")
        folder = "SegmentationClassAug" if split == "trainaug" else "SegmentationClass"
        images, masks = (
            [f"JPEGImages/{name}.jpg" for name in names],
            [f"{folder}/{name}.png" for name in names],
        )
        return mask_split(base, images, masks, named_classes(len(CLASSES)), full_hash=options.full_hash)

    return Copy(CLASSES, open_split)


datasets.register("voc2012")(Published(CARD, read))
datasets.register("voc2012_aug")(Published(AUGMENTED, read))
