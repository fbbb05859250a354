"""Objects in images as Pascal VOC and COCO annotate them: boxes of classes, and outlines if there are any."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssleval.core import Split, digest
from ssleval.core.targets import Objects
from ssleval.datasets.files.images import ImageFiles, file_rows, fingerprint, header
from ssleval.datasets.files.places import leads_out
from ssleval.datasets.published import read_json
from ssleval.errors import DataError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LONGEST = 1 << 20
"""Bytes of an annotation of VOC; the largest has 20,000."""
_LARGEST = 1 << 32
"""Bytes of the masks of one image."""
_OUTSIDE = 2.0
"""Pixels by which boxes may leave the image: sets round."""


class Annotation(NamedTuple):
    """The objects of one image, one a row."""

    boxes: Float[np.ndarray, "_ 4"]
    """Left, top, right and bottom in pixels; the last two exclusive."""
    names: Sequence[str]
    """Their classes; '' where the set has none."""
    difficult: Sequence[bool]
    crowd: Sequence[bool]
    outlines: Sequence[Any] | None = None
    """COCO's polygons or runs of pixels; None where an object that counts has none."""


@dataclass(frozen=True, slots=True)
class ObjectFiles:
    """Gives the objects in the i-th image of a list; can be pickled."""

    images: ImageFiles
    annotations: Sequence[Annotation]
    classes: Mapping[str, int]

    def __call__(self, index: int) -> Objects:
        """Return the objects of image ``index``; DataError where one is not in it."""
        path, found = self.images.path(index), self.annotations[index]
        with header(path, str(path)) as (image, _):
            width, height = image.size
        ends = np.array([width, height, width, height]) + _OUTSIDE
        if ((found.boxes < -_OUTSIDE) | (found.boxes > ends)).any():
            raise DataError(f"{path}: a box leaves the image of {width}x{height}; was it resized or turned?")
        labels = np.array([self.classes[name] if self.classes else 0 for name in found.names], np.int64)
        difficult, crowd = (np.array(part, bool) for part in (found.difficult, found.crowd))
        size = height, width
        masks = None if found.outlines is None else _masks(found.outlines, size, str(path))
        return Objects(size, found.boxes, labels, difficult, crowd, masks)


def object_split(
    root: Path,
    paths: Sequence[str],
    annotations: Sequence[Annotation],
    names: Sequence[str],
    *,
    full_hash: bool,
) -> Split:
    """Return the split of images below ``root`` with their objects; classes are ``names`` in label order."""
    images, classes = ImageFiles(root, paths), {name: label for label, name in enumerate(names)}
    for path, one in zip(paths, annotations, strict=True):
        if classes and (odd := set(one.names) - classes.keys()):
            raise DataError(f"{root / path}: an object of class {min(odd)!r}; the set has no such class")
    files = file_rows(root, paths, full_hash=full_hash)
    content = ([one.boxes.tolist(), *one[1:4], digest(one.outlines)] for one in annotations)
    marks = ([*row, *part] for row, part in zip(files, content, strict=True))
    return Split(paths, images, None, fingerprint(marks), ObjectFiles(images, annotations, classes))


