"""SPair-71k: 70,958 pairs of images of one category, with the key points that both images show.

Files are JPEGImages/CATEGORY/NAME.jpg, and PairAnnotation/{trn,val,test}/NAME.json for every pair, with
images, key points, boxes and category. ImageAnnotation repeats this for single images and is not read. A key
point is the centre of a pixel; boxes are left, top, right, bottom as published.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.core.targets import KeyPoints
from ssleval.datasets.files.images import ImageFiles, file_rows, fingerprint, is_stray
from ssleval.datasets.published import Copy, first_folder, published, read_json
from ssleval.errors import DataError

CATEGORIES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "train", "tvmonitor",
)  # fmt: skip

CARD = DatasetCard(
    name="spair71k",
    target="pairs",
    classes=len(CATEGORIES),
    lengths={"trn": 53_340, "val": 5_384, "test": 12_234},
    train_split="trn",
    license="not stated, images of PASCAL VOC and PASCAL 3D+",
    source="Min et al. 2019, arXiv:1908.10543, https://cvlab.postech.ac.kr/research/SPair-71k/ (227 MB): "
    "PairAnnotation/ and JPEGImages/ in spair71k/",
)

NEEDED = ("category", "src_imname", "trg_imname", "src_kps", "trg_kps", "trg_bndbox")


@dataclass(frozen=True, slots=True)
class _Pair:
    category: str
    images: tuple[str, str]
    """Paths below the root."""
    points: tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "k 2"]]
    """Key points of both images, at pixel centres."""
    box: tuple[float, float, float, float]


def _key_points(partners: ImageFiles, pairs: list[_Pair], index: int) -> KeyPoints:
    pair = pairs[index]
    category = CATEGORIES.index(pair.category)
    return KeyPoints(pair.images, partners(index), *pair.points, pair.box, category)


@published(
    CARD,
    "JPEGImages/aeroplane/2008_000251.jpg",
    "PairAnnotation/test/000001-2008_000585-2008_002221:aeroplane.json",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read one JSON file for every pair, in order of their names."""
    root = first_folder(root, (".", "SPair-71k"), "PairAnnotation")

    def open_split(split: str) -> Split:
        folder = root / "PairAnnotation" / split
        files = sorted(path for path in folder.glob("*.json") if not is_stray(path.name))
        if not files:
            raise DataError(f"{folder}: no annotations of pairs; the copy is incomplete")
        pairs = [_read(path) for path in files]
        names = sorted({name for pair in pairs for name in pair.images})
        rows = list(file_rows(root, names, full_hash=options.full_hash))
        rows += [
            [pair.category, *pair.images, *(points.tolist() for points in pair.points), list(pair.box)]
            for pair in pairs
        ]
        first, second = (ImageFiles(root, [pair.images[side] for pair in pairs]) for side in (0, 1))
        ids = [path.stem for path in files]
        return Split(ids, first, None, fingerprint(rows), partial(_key_points, second, pairs))

    return Copy(CATEGORIES, open_split)


def _read(path: Path) -> _Pair:
    entry: Any = read_json(path)
    missing = [name for name in NEEDED if not isinstance(entry, dict) or name not in entry]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; expected the annotation of a pair")
    category = entry["category"]
    if category not in CATEGORIES:
        raise DataError(f"{path}: {category!r} is no category of SPair-71k")
    source, target = (f"JPEGImages/{category}/{entry[name]}" for name in ("src_imname", "trg_imname"))
    first, second = (_numbers(path, name, entry[name], 2) for name in ("src_kps", "trg_kps"))
    if len(first) != len(second) or not len(first):
        raise DataError(f"{path}: {len(first)} and {len(second)} key points; expected as many of both")
    (box,) = _numbers(path, "trg_bndbox", [entry["trg_bndbox"]], 4)
    left, top, right, bottom = box.tolist()
    half = np.float32(0.5)
    return _Pair(category, (source, target), (first + half, second + half), (left, top, right, bottom))


def _numbers(path: Path, name: str, stated: Any, width: int) -> Float32[np.ndarray, "k w"]:
    try:
        numbers = np.array(stated, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {name} holds no numbers ({error})") from error
    if numbers.ndim != 2 or numbers.shape[1] != width or not np.isfinite(numbers).all():
        raise DataError(f"{path}: {name} is {stated}; expected {width} numbers each")
    return numbers
