"""Things: solids joined to one body, placed in the world with a surface."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal, TypeAlias

import numpy as np

from ssleval.datasets.scenes.solids import Kind, lowest, reach
from ssleval.datasets.scenes.vectors import (
    Matrix,
    Number,
    Point,
    apply,
    identity,
    multiply,
    scaled,
    transposed,
)  # fmt: skip

Pattern: TypeAlias = Literal["plain", "stripes", "checks", "dots", "marble", "speckle"]
Material: TypeAlias = Literal["matte", "glossy", "metal"]


@dataclass(frozen=True, slots=True)
class Part:
    """One solid of a body, in the body's own coordinates: z up."""

    kind: Kind
    size: Point
    """Scale along the solid's axes: half the edges of a box."""
    at: Point = (0.0, 0.0, 0.0)
    turn: Matrix = field(default_factory=identity)
    """Rotation, applied after the scale."""
    shape: tuple[Number, ...] = ()


@dataclass(frozen=True, slots=True)
class Surface:
    """Material and paint of a thing; independent of its category."""

    material: Material
    color: int
    """Index in ``palette.COLORS``."""
    base: Point
    """Linear RGB outside the pattern."""
    accent: Point
    """Linear RGB of the pattern."""
    pattern: Pattern
    axis: Point
    """Unit direction of stripes, in the body's coordinates."""
    period: float
    """Of the pattern, in the body's units."""
    lattice: np.ndarray
    """4,096 numbers in [0, 1) that make the noise."""


@dataclass(frozen=True, slots=True)
class Solid:
    """A part in the world, which rays are tested against."""

    kind: Kind
    shape: tuple[Number, ...]
    inverse: Matrix
    """World to the solid's own coordinates, after moving ``centre`` to the origin."""
    centre: Point
    radius: float
    """Of a sphere around it, in metres."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

    category: int
    solids: tuple[Solid, ...]
    surface: Surface
    turn: Matrix
    """Rotation from the body to the world."""
    scale: float
    """Metres per unit of the body."""
    centre: Point
    """Of its bounding sphere, in metres."""
    radius: float
    size: int = 0
    """Index in ``palette.SIZES``."""


def centred(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Return the body moved and scaled so that a sphere of radius 1 at the origin holds it.

    Categories therefore have equal sizes, and size says nothing about the category.
    """
    low, high = [1e9] * 3, [-1e9] * 3
    for part in parts:
        for axis in range(3):
            extent = _extent(part, part.turn[axis])
            low[axis] = min(low[axis], part.at[axis] - extent)
            high[axis] = max(high[axis], part.at[axis] + extent)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    edges = [b - a for a, b in zip(low, high, strict=True)]
    factor = 2 / sqrt(edges[0] * edges[0] + edges[1] * edges[1] + edges[2] * edges[2])
    return tuple(
        Part(part.kind, _times(part.size, factor), _shift(part.at, middle, factor), part.turn, part.shape)
        for part in parts
    )


def _extent(part: Part, row: np.ndarray) -> float:
    # Half-extent of the oriented box of the part along one axis of the body.
    half = reach(part.kind, part.shape)
    return sum(abs(float(row[i])) * half[i] * part.size[i] for i in range(3))


def _times(point: Point, factor: float) -> Point:
    return (point[0] * factor, point[1] * factor, point[2] * factor)


def _shift(point: Point, origin: Sequence[float], factor: float) -> Point:
    return (
        (point[0] - origin[0]) * factor,
        (point[1] - origin[1]) * factor,
        (point[2] - origin[2]) * factor,
    )


def place(
    parts: Sequence[Part],
    *,
    category: int,
    surface: Surface,
    turn: Matrix,
    scale: float,
    at: tuple[float, float],
    size: int = 0,
) -> Thing:
    """Return a centred body standing on the ground at ``at``, its lowest point at height 0."""
    depth = min(_lowest(part, turn) for part in parts)
    centre = (at[0], at[1], -depth * scale)
    solids = tuple(_solid(part, turn, scale, centre) for part in parts)
    return Thing(category, solids, surface, turn, scale, centre, scale, size)


def _lowest(part: Part, turn: Matrix) -> float:
    combined = multiply(turn, multiply(part.turn, scaled(part.size)))[2]
    axis = (float(combined[0]), float(combined[1]), float(combined[2]))
    return apply(turn, part.at)[2] + lowest(part.kind, part.shape, axis)


def _solid(part: Part, turn: Matrix, scale: float, origin: Point) -> Solid:
    rotation = multiply(turn, part.turn)
    size = _times(part.size, scale)
    inverse = multiply(scaled((1 / size[0], 1 / size[1], 1 / size[2])), transposed(rotation))
    x, y, z = (start + scale * step for start, step in zip(origin, apply(turn, part.at), strict=True))
    half = reach(part.kind, part.shape)
    corner = sqrt(sum(edge * edge for edge in (half[0] * size[0], half[1] * size[1], half[2] * size[2])))
    radius = max(size) if part.kind == "sphere" else corner
    return Solid(part.kind, part.shape, inverse, (x, y, z), radius)
