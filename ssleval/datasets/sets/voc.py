"""Pascal VOC: 20 classes of 2007 in the picture; masks, boxes and objects of 2012, with a background.

`voc2007` is classification. A class is present (1) if one of its objects is not marked difficult, and absent
(0) if there is none. Where all its objects are difficult (0 in ImageSets/Main), its label is -1: the image
counts neither way when the class is scored, as in the development kit (VOCevalcls.m) and in VISSL, and heads
are fitted as without it, as in VISSL.

`voc2012` is segmentation; 255, the border of objects, is ignored. It has the 1,464 training images of the
challenge, `voc2012_aug` 10,582 with the masks of SBD (Hariharan et al. 2011), as in papers on frozen
backbones. Both are scored on the same 1,449 images. The training images of `voc2012_aug` are those of
trainaug.txt, names or pairs of paths, with masks in SegmentationClassAug/; or, as mmsegmentation leaves them
behind, those of train.txt with the challenge's masks, then those of aug.txt with masks in
SegmentationClassAug/. There, masks of the challenge may be missing; its own are taken.
`voc2012_detection` has the boxes of the challenge's 5,717 training and 5,823 validation images, difficult
objects marked as such. `voc2012_instances` has the objects of `voc2012` with their masks,
SegmentationObject/; an object is of the class that most of its pixels have in SegmentationClass/.
"""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from jaxtyping import Int8

from ssleval.core import IGNORED, DatasetCard, DatasetOptions, Split, digest
from ssleval.core.targets import Objects
from ssleval.datasets.files.dense import MaskFiles, mask_split, named_classes
from ssleval.datasets.files.images import file_split
from ssleval.datasets.files.objects import object_split, read_voc
from ssleval.datasets.published import Copy, first_folder, listed_in, published, read_lines
from ssleval.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
BACKGROUND = ("background", *CLASSES)

LISTS, OWN, SBD = "ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug"

Files: TypeAlias = tuple[list[str], list[str]]
"""Images and masks."""

CARD = DatasetCard(
    name="voc2012",
    target="mask",
    class_names=BACKGROUND,
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

BOXES = replace(
    CARD,
    name="voc2012_detection",
    target="boxes",
    class_names=CLASSES,
    classes=20,
    lengths={"train": 5_717, "val": 5_823},
    source=CARD.source.replace("in voc2012/", "in voc2012_detection/"),
)

INSTANCES = replace(
    BOXES,
    name="voc2012_instances",
    target="objects",
    lengths=CARD.lengths,
    source=CARD.source.replace("in voc2012/", "in voc2012_instances/"),
)

_PLACES = ("VOCdevkit/VOC2012", "VOC2012", ".")
_TREE = (
    "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg",
    "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
)


@published(CARD, *_TREE)
@published(
    AUGMENTED,
    *_TREE,
    "VOCdevkit/VOC2012/SegmentationClassAug/2008_000002.png",
    "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt (or aug.txt)",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Segmentation."""
    base = first_folder(root, _PLACES, "ImageSets", "JPEGImages")

    def open_split(split: str) -> Split:
        images, masks = _augmented(base) if split == "trainaug" else _challenge(base, split)
        return mask_split(base, images, masks, named_classes(len(BACKGROUND)), full_hash=options.full_hash)

    return Copy(BACKGROUND, open_split)


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


@published(
    BOXES,
    "VOCdevkit/VOC2012/JPEGImages/2008_000002.jpg",
    "VOCdevkit/VOC2012/Annotations/2008_000002.xml",
    "VOCdevkit/VOC2012/ImageSets/Main/train.txt",
    "VOCdevkit/VOC2012/ImageSets/Main/val.txt",
)
def read_boxes(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Main and the annotations."""
    base = first_folder(root, _PLACES, "ImageSets", "Annotations")

    def open_split(split: str) -> Split:
        names = read_lines(base / "ImageSets" / "Main" / f"{split}.txt")
        annotations = [read_voc(base / "Annotations" / f"{name}.xml") for name in names]
        images = [f"JPEGImages/{name}.jpg" for name in names]
        return object_split(base, images, annotations, CLASSES, full_hash=options.full_hash)

    return Copy(CLASSES, open_split)


@published(INSTANCES, *_TREE, "VOCdevkit/VOC2012/SegmentationObject/2007_000032.png")
def read_instances(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ImageSets/Segmentation and both kinds of masks."""
    base = first_folder(root, _PLACES, "ImageSets", "SegmentationObject")

    def open_split(split: str) -> Split:
        images, masks = _challenge(base, split)
        marks = [mask.replace(OWN, "SegmentationObject") for mask in masks]
        classes = mask_split(base, images, masks, named_classes(len(BACKGROUND)), full_hash=options.full_hash)
        numbers = mask_split(base, images, marks, named_classes(IGNORED), full_hash=options.full_hash)
        assert isinstance(classes.target, MaskFiles), "a split of masks reads files"
        assert isinstance(numbers.target, MaskFiles), "a split of masks reads files"
        mark = digest([classes.fingerprint, numbers.fingerprint])
        return replace(classes, fingerprint=mark, target=_Instances(numbers.target, classes.target))

    return Copy(CLASSES, open_split)


@dataclass(frozen=True, slots=True)
class _Instances:
    numbers: MaskFiles
    classes: MaskFiles

    def __call__(self, index: int) -> Objects:
        """Return the objects of image ``index``; DataError where one has no class."""
        numbers, classes = self.numbers(index), self.classes(index)
        shown = [number for number in np.unique(numbers).tolist() if number not in {0, IGNORED}]
        masks = numbers == np.array(shown, np.uint8).reshape(-1, 1, 1)
        counts = [np.bincount(classes[mask], minlength=256)[1 : len(BACKGROUND)] for mask in masks]
        if not all(count.any() for count in counts):
            raise DataError(f"{self.numbers.targets[index]}: an object that is background in {OWN}/")
        labels = np.array([count.argmax() for count in counts], np.int64)
        return Objects.of_masks(masks, labels, np.zeros(len(shown), bool))


# VOC 2007 -----------------------------------------------------------------------------------------

CARD_2007 = DatasetCard(
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
    CARD_2007,
    "VOCdevkit/VOC2007/JPEGImages/000001.jpg",
    "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt",
    "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_trainval.txt",
    "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt",
)
def read_2007(root: Path, options: DatasetOptions) -> Copy:
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
