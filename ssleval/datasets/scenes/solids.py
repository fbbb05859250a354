"""Solids at the origin, and where rays enter them.

Each kind has one function. It takes ray origins and directions in the solid's own coordinates and returns the
distance along each ray, in units of the direction's length, inf for a miss. Rays start outside the solid.
Kinds and their extent, before the scale of a `Part`:

    sphere    radius 1
    box       [-1, 1] along every axis
    frustum   round, z in [-1, 1]; radius ``shape[0]`` at z = -1 and ``shape[1]`` at z = 1
    torus     around z; radius 1 to the middle of a tube of radius ``shape[0]``
    pyramid   square base [-1, 1] at z = -1, apex at z = 1
    roof      prism along y: triangle of base [-1, 1] at z = -1 and ridge at x = 0, z = 1
"""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Literal, TypeAlias

import numpy as np

from ssleval.datasets.scenes.vectors import Array, Number, Point, Vector, dot

Kind: TypeAlias = Literal["sphere", "box", "frustum", "torus", "pyramid", "roof"]
Shape: TypeAlias = tuple[Number, ...]

_NEAR = np.float32(1e-4)
_TINY = np.float32(1e-9)
_STEPS = 64
"""Steps of the march towards a torus; a ray that has not arrived after them counts as a miss."""
_TOUCH = np.float32(2e-4)
_SLOPE = 1 / sqrt(5)
_FLAT = 2 / sqrt(5)
_SLOPES = ((_FLAT, 0, _SLOPE, _SLOPE), (-_FLAT, 0, _SLOPE, _SLOPE))
_BASE = (0, 0, -1, 1)
_PLANES: Mapping[str, tuple[tuple[Number, Number, Number, Number], ...]] = {
    "pyramid": (*_SLOPES, (0, _FLAT, _SLOPE, _SLOPE), (0, -_FLAT, _SLOPE, _SLOPE), _BASE),
    "roof": (*_SLOPES, (0, 1, 0, 1), (0, -1, 0, 1), _BASE),
}
"""Outward normal and offset of every face; a point is inside if normal . point <= offset for all faces."""


def enter(kind: Kind, shape: Shape, origin: Vector, direction: Vector) -> Array:
    """Return the distance to the first point of every ray inside the solid, inf if there is none."""
    return _ENTER[kind](shape, origin, direction)


def reach(kind: Kind, shape: Shape) -> Point:
    """Return the half-extents of the box around the solid."""
    if kind == "torus":
        return (1 + shape[0], 1 + shape[0], shape[0])
    if kind == "frustum":
        return (max(shape), max(shape), 1.0)
    return (1.0, 1.0, 1.0)


def lowest(kind: Kind, shape: Shape, axis: Point) -> float:
    """Return the minimum of ``axis . point`` over the solid: minus its extent along -axis."""
    x, y, z = axis
    around, length = sqrt(x * x + y * y), sqrt(x * x + y * y + z * z)
    if kind == "sphere":
        return -length
    if kind == "torus":
        return -around - shape[0] * length
    if kind == "frustum":
        return min(-z - shape[0] * around, z - shape[1] * around)
    base = -abs(x) - abs(y)
    if kind == "pyramid":
        return min(base - z, z)
    return min(base - z, z - abs(y)) if kind == "roof" else base - abs(z)


def surface_normal(kind: Kind, shape: Shape, point: Vector) -> Vector:
    """Return the outward normal, of any length, at points on the surface."""
    if kind == "sphere":
        return point
    x, y, z = point
    zero = np.zeros_like(x)
    if kind == "torus":
        around = np.sqrt(x * x + y * y) + _TINY
        return np.stack([x - x / around, y - y / around, z])
    if kind == "frustum":
        taper = np.float32((shape[1] - shape[0]) / 2)
        wall = np.float32((shape[0] + shape[1]) / 2) + taper * z
        cap = np.float32(1) - np.abs(z) < np.abs(wall - np.sqrt(x * x + y * y))
        return np.where(cap, [zero, zero, z], [x, y, -taper * wall])
    if kind == "box":
        ax, ay, az = np.abs(x), np.abs(y), np.abs(z)
        first = (ax >= ay) & (ax >= az)
        second = ~first & (ay >= az)
        return np.where([first, second, ~(first | second)], point, np.float32(0))
    planes = np.array(_PLANES[kind], np.float32)
    heights = np.stack([dot(plane[:3], point) - plane[3] for plane in planes])
    return planes[heights.argmax(0), :3].T


