"""Render a scene into a picture and its ground truth."""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Int8, UInt8, UInt16

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import Scene
from ssleval.datasets.scenes.shade import shade
from ssleval.datasets.scenes.trace import Hits, first_hits, solids_of
from ssleval.datasets.scenes.vectors import Array

Rays: TypeAlias = Float32[np.ndarray, "3 S S"]
"""A vector for each of the rays of a picture."""

SIDE = 96
"""Pixels of a side."""
_SAMPLES = 2
"""Rays along each side of a pixel."""
IGNORE = 255
"""Label of pixels that show more than one class."""
MASK_CLASSES: tuple[str, ...] = (*CATEGORIES, "ground", "sky")
"""Classes of the semantic mask, in label order."""


class Frame(NamedTuple):
    """A picture with its ground truth, quantised so that equal scenes give equal bytes."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "H W"]
    """Index in `MASK_CLASSES`, or IGNORE at mixed pixels."""
    instances: UInt8[np.ndarray, "H W"]
    """0 background, 1 the subject, 2... the other things; mixed pixels have the label of most rays."""
    depth: UInt16[np.ndarray, "H W"]
    """Millimetres along the camera's axis; 0 (unknown) at the sky and at mixed pixels."""
    normals: Int8[np.ndarray, "H W 3"]
    """127 times the unit normal: x right, y down, z forward; 0 where depth is 0."""


def render(scene: Scene, side: int = SIDE) -> Frame:
    """Return the picture of a scene, with four rays per pixel."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rays = scene.camera.rays(side * _SAMPLES)
        hits = first_hits(scene.things, scene.camera, rays)
        return _develop(scene, hits, *shade(scene, hits, rays))


def _corners(values: np.ndarray) -> list[np.ndarray]:
    # The four rays of every pixel, in a fixed order, so that their sum is equal on every machine.
    return [values[..., row::_SAMPLES, column::_SAMPLES] for row in range(2) for column in range(2)]


def _mean(values: np.ndarray) -> Array:
    a, b, c, d = _corners(values)
    return ((a + b) + (c + d)) * np.float32(0.25)


def _develop(scene: Scene, hits: Hits, color: Rays, normals: Rays) -> Frame:
    owners = [index for index, _ in solids_of(scene.things)]
    instance = np.array([*[owner + 1 for owner in owners], 0, 0], np.uint8)[hits.solid]
    labels = [scene.things[owner].category for owner in owners]
    # SKY and GROUND are negative and index the ends of both tables.
    names = np.array([*labels, MASK_CLASSES.index("sky"), MASK_CLASSES.index("ground")], np.uint8)
    mask, whole = _agreed(names[hits.solid]), _agreed(instance) != IGNORE
    measured = (mask != IGNORE) & (mask != MASK_CLASSES.index("sky")) & whole
    return Frame(
        image=_encode(color),
        mask=mask,
        instances=_most(instance),
        depth=_depth(hits.depth, measured),
        normals=_normals(scene, normals, measured),
    )


def _agreed(labels: UInt8[np.ndarray, "S S"]) -> UInt8[np.ndarray, "H W"]:
    a, b, c, d = _corners(labels)
    return np.where((a == b) & (a == c) & (a == d), a, np.uint8(IGNORE)).astype(np.uint8)


def _most(labels: UInt8[np.ndarray, "S S"]) -> UInt8[np.ndarray, "H W"]:
    a, b, c, d = _corners(labels)
    other = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, other)


def _encode(color: Rays) -> UInt8[np.ndarray, "H W 3"]:
    # Gamma 2 is close to sRGB, and a square root is equal on every machine.
    levels = np.sqrt(np.minimum(_mean(color), np.float32(1))) * np.float32(255)
    return np.ascontiguousarray(np.floor(levels + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0))


def _depth(depth: Float32[np.ndarray, "S S"], measured: np.ndarray) -> UInt16[np.ndarray, "H W"]:
    # The reciprocal of depth is linear over the image of a plane, so its mean is exact at the pixel centre.
    millimetres = np.float32(1) / _mean(np.float32(1) / depth) * np.float32(1000)
    return np.where(measured, np.floor(millimetres + np.float32(0.5)), np.float32(0)).astype(np.uint16)


def _normals(scene: Scene, normals: Rays, measured: np.ndarray) -> Int8[np.ndarray, "H W 3"]:
    x, y, z = _mean(normals)
    length = np.sqrt(x * x + y * y + z * z)
    scale = np.where(length > 0, np.float32(127) / length, np.float32(0))
    rows = scene.camera.turn.astype(np.float32)
    seen = np.stack([(row[0] * x + row[1] * y + row[2] * z) * scale for row in rows], axis=-1)
    return np.where(measured[..., None], np.floor(seen + np.float32(0.5)), np.float32(0)).astype(np.int8)
