"""Targets of rendered splits, in the units that tasks use."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from ssleval.core.targets import Groups, KeyPoints
from ssleval.datasets.scenes.captions import captions
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.clips import FRAMES
from ssleval.datasets.scenes.retrieval import ROLES
from ssleval.datasets.scenes.store import array, open_split


def names(split: str, length: int) -> list[str]:
    """Return the ids of a split: CLIP/FRAME of a video, CLASS/NUMBER where there are labels."""
    if split == "video":
        return [f"clip{index // FRAMES:02d}/{index % FRAMES:05d}" for index in range(length)]
    if split in {"train", "test"}:
        return [f"{CATEGORIES[index % len(CATEGORIES)]}/{index:05d}" for index in range(length)]
    return [f"{index:05d}" for index in range(length)]


def labels(folder: Path) -> Int64[np.ndarray, " n"]:
    """Return the category of every image."""
    return np.asarray(array(folder, "label"))


def mask(folder: Path, index: int) -> UInt8[np.ndarray, "H W"]:
    """Return the class of every pixel, 255 where it holds several."""
    return np.array(array(folder, "mask")[index])


def instances(folder: Path, index: int) -> UInt8[np.ndarray, "H W"]:
    """Return the thing of every pixel: 0 background, 1 the subject, 2... the others."""
    return np.array(array(folder, "instances")[index])


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
    """Return the correspondences of pair ``index``, whose two views are stored one after the other."""
    first, second = 2 * index, 2 * index + 1
    points = array(folder, "points")
    found = np.isfinite(points[first][:, 0])
    rows, columns = np.nonzero(array(folder, "instances")[second] == 1)
    return KeyPoints(
        names=(f"{first:05d}", f"{second:05d}"),
        partner=Image.fromarray(np.array(array(folder, "image")[second])),
        points=np.array(points[first][found]),
        partner_points=np.array(points[second][found]),
        box=(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1),
        category=int(array(folder, "label")[first]),
    )


def described(folder: Path, index: int) -> tuple[str, str]:
    """Return a long and a short caption."""
    return captions(int(array(folder, "label")[index]), np.asarray(array(folder, "attributes")[index]))
