"""boxes:FOLDER or boxes:IMAGES,FILE.json, images with boxes of objects: Pascal VOC's layout, or COCO's.

VOC: FOLDER holds JPEGImages/ and Annotations/ with NAME.xml; ImageSets/Main/SPLIT.txt lists names, one file
for each split. Without these lists every annotated image is in the split `all`. Corners count pixels from 1,
and the last one is inside: 1 is taken off xmin and ymin. Classes are the names of objects, sorted.
COCO: FOLDER holds annotations/instances_NAME.json with the images in NAME/ or images/NAME/, or
NAME/_annotations.coco.json beside the images. NAME is train, val (or valid) or test, perhaps with a year.
IMAGES,FILE.json is one such file, whose images are the split `all`. Where all objects have outlines
(`segmentation`), they have masks. Classes are the `categories`, by id.
The scored split is the first there is of trainval, val, train and test in VOC's layout, of test, val and
train in COCO's.

Source: valeoai/LOST, datasets.py (corners); cocodataset.org/#format-data.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ssleval.core import Dataset, DatasetCard, DatasetOptions, datasets
from ssleval.datasets.files.images import EXTENSIONS
from ssleval.datasets.files.objects import Annotation, object_split, read_coco, read_voc
from ssleval.datasets.published import read_lines
from ssleval.errors import ConfigError, DataError

_VOC = ("test", "train", "val", "trainval")
_COCO = ("train", "val", "test")
_NAMED = re.compile(r"(train|val|test)(?:id)?[0-9]*")


class _Listed(NamedTuple):
    root: Path
    paths: Sequence[str]
    annotations: Sequence[Annotation]


@datasets.register("boxes")
def boxes(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder in VOC's layout or in COCO's, or images with a JSON file in COCO's."""
    images, comma, table = location.rpartition(",")
    if comma and table.endswith(".json"):
        return _coco(location, {"all": (Path(images).expanduser(), Path(table).expanduser())}, options)
    root = Path(location).expanduser()
    if location and (root / "Annotations").is_dir():
        return _voc(location, root, options)
    tables = _tables(root) if location and root.is_dir() else {}
    if not tables:
        raise ConfigError(
            f"boxes:{location}: write boxes:FOLDER, which holds JPEGImages/ and Annotations/ (VOC), or "
            "annotations/instances_train.json and train/ (COCO), or boxes:IMAGES,FILE.json"
        )
    return _coco(location, {split: tables[split] for split in _COCO if split in tables}, options)


def _tables(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folder of images and the file of every split in COCO's layout."""
    found: dict[str, tuple[Path, Path]] = {}
    beside = [(path.parent.name, path) for path in sorted(root.glob("*/_annotations.coco.json"))]
    apart = [
        (path.stem.partition("_")[2], path) for path in sorted(root.glob("annotations/instances_*.json"))
    ]
    for name, table in [*beside, *apart]:
        if not (split := _NAMED.fullmatch(name.replace("valid", "val"))):
            continue
        if split[1] in found:
            raise DataError(f"{root}: {found[split[1]][1].name} and {table.name} are one split; keep one")
        folder = next((path for path in (root / name, root / "images" / name) if path.is_dir()), None)
        if folder is None:
            raise DataError(f"{root}: no folder {name} or images/{name} with the images of {table.name}")
        found[split[1]] = folder, table
    return found


def _coco(location: str, tables: Mapping[str, tuple[Path, Path]], options: DatasetOptions) -> Dataset:
    read = {split: (folder, read_coco(table)) for split, (folder, table) in tables.items()}
    listed = {split: _Listed(folder, one.files, one.annotations) for split, (folder, one) in read.items()}
    (first, names), *others = ((split, one.names) for split, (_, one) in read.items())
    for split, other in others:
        if other != names:
            raise DataError(f"boxes:{location}: {first} and {split} have different categories")
    return _dataset(location, listed, names, options)


def _voc(location: str, root: Path, options: DatasetOptions) -> Dataset:
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _VOC}
    named = {
        name: [line.split()[0] for line in read_lines(path)] for name, path in lists.items() if path.is_file()
    }
    if not named:
        named = {"all": sorted(path.stem for path in (root / "Annotations").glob("*.xml"))}
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the images of Annotations/ are looked for there")
    file_of = {path.stem: path.name for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS}
    for names in named.values():
        if absent := [name for name in names if name not in file_of]:
            raise DataError(f"{folder}: no image {absent[0]} ({len(absent)} such names)")
    read = {name: read_voc(root / "Annotations" / f"{name}.xml") for name in set().union(*named.values())}
    listed = {
        split: _Listed(folder, [file_of[name] for name in names], [read[name] for name in names])
        for split, names in named.items()
    }
    classes = sorted({name for annotation in read.values() for name in annotation.names})
    return _dataset(location, listed, tuple(classes), options)


def _dataset(
    location: str, listed: Mapping[str, _Listed], classes: tuple[str, ...], options: DatasetOptions
) -> Dataset:
    for split, found in listed.items():
        if not found.paths:
            raise DataError(f"boxes:{location}: no image in {split}")
    lengths = {split: len(found.paths) for split, found in listed.items()}
    outlined = all(one.outlines is not None for found in listed.values() for one in found.annotations)
    target, scored = "objects" if outlined else "boxes", list(lengths)[-1]
    card = DatasetCard(
        f"boxes:{location}", target, classes, lengths=lengths, test_split=scored, source=location
    )
    return Dataset(card, lambda split: object_split(*listed[split], classes, full_hash=options.full_hash))