def read_voc(path: Path) -> Annotation:
    """Return an annotation of VOC, whose corners count pixels from 1, the last one inside."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
        # In UTF-16, every second byte of a declaration is 0.
        if len(content) > _LONGEST or b"<!" in content or b"\0" in content:
            raise DataError(f"{path}: no annotation of VOC: too long, with declarations, or not in UTF-8")
        objects = ElementTree.fromstring(content).findall("object")
        rows = [[float(one.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS] for one in objects]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; every image needs an annotation of its name") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: no annotation of VOC ({error})") from error
    boxes = checked(np.array(rows).reshape(-1, 4) - (1, 1, 0, 0), str(path))
    names = [one.findtext("name", "").strip() for one in objects]
    if not all(names):
        raise DataError(f"{path}: no annotation of VOC: an object without a name")
    difficult = [one.findtext("difficult", "0").strip() == "1" for one in objects]
    return Annotation(boxes, names, difficult, [False] * len(names))


class CocoTable(NamedTuple):
    """The content of a file of COCO."""

    files: list[str]
    annotations: list[Annotation]
    names: tuple[str, ...]
    """Of the categories, by id."""


def read_coco(table: Path) -> CocoTable:
    """Return the images of a file of COCO, in its order, with their objects."""
    content = read_json(table)
    try:
        names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        _refuse_odd_files(table, [*names.values()], len(content["images"]))
        categories = {entry["id"]: str(entry["name"]) for entry in content.get("categories", ())}
        rows: dict[Any, list[dict[str, Any]]] = {number: [] for number in names}
        for entry in content["annotations"]:
            if entry["image_id"] not in rows:
                raise DataError(
                    f"{table}: an annotation is of image {entry['image_id']}, which is not listed"
                )
            rows[entry["image_id"]].append(entry)
        classes = tuple(categories[number] for number in sorted(categories))
        if len(set(classes)) < len(classes):
            raise DataError(f"{table}: two categories have one name")
        found = [_of_coco(row, categories, f"{table}: {names[number]}") for number, row in rows.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{table}: no annotations of COCO ({error!r})") from error
    if any(one.outlines is None for one in found):
        found = [one._replace(outlines=None) for one in found]
    return CocoTable(list(names.values()), found, classes)


def _refuse_odd_files(table: Path, names: Sequence[str], listed: int) -> None:
    if len(names) < listed or len(set(map(PurePosixPath, names))) < listed:
        raise DataError(f"{table}: two images have one id or one file_name")
    for name in names:
        if leads_out(name):
            raise DataError(f"{table}: file_name {name} leads out of the folder of the images")


def _of_coco(rows: Sequence[Mapping[str, Any]], categories: Mapping[Any, str], where: str) -> Annotation:
    sides = np.array([[float(side) for side in row["bbox"]] for row in rows]).reshape(-1, 4)
    boxes = checked(np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1), where)
    names = [categories[row["category_id"]] if categories else "" for row in rows]
    crowd = [bool(row.get("iscrowd")) for row in rows]
    outlines = [row.get("segmentation") for row in rows]
    return Annotation(boxes, names, [False] * len(rows), crowd, outlines if all(outlines) else None)


def checked(boxes: Float[np.ndarray, "_ 4"], where: str) -> Float[np.ndarray, "_ 4"]:
    """Return boxes; DataError where one ends before it begins, or is none."""
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise DataError(f"{where}: a box that ends before it begins")
    return boxes


def _masks(outlines: Sequence[Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "m H W"]:
    if len(outlines) * math.prod(size) > _LARGEST:
        raise DataError(f"{where}: masks of {len(outlines):,} objects in {size[1]}x{size[0]} exceed 4 GiB")
    masks = np.zeros((len(outlines), *size), bool)
    for mask, outline in zip(masks, outlines, strict=True):
        try:
            encoded = _runs(outline, size)
            mask[:] = _decoded(encoded)
        except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
            raise DataError(f"{where}: an outline that is none of COCO's ({error})") from error
    return masks


def _decoded(encoded: Any) -> UInt8[np.ndarray, "H W"]:
    runs: Any = import_module("pycocotools.mask")

    # NumPy 2 says of its arrays what a later one will refuse.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        mask = runs.decode(encoded)
    # What too few runs leave of the image, pycocotools does not set.
    if runs.encode(np.asfortranarray(mask))["counts"] != encoded["counts"]:
        raise ValueError("its runs do not fill the image, or are not as pycocotools writes them")
    return mask


def _runs(outline: Any, size: tuple[int, int]) -> Any:
    """Return an outline as compressed runs of pixels."""
    runs: Any = import_module("pycocotools.mask")

    if not isinstance(outline, dict):
        far = 2 * sum(size)
        for part in outline:
            if len(part) < 6 or len(part) % 2 or not all(-far <= float(one) <= far for one in part):
                raise ValueError("a polygon of too few points, or far outside")
        return runs.merge(runs.frPyObjects([list(map(float, part)) for part in outline], *size))
    if tuple(outline["size"]) != size:
        raise ValueError(f"of {outline['size']} rows and columns for an image of {list(size)}")
    counts = outline["counts"]
    if isinstance(counts, list):
        if any(not isinstance(one, int) or one < 0 for one in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError("its runs do not fill the image")
        return runs.frPyObjects(outline, *size)
    return {"size": list(size), "counts": counts.encode()}
