"""Things: solids joined to one body, placed in the world with a surface."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from ssleval.datasets.scenes.solids import Kind, Shape, lowest, reach
from ssleval.datasets.scenes.vectors import Matrix, Point, apply, identity, length, multiply, scaled, times

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
    shape: Shape = ()


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
    shape: Shape
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
    centres, extents = np.array([part.at for part in parts], np.float64), np.array(list(map(_extent, parts)))
    low, high = (centres - extents).min(0), (centres + extents).max(0)
    factor = 2 / length(tuple((high - low).tolist()))
    shifted = zip(parts, ((centres - (low + high) / 2) * factor).tolist(), strict=True)
    return tuple(replace(part, size=times(part.size, factor), at=(x, y, z)) for part, (x, y, z) in shifted)


def _extent(part: Part) -> np.ndarray:
    # Half-extents of the oriented box of the part along the axes of the body.
    x, y, z = (np.abs(part.turn) * reach(part.kind, part.shape) * part.size).T
    return x + y + z


def place(
    parts: Sequence[Part],
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
    x, y, z = multiply(turn, multiply(part.turn, scaled(part.size)))[2].tolist()
    return apply(turn, part.at)[2] + lowest(part.kind, part.shape, (x, y, z))


def _solid(part: Part, turn: Matrix, scale: float, origin: Point) -> Solid:
    rotation = multiply(turn, part.turn)
    size = times(part.size, scale)
    inverse = multiply(scaled((1 / size[0], 1 / size[1], 1 / size[2])), rotation.T)
    x, y, z = (start + scale * step for start, step in zip(origin, apply(turn, part.at), strict=True))
    a, b, c = reach(part.kind, part.shape)
    radius = max(size) if part.kind == "sphere" else length((a * size[0], b * size[1], c * size[2]))
    return Solid(part.kind, part.shape, inverse, (x, y, z), radius)
