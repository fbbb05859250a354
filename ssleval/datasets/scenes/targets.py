"""Targets of rendered splits, in the units of tasks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ssleval.core.clips import frame_at
from ssleval.core.targets import Groups, KeyPoints, Objects
from ssleval.datasets.scenes.captions import captions
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import ACTION_FRAMES, FRAMES
from ssleval.datasets.scenes.items import FEWEST
from ssleval.datasets.scenes.retrieval import ROLES
from ssleval.datasets.scenes.store import array, open_split


def names(split: str, length: int) -> list[str]:
    """Return the ids of a split: CLIP/FRAME for video, CLASS/NUMBER for labelled images, else NUMBER."""
    if split == "video":
        return [f"clip{index // FRAMES:02d}/{index % FRAMES:05d}" for index in range(length)]
    if split == "actions":
        return [f"clip{index:03d}" for index in range(length)]
    if split in {"train", "test"}:
        return [f"{CATEGORIES[index % len(CATEGORIES)]}/{index:05d}" for index in range(length)]
    return [f"{index:05d}" for index in range(length)]


def picture(folder: Path, index: int, step: int = 1) -> Image.Image:
    """Return the first picture of item ``index`` of a split with ``step`` pictures an item."""
    return Image.fromarray(np.array(array(folder, "image")[index * step]))


@dataclass(frozen=True, slots=True)
class Clip:
    """Reads the middle frame of clip i of the split ``actions``, or others; can be pickled."""

    folder: Path

    def __call__(self, index: int) -> Image.Image:
        """Return the middle frame."""
        return self.frame(index, 0, 1)

    def frame(self, index: int, place: int, count: int) -> Image.Image:
        """Return the middle frame of one of ``count`` equal parts."""
        return picture(self.folder, index * ACTION_FRAMES + frame_at(place, count, ACTION_FRAMES))


def stored(name: str, folder: Path, index: int) -> UInt8[np.ndarray, "H W"]:
    """Return an item of the array ``mask`` or ``instances`` (`render.Frame`)."""
    return np.array(array(folder, name)[index])


def objects(folder: Path, index: int) -> Objects:
    """Return the things of a picture, with the category that most of their unmixed pixels have.

    Things of fewer than 8 pixels need not be found; those without unmixed pixels are left out.
    """
    instances, mask = stored("instances", folder, index), stored("mask", folder, index)
    known = np.where(mask < len(CATEGORIES), mask, len(CATEGORIES))
    counts = [
        np.bincount(known[instances == number], minlength=21)[:20] for number in range(instances.max() + 1)
    ]
    shown = [number for number, count in enumerate(counts) if number and count.any()]
    masks = np.stack([instances == number for number in shown]) if shown else np.zeros((0, *mask.shape), bool)
    labels = np.array([counts[number].argmax() for number in shown], np.int64)
    return Objects.of_masks(masks, labels, masks.sum((1, 2)) < FEWEST)


def depth(folder: Path, index: int) -> Float32[np.ndarray, "H W"]:
    """Return metres along the camera's axis, 0 where unknown."""
    return array(folder, "depth")[index].astype(np.float32) / np.float32(1000)


def normals(folder: Path, index: int) -> Float32[np.ndarray, "H W 3"]:
    """Return unit normals in camera coordinates (x right, y down, z forward), 0 where unknown."""
    stored = array(folder, "normals")[index].astype(np.float32)
    length = np.sqrt((stored * stored).sum(-1, keepdims=True))
    return stored / np.maximum(length, np.float32(1))


def sightings(folder: Path, index: int) -> Groups:
    """Return the rows of the gallery that show the instance of query ``index``."""
    gallery = open_split(folder.parents[1], "retrieval_gallery")
    shown = np.asarray(array(gallery, "instance")) == int(array(folder, "instance")[index])
    role = np.asarray(array(gallery, "role"))
    easy, hard, junk = (np.flatnonzero(shown & (role == ROLES.index(name))) for name in ROLES[:3])
    return Groups(easy, hard, junk, group=index)


def originals(folder: Path, index: int) -> Groups:
    """Return the row of the database whose copy this is; the group is the kind of edit."""
    none, source = np.zeros(0, np.int64), int(array(folder, "original")[index])
    return Groups(np.array([source], np.int64), none, none, group=int(array(folder, "edit")[index]))


def key_points(folder: Path, index: int) -> KeyPoints:
    """Return the corresponding points of pair ``index``, whose views are rows 2k and 2k + 1."""
    first, second = 2 * index, 2 * index + 1
    points = array(folder, "points")
    present = np.isfinite(points[first][:, 0])
    rows, columns = np.nonzero(array(folder, "instances")[second] == 1)
    return KeyPoints(
        names=(f"{first:05d}", f"{second:05d}"),
        partner=picture(folder, second),
        points=np.array(points[first][present]),
        partner_points=np.array(points[second][present]),
        box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
        category=int(array(folder, "label")[first]),
    )


def described(folder: Path, index: int) -> tuple[str, str]:
    """Return a long and a short caption."""
    return captions(int(array(folder, "label")[index]), np.asarray(array(folder, "attributes")[index]))
