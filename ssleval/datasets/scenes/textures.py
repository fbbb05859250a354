"""Procedural textures: how much of the accent colour each point shows, in [0, 1].

Solid textures in body coordinates, so that they turn with the body. Lattice noise by table look-up:
integer arithmetic and multiplications only, equal on every machine.
"""

import numpy as np

from ssleval.datasets.scenes.things import Surface
from ssleval.datasets.scenes.vectors import Array, Vector

_STRIDES = (1, 57, 1171)
"""Steps through the table along x, y and z; odd, so that every entry is used."""


def noise(lattice: np.ndarray, point: tuple[Array, ...]) -> Array:
    """Return smooth value noise in [0, 1) at points of two or three coordinates, one cell per unit."""
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


def accent(surface: Surface, point: Vector) -> Array:
    """Return the share of the accent colour at points in body coordinates (unit sphere).

    The last coordinate may be one number for all points: a plane, whose noise is two-dimensional.
    """
    per = np.float32(1 / surface.period)
    x, y = np.asarray(point[0]) * per, np.asarray(point[1]) * per
    z = point[2] * per
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
    volume = (x * scale, y * scale, z * scale) if isinstance(z, np.ndarray) else (x * scale, y * scale)
    grain = noise(surface.lattice, volume)
    return grain if pattern == "marble" else (grain > np.float32(0.6)).astype(np.float32)