def _sphere(shape: Shape, origin: Vector, direction: Vector) -> Array:  # noqa: ARG001
    # Measured from the point nearest the centre: the textbook quadratic loses precision far away.
    squared = dot(direction, direction)
    middle = -dot(origin, direction) / squared
    x, y, z = (o + middle * d for o, d in zip(origin, direction, strict=True))
    half = np.sqrt((np.float32(1) - (x * x + y * y + z * z)) / squared)
    t = middle - half
    return np.where(t > _NEAR, t, np.float32(np.inf))  # a miss is nan, and compares as False


def _safe(direction: Array | np.float32) -> Array:
    return np.where(np.abs(direction) < _TINY, _TINY, direction).astype(np.float32)


def _box(shape: Shape, origin: Vector, direction: Vector) -> Array:  # noqa: ARG001
    near, far = np.float32(-np.inf), np.float32(np.inf)
    for o, d in zip(origin, direction, strict=True):
        inverse = np.float32(1) / _safe(d)
        middle, half = -o * inverse, np.abs(inverse)
        near, far = np.maximum(near, middle - half), np.minimum(far, middle + half)
    return np.where((near <= far) & (near > _NEAR), near, np.float32(np.inf))


def _faces(kind: str) -> Callable[[Shape, Vector, Vector], Array]:
    planes = np.array(_PLANES[kind], np.float32)

    def between(shape: Shape, origin: Vector, direction: Vector) -> Array:  # noqa: ARG001
        near, far = np.float32(-np.inf), np.float32(np.inf)
        for plane in planes:
            slope = _safe(dot(plane[:3], direction))
            t = (plane[3] - dot(plane[:3], origin)) / slope
            inward = slope < 0
            near = np.where(inward, np.maximum(near, t), near)
            far = np.where(inward, far, np.minimum(far, t))
        return np.where((near <= far) & (near > _NEAR), near, np.float32(np.inf)).astype(np.float32)

    return between


def _frustum(shape: Shape, origin: Vector, direction: Vector) -> Array:
    taper, mean = np.float32((shape[1] - shape[0]) / 2), np.float32((shape[0] + shape[1]) / 2)
    ox, oy, oz = origin
    dx, dy, dz = direction
    wall, slope = mean + taper * oz, taper * dz
    a = _safe(dx * dx + dy * dy - slope * slope)
    b = ox * dx + oy * dy - slope * wall
    root = np.sqrt(b * b - a * (ox * ox + oy * oy - wall * wall))
    best = np.float32(np.inf)
    for t in ((-b - root) / a, (-b + root) / a):
        best = np.where((np.abs(oz + t * dz) <= 1) & (t > _NEAR), np.minimum(best, t), best)
    for end, radius in ((-1, shape[0]), (1, shape[1])):
        if radius:
            t = (np.float32(end) - oz) / _safe(dz)
            x, y = ox + t * dx, oy + t * dy
            inside = (x * x + y * y <= np.float32(radius * radius)) & (t > _NEAR)
            best = np.where(inside, np.minimum(best, t), best)
    return np.asarray(best, np.float32)


def _torus(shape: Shape, origin: Vector, direction: Vector) -> Array:
    # Marched along the distance field: the closed form of a quartic needs functions that machines round
    # differently.
    tube = np.float32(shape[0])
    outer = np.float32(1 + shape[0])
    start = _sphere((), origin / outer, direction / outer)
    inside = (dot(origin, origin) < np.float32((1 + shape[0]) ** 2)) & np.isinf(start)
    start = np.where(inside, _NEAR, start)
    result = np.full(start.shape, np.inf, np.float32)
    alive = np.flatnonzero(np.isfinite(start))
    t = start.reshape(-1)[alive]
    rays = np.stack([np.broadcast_to(axis, start.shape).reshape(-1)[alive] for axis in (*origin, *direction)])
    norm = np.sqrt(dot(rays[3:], rays[3:]))
    for _ in range(_STEPS):
        x, y, z = rays[:3] + t * rays[3:]
        ring = np.sqrt(x * x + y * y) - np.float32(1)
        gap = np.sqrt(ring * ring + z * z) - tube
        result.reshape(-1)[alive[gap < _TOUCH]] = t[gap < _TOUCH]
        going = np.flatnonzero((gap >= _TOUCH) & (x * x + y * y + z * z < np.float32((1.01 + shape[0]) ** 2)))
        t, alive, rays, norm = (t + gap / norm)[going], alive[going], rays.take(going, 1), norm[going]
        if not len(alive):
            break
    return result


_ENTER: Mapping[Kind, Callable[[Shape, Vector, Vector], Array]] = {
    "sphere": _sphere,
    "box": _box,
    "frustum": _frustum,
    "torus": _torus,
    "pyramid": _faces("pyramid"),
    "roof": _faces("roof"),
}
