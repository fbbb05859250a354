"""SPair-71k: 70,958 pairs of images of one category, with the key points that both show.

JPEGImages/CATEGORY/NAME.jpg and one file for every pair in PairAnnotation/{trn,val,test}/: NAME.json with
the images, their key points, boxes and category. ImageAnnotation says the same of single images and is not
read. Key points are pixels, whose centres are meant; boxes are left, top, right, bottom as published.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from PIL import Image

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.targets import KeyPoints
from ssleval.datasets.files.images import decode, file_rows, fingerprint
from ssleval.datasets.published import Copy, Published, read_json
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
    source="Min et al. 2019, arXiv:1908.10543, https://cvlab.postech.ac.kr/research/SPair-71k/: "
    "PairAnnotation/ and JPEGImages/ in spair71k/",
)

NEEDED = ("category", "src_imname", "trg_imname", "src_kps", "trg_kps", "trg_bndbox")


@dataclass(frozen=True, slots=True)
class _Pair:
    category: str
    images: tuple[str, str]
    """Paths below the root."""
    points: tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "k 2"]]
    """Of both images; the centres of the pixels that are meant."""
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class _Images:
    root: Path
    pairs: list[_Pair]

    def __call__(self, index: int) -> Image.Image:
        path = self.root / self.pairs[index].images[0]
        return decode(path, str(path))


@dataclass(frozen=True, slots=True)
class _Points:
    root: Path
    pairs: list[_Pair]

    def __call__(self, index: int) -> KeyPoints:
        pair = self.pairs[index]
        path = self.root / pair.images[1]
        return KeyPoints(
            names=pair.images,
            partner=decode(path, str(path)),
            points=pair.points[0],
            partner_points=pair.points[1],
            box=pair.box,
            category=CATEGORIES.index(pair.category),
        )


def read(root: Path, options: DatasetOptions) -> Copy:
    """Read one JSON file for every pair, in order of their names."""

    def open_split(split: str) -> Split:
        folder = root / "PairAnnotation" / split
        files = sorted(folder.glob("*.json"))
        if not files:
            raise DataError(f"{folder}: no annotations of pairs; the copy is incomplete")
        pairs = [_read(path) for path in files]
        names = sorted({name for pair in pairs for name in pair.images})
        rows = list(file_rows(root, names, full_hash=options.full_hash))
        rows += [
            [pair.category, *pair.images, *(points.tolist() for points in pair.points), list(pair.box)]
            for pair in pairs
        ]
        return Split(
            ids=[path.stem for path in files],
            image=_Images(root, pairs),
            targets=None,
            fingerprint=fingerprint(rows),
            target=_Points(root, pairs),
        )

    return Copy(CATEGORIES, open_split)


def _read(path: Path) -> _Pair:
    said: Any = read_json(path)
    missing = [name for name in NEEDED if name not in said]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; expected the annotation of a pair")
    category = said["category"]
    if category not in CATEGORIES:
        raise DataError(f"{path}: {category!r} is no category of SPair-71k")
    images = tuple(f"JPEGImages/{category}/{said[name]}" for name in ("src_imname", "trg_imname"))
    first, second = (_numbers(path, name, said[name], 2) for name in ("src_kps", "trg_kps"))
    if len(first) != len(second) or not len(first):
        raise DataError(f"{path}: {len(first)} and {len(second)} key points; expected as many of both")
    (box,) = _numbers(path, "trg_bndbox", [said["trg_bndbox"]], 4)
    left, top, right, bottom = box.tolist()
    half = np.float32(0.5)
    return _Pair(category, (images[0], images[1]), (first + half, second + half), (left, top, right, bottom))


def _numbers(path: Path, name: str, said: Any, width: int) -> Float32[np.ndarray, "k w"]:
    try:
        found = np.array(said, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {name} holds no numbers ({error})") from error
    if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
        raise DataError(f"{path}: {name} is {said}; expected {width} numbers each")
    return found


datasets.register("spair71k")(Published(CARD, read))
