"""boxes:FOLDER or boxes:IMAGES,FILE.json, images with boxes of objects: Pascal VOC's layout, or COCO's.

FOLDER holds JPEGImages/ and Annotations/ with NAME.xml; ImageSets/Main/SPLIT.txt lists names, one file for
each split. The scored split is the first there is of trainval, val, train and test. Without these lists every
annotated image is in the split `all`. Corners of VOC count pixels from 1, and the last one is inside: 1 is
taken off xmin and ymin. Difficult and truncated objects count as others.
FILE.json has COCO's `images` and `annotations`, whose boxes are x, y, width and height; corners are rounded
to whole pixels, and crowds (`iscrowd`) are left out. Its images are the split `all`.

Source: valeoai/LOST, datasets.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import EXTENSIONS, ImageFiles, file_rows, fingerprint
from ssleval.datasets.published import read_json, read_lines
from ssleval.errors import ConfigError, DataError

Boxes: TypeAlias = Float[np.ndarray, "_ 4"]
"""Left, top, right and bottom of every object, in pixels; the last two exclusive."""
_SPLITS = ("test", "train", "val", "trainval")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LONGEST = 1 << 20
"""Bytes of an annotation; the largest of VOC has 20,000."""


@datasets.register("boxes")
def boxes(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder in VOC's layout, or images with a JSON file in COCO's."""
    images, comma, table = location.rpartition(",")
    if comma and table.endswith(".json"):
        return _dataset(
            location, {"all": _coco(Path(images).expanduser(), Path(table).expanduser())}, options
        )
    root = Path(location).expanduser()
    if not location or not (root / "Annotations").is_dir():
        raise ConfigError(
            f"boxes:{location}: write boxes:FOLDER, which holds JPEGImages/ and Annotations/, or "
            "boxes:IMAGES,FILE.json"
        )
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in _SPLITS}
    names = {
        name: [line.split()[0] for line in read_lines(path)] for name, path in lists.items() if path.is_file()
    }
    if not names:
        names = {"all": sorted(path.stem for path in (root / "Annotations").glob("*.xml"))}
    return _dataset(location, {split: _voc(root, listed) for split, listed in names.items()}, options)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The images of a split, and what reads their boxes."""

    root: Path
    paths: Sequence[str]
    boxes: Callable[[], list[Boxes]]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Gives the boxes of image i; can be pickled."""

    boxes: list[Boxes]

    def __call__(self, index: int) -> Boxes:
        return self.boxes[index]


def _dataset(location: str, listed: Mapping[str, _Listed], options: DatasetOptions) -> Dataset:
    for split, found in listed.items():
        if not found.paths:
            raise DataError(f"boxes:{location}: no image in {split}")

    def open_split(split: str) -> Split:
        found = listed[split]
        targets = found.boxes()
        files = file_rows(found.root, found.paths, full_hash=options.full_hash)
        marks = ([*row, target.tolist()] for row, target in zip(files, targets, strict=True))
        return Split(
            found.paths, ImageFiles(found.root, found.paths), None, fingerprint(marks), _Rows(targets)
        )

    lengths = {split: len(found.paths) for split, found in listed.items()}
    card = DatasetCard(
        f"boxes:{location}", "boxes", lengths=lengths, test_split=list(lengths)[-1], source=location
    )
    return Dataset(card, open_split)


def _voc(root: Path, names: Sequence[str]) -> _Listed:
    """Return the images of VOC's layout that have these names."""
    folder = root / "JPEGImages"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the images of Annotations/ are looked for there")
    file_of = {path.stem: path.name for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS}
    if absent := [name for name in names if name not in file_of]:
        raise DataError(f"{folder}: no image {absent[0]} ({len(absent)} such names)")
    files = [root / "Annotations" / f"{name}.xml" for name in names]
    return _Listed(folder, [file_of[name] for name in names], lambda: [_annotated(path) for path in files])


def _annotated(path: Path) -> Boxes:
    """Return the boxes of an annotation of VOC."""
    try:
        content = path.read_bytes()
        if len(content) > _LONGEST or b"<!" in content:
            raise DataError(f"{path}: no annotation of VOC: too long, or with declarations")
        objects = ElementTree.fromstring(content).findall("object")
        rows = [[float(one.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS] for one in objects]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; every image needs an annotation of its name") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: no annotation of VOC ({error})") from error
    return _checked(np.array(rows).reshape(-1, 4) - (1, 1, 0, 0), str(path))


def _coco(folder: Path, table: Path) -> _Listed:
    """Return the images of a file of COCO, in its order."""
    content = read_json(table)
    try:
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        rows: dict[Any, list[list[float]]] = {number: [] for number in names}
        for entry in content["annotations"]:
            if entry["image_id"] not in rows:
                raise DataError(
                    f"{table}: an annotation is of image {entry['image_id']}, which is not listed"
                )
            if not entry.get("iscrowd"):
                x, y, width, height = map(float, entry["bbox"])
                rows[entry["image_id"]].append([x, y, x + width, y + height])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{table}: no annotations of COCO ({error!r})") from error
    found = [
        _checked(np.round(np.array(row).reshape(-1, 4)), f"{table}: {names[number]}")
        for number, row in rows.items()
    ]
    return _Listed(folder, list(names.values()), lambda: found)


def _checked(found: Boxes, where: str) -> Boxes:
    if not all(map(isfinite, found.reshape(-1))) or (found[:, 2:] < found[:, :2]).any():
        raise DataError(f"{where}: a box that ends before it begins")
    return found
