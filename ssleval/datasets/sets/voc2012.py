"""Pascal VOC 2012 segmentation: background and 20 classes; 255, the border of objects, is ignored.

`voc2012` has the 1,464 training images of the challenge, `voc2012_aug` 10,582 with the masks of SBD
(Hariharan et al. 2011), as in papers on frozen backbones. Both are scored on the same 1,449 images. The
training images of `voc2012_aug` are those of trainaug.txt, names or pairs of paths, with masks in
SegmentationClassAug/; or, as mmsegmentation leaves them behind, those of train.txt with the challenge's
masks, then those of aug.txt with masks in SegmentationClassAug/. There, masks of the challenge may be
missing; its own are taken.
"""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.dense import mask_split, named_classes
from ssleval.datasets.published import Copy, Published, first_folder, listed_in, read_lines

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

LISTS, OWN, SBD = "ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug"

Files: TypeAlias = tuple[list[str], list[str]]
"""Images and masks."""

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
    base = first_folder(root, ("VOCdevkit/VOC2012", "VOC2012", "."), "ImageSets", "JPEGImages")

    def open_split(split: str) -> Split:
        images, masks = _augmented(base) if split == "trainaug" else _challenge(base, split)
        return mask_split(base, images, masks, named_classes(len(CLASSES)), full_hash=options.full_hash)

    return Copy(CLASSES, open_split)


def _challenge(base: Path, split: str) -> Files:
    names = read_lines(base / LISTS / f"{split}.txt")
    return [f"JPEGImages/{name}.jpg" for name in names], [f"{OWN}/{name}.png" for name in names]


def _augmented(base: Path) -> Files:
    whole = listed_in(base / LISTS, "{split}.txt", "train_aug.txt", split="trainaug")
    if not whole.is_file() and (base / LISTS / "aug.txt").is_file():
        (images, masks), added = _challenge(base, "train"), read_lines(base / LISTS / "aug.txt")
        return (
            [*images, *(f"JPEGImages/{name}.jpg" for name in added)],
            [*masks, *(f"{SBD}/{name}.png" for name in added)],
        )
    # Lines are NAME, or /JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png.
    names = [PurePosixPath(line.split()[0]).stem for line in read_lines(whole)]
    masks = [f"{SBD}/{name}.png" for name in names]
    if absent := {row for row, mask in enumerate(masks) if not (base / mask).is_file()}:
        challenge = set(read_lines(base / LISTS / "train.txt"))
        masks = [
            f"{OWN}/{name}.png" if row in absent and name in challenge else masks[row]
            for row, name in enumerate(names)
        ]
    return [f"JPEGImages/{name}.jpg" for name in names], masks


_TREE = (
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg",
    "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
)
_MORE = (
    "VOCdevkit/VOC2012/SegmentationClassAug/2008_000002.png",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt (or aug.txt)",
)
datasets.register("voc2012")(Published(CARD, read, tree=_TREE))
datasets.register("voc2012_aug")(Published(AUGMENTED, read, tree=(*_TREE, *_MORE)))
