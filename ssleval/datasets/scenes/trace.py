"""What every ray hits first, and which points are in shadow."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16

from ssleval.datasets.scenes.camera import Camera
from ssleval.datasets.scenes.solids import enter
from ssleval.datasets.scenes.things import Solid, Thing
from ssleval.datasets.scenes.vectors import (
    Matrix,
    Point,
    Vector,
    apply,
    cross,
    multiply,
    offset_from,
    single,
    subtract,
    transform,
    unit,
)  # fmt: skip

GROUND, SKY = -1, -2
_HORIZON = np.float32(60)
"""Metres beyond which the ground counts as sky; nearer depths in millimetres fit in 16 bits."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest surface along every ray."""

    depth: Float32[np.ndarray, "S S"]
    """Metres along the camera's axis; inf at the sky."""
    solid: Int16[np.ndarray, "S S"]
    """Row of `solids_of`, GROUND or SKY."""


def solids_of(things: tuple[Thing, ...]) -> list[tuple[int, Solid]]:
    """Return every solid with the index of its thing."""
    return [(index, solid) for index, thing in enumerate(things) for solid in thing.solids]


def first_hits(things: tuple[Thing, ...], camera: Camera, rays: Vector) -> Hits:
    """Trace camera rays ``[3 S S]`` against the ground and every solid."""
    down, side = rays[2], rays.shape[1]
    depth = np.where(down < 0, np.float32(-camera.position[2]) / down, np.float32(np.inf))
    depth = np.where(depth < _HORIZON, depth, np.float32(np.inf))
    nearest = np.where(np.isinf(depth), SKY, GROUND).astype(np.int16)
    for index, (_, solid) in enumerate(solids_of(things)):
        window = _window(solid, camera, side)
        if window is None:
            continue
        direction = transform(solid.inverse, np.ascontiguousarray(rays[:, *window]))
        origin = transform(solid.inverse, single(subtract(camera.position, solid.centre)))
        distance = enter(solid.kind, solid.shape, origin, direction)
        closer = distance < depth[window]
        depth[window] = np.where(closer, distance, depth[window])
        nearest[window] = np.where(closer, np.int16(index), nearest[window])
    return Hits(depth, nearest)


def _window(solid: Solid, camera: Camera, side: int) -> tuple[slice, slice] | None:
    # A sphere's outline is an ellipse off the axis; 1.25 covers it for every field of view drawn here.
    column, row, depth = camera.project(solid.centre)
    if depth <= 1.05 * solid.radius:
        return slice(0, side), slice(0, side)
    reach = 1.25 * camera.focal * solid.radius / (depth - 0.3 * solid.radius)
    low = [max(0, int((middle - reach) * side)) for middle in (row, column)]
    high = [min(side, int((middle + reach) * side) + 2) for middle in (row, column)]
    if low[0] >= high[0] or low[1] >= high[1]:
        return None
    return slice(low[0], high[0]), slice(low[1], high[1])


def in_shadow(things: tuple[Thing, ...], points: Vector, light: Point) -> Bool[np.ndarray, " n"]:
    """Return which of the points ``[3 n]`` do not see a lamp infinitely far along ``light``."""
    frame = _towards(light)
    seen = transform(frame, points)  # seen along the third axis, a sphere in the light is a disk
    dark = np.zeros(points.shape[1], np.bool_)
    for thing in things:
        rows = _behind(seen, frame, thing.centre, thing.radius)
        if not len(rows):
            continue
        near = seen.take(rows, 1)
        for solid in thing.solids:
            aimed = _behind(near, frame, solid.centre, solid.radius)
            if len(aimed):
                matrix = multiply(solid.inverse, frame.T)
                offset = offset_from(apply(frame, solid.centre), near.take(aimed, 1))
                direction = transform(solid.inverse, single(light))
                blocked = np.isfinite(enter(solid.kind, solid.shape, transform(matrix, offset), direction))
                dark[rows[aimed[blocked]]] = True
    return dark


def _towards(light: Point) -> Matrix:
    side = unit(cross(light, (0.0, 0.0, 1.0) if abs(light[2]) < 0.9 else (1.0, 0.0, 0.0)))
    return np.array([side, cross(light, side), light], np.float64)


def _behind(seen: Vector, frame: Matrix, centre: Point, radius: float) -> Int[np.ndarray, " m"]:
    u, v, w = offset_from(apply(frame, centre), seen)
    return np.flatnonzero((u * u + v * v < np.float32(radius * radius)) & (w < np.float32(radius)))
