"""Procedural textures: the share of the accent colour at each point, in [0, 1].

Textures are solid and in body coordinates: they turn with the body. Lattice noise is a table look-up with
integer arithmetic and multiplications only, so that it is equal on every machine.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from ssleval.datasets.scenes.things import Surface
from ssleval.datasets.scenes.vectors import Array, Vector

Where: TypeAlias = Vector | tuple[Array, Array, np.float32]
"""Points; the last coordinate may be one number for all of them: a plane, whose noise is two-dimensional."""

_STRIDES = (1, 57, 1171)
"""Steps through the table along x, y and z; odd, so that every entry is used."""


def noise(lattice: np.ndarray, point: Sequence[Array]) -> Array:
    """Return smooth value noise in [0, 1) at points of two or three coordinates; cells have side 1."""
    size = np.int32(len(lattice) - 1)
    base, fractions = np.int32(0), list[Array]()
    for axis, stride in zip(point, _STRIDES, strict=False):
        floor = np.floor(axis)
        fraction = axis - floor
        fractions.append(fraction * fraction * (np.float32(3) - np.float32(2) * fraction))
        base = base + floor.astype(np.int32) * np.int32(stride)
    corners = [np.asarray(base)]
    for stride in _STRIDES[: len(point)]:
        corners = [corner + np.int32(step) for step in (0, stride) for corner in corners]
    values = [lattice[corner & size] for corner in corners]
    for fraction in reversed(fractions):
        half = len(values) // 2
        values = [
            low + (high - low) * fraction for low, high in zip(values[:half], values[half:], strict=True)
        ]
    return values[0]


def _odd(cell: Array | np.float32) -> Array:
    half = cell * np.float32(0.5)
    return np.asarray(half - np.floor(half) >= np.float32(0.5), np.float32)


def accent(surface: Surface, point: Where) -> Array:
    """Return the share of the accent colour at points in body coordinates (unit sphere)."""
    x, y, z = (axis * np.float32(1 / surface.period) for axis in point)
    pattern = surface.pattern
    if pattern == "plain":
        return np.zeros_like(x)
    if pattern == "stripes":
        a, b, c = (np.float32(2 * axis) for axis in surface.axis)
        return _odd(a * x + b * y + c * z)
    if pattern == "checks":
        return np.abs(_odd(x) - np.abs(_odd(y) - _odd(z)))
    if pattern == "dots":
        fx, fy, fz = (axis - np.floor(axis) - np.float32(0.5) for axis in (x, y, z))
        return (fx * fx + fy * fy + fz * fz < np.float32(0.14)).astype(np.float32)
    scale = np.float32(2 if pattern == "marble" else 5)
    grain = noise(surface.lattice, [axis * scale for axis in (x, y, z) if isinstance(axis, np.ndarray)])
    return grain if pattern == "marble" else (grain > np.float32(0.6)).astype(np.float32)
