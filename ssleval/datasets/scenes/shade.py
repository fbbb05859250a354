"""Light on surfaces: linear RGB and normals of every ray.

Rays are sorted by what they hit, so that every surface is one slice, and put back at the end.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from ssleval.datasets.scenes.compose import Scene, Sky
from ssleval.datasets.scenes.solids import surface_normal
from ssleval.datasets.scenes.textures import accent, noise
from ssleval.datasets.scenes.things import Material, Surface, Thing
from ssleval.datasets.scenes.trace import GROUND, SKY, Hits, in_shadow, offset_from, single, solids_of
from ssleval.datasets.scenes.vectors import Array, Vector, dot, transform, transposed

_LIFT = np.float32(2e-3)
"""Metres a point is lifted off its surface before it looks for the lamp."""
_HAZE = np.float32(40)
"""Metres at which the ground has the colour of the horizon."""
_GLOSS: dict[Material, tuple[float, float]] = {
    "matte": (1.0, 0.0),
    "glossy": (0.9, 0.6),
    "metal": (0.45, 1.1),
}
"""Weight of the diffuse and of the mirrored light."""
_FOCUS = 5
"""The highlight is a cosine squared this often: to the power 32."""


@dataclass(frozen=True, slots=True)
class Shaded:
    """What every ray sees."""

    color: Float32[np.ndarray, "3 S S"]
    """Linear RGB, not clipped."""
    normals: Float32[np.ndarray, "3 S S"]
    """Unit, outward, in world coordinates; 0 at the sky."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Rays ordered by what they hit: sky, ground, then solid by solid."""

    order: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " s"]
    """First ray of the sky, the ground, every solid, and the end."""
    rays: Vector
    depth: Float32[np.ndarray, " n"]

    def rows(self, first: int, last: int) -> slice:
        """Return the rays that hit one of the solids ``first`` to ``last - 1``."""
        return slice(int(self.starts[first - SKY]), int(self.starts[last - SKY]))


def shade(scene: Scene, hits: Hits, rays: Vector) -> Shaded:
    """Return what every ray sees."""
    bundle = _sorted(hits, rays, len(solids_of(scene.things)))
    sky, rest = bundle.rows(SKY, GROUND), slice(int(bundle.starts[1]), None)
    points = _points(scene, bundle)
    normals = _normals(scene, bundle, points)
    color = np.empty((3, len(bundle.order)), np.float32)
    color[:, sky] = _sky(scene.sky, _cut(bundle.rays, sky))
    lamp = _lamp(scene, _cut(points, rest), _cut((normals[0], normals[1], normals[2]), rest))
    lamp = np.concatenate([np.zeros(rest.start, np.float32), lamp])
    _paint_ground(scene, bundle, points, lamp, color)
    first = 0
    for thing in scene.things:
        last = first + len(thing.solids)
        rows = bundle.rows(first, last)
        if rows.start < rows.stop:
            normal = _cut((normals[0], normals[1], normals[2]), rows)
            where = _body(thing, _cut(points, rows))
            color[:, rows] = _lit(scene, thing.surface, where, normal, _cut(bundle.rays, rows), lamp[rows])
        first = last
    shape = (3, *hits.depth.shape)
    return Shaded(_unsorted(color, bundle).reshape(shape), _unsorted(normals, bundle).reshape(shape))


def _sorted(hits: Hits, rays: Vector, solids: int) -> _Sorted:
    which = hits.solid.reshape(-1)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(SKY, solids + 1))
    x, y, z = (np.asarray(axis).reshape(-1)[order] for axis in rays)
    return _Sorted(order, starts, (x, y, z), hits.depth.reshape(-1)[order])


def _unsorted(values: Float32[np.ndarray, "3 n"], bundle: _Sorted) -> Float32[np.ndarray, "3 n"]:
    result = np.empty_like(values)
    for row, sorted_row in zip(result, values, strict=True):
        row[bundle.order] = sorted_row
    return result


def _cut(vector: Vector, rows: slice) -> Vector:
    x, y, z = (np.asarray(axis)[rows] for axis in vector)
    return (x, y, z)


def _points(scene: Scene, bundle: _Sorted) -> Vector:
    depth = np.where(np.isinf(bundle.depth), np.float32(0), bundle.depth)
    origin = single(scene.camera.position)
    x, y, z = (start + depth * axis for start, axis in zip(origin, bundle.rays, strict=True))
    return (x, y, z)


def _normals(scene: Scene, bundle: _Sorted, points: Vector) -> Float32[np.ndarray, "3 n"]:
    normals = np.zeros((3, len(bundle.order)), np.float32)
    normals[2, bundle.rows(GROUND, 0)] = 1
    for index, (_, solid) in enumerate(solids_of(scene.things)):
        rows = bundle.rows(index, index + 1)
        if rows.start == rows.stop:
            continue
        local = transform(solid.inverse, offset_from(solid.centre, _cut(points, rows)))
        # Normals go by the inverse transpose of what points go by.
        world = transform(transposed(solid.inverse), surface_normal(solid.kind, solid.shape, local))
        scale = np.float32(1) / np.sqrt(dot(world, world))
        for axis, values in zip(normals, world, strict=True):
            axis[rows] = values * scale
    return normals


def _lamp(scene: Scene, points: Vector, normals: Vector) -> Float32[np.ndarray, " n"]:
    towards = single(scene.light.direction)
    lamp = np.maximum(np.asarray(dot(normals, towards)), np.float32(0))
    x, y, z = (p + _LIFT * n for p, n in zip(points, normals, strict=True))
    lamp[in_shadow(scene.things, (x, y, z), scene.light.direction)] = 0
    return lamp


def _paint_ground(scene: Scene, bundle: _Sorted, points: Vector, lamp: Array, color: Array) -> None:
    rows = bundle.rows(GROUND, 0)
    x, y, _ = _cut(points, rows)
    # Half a period up, so that a plane through a lattice of dots shows them.
    where = (x, y, np.float32(scene.ground.period / 2))
    up = (np.float32(0), np.float32(0), np.float32(1))
    lit = _lit(scene, scene.ground, where, up, _cut(bundle.rays, rows), lamp[rows])
    fade = np.minimum(bundle.depth[rows] / _HAZE, np.float32(1))
    for channel, horizon in zip(range(3), single(scene.sky.low), strict=True):
        color[channel, rows] = lit[channel] + (horizon - lit[channel]) * fade


def _lit(scene: Scene, surface: Surface, where: Vector, normal: Vector, ray: Vector, lamp: Array) -> Array:
    share = accent(surface, where)
    fill = np.float32(0.65) + np.float32(0.35) * normal[2]
    diffuse, mirror = (np.float32(weight) for weight in _GLOSS[surface.material])
    gloss = None if surface.material == "matte" else mirror * _gloss(scene, surface, normal, ray, lamp)
    channels = list[Array]()
    for channel in range(3):
        base, top = np.float32(surface.base[channel]), np.float32(surface.accent[channel])
        light, ambient = np.float32(scene.light.color[channel]), np.float32(scene.light.ambient[channel])
        albedo = base + (top - base) * share
        shown = albedo * (diffuse * (light * lamp + ambient * fill))
        if gloss is not None:  # a metal tints what it mirrors, lacquer does not
            shown = shown + light * gloss * (albedo if surface.material == "metal" else np.float32(1))
        channels.append(shown)
    return np.stack(channels)


def _gloss(scene: Scene, surface: Surface, normal: Vector, ray: Vector, lamp: Array) -> Array:
    scale = np.float32(1) / np.sqrt(dot(ray, ray))
    x, y, z = (axis - r * scale for axis, r in zip(single(scene.light.direction), ray, strict=True))
    half = np.maximum(dot((x, y, z), normal), np.float32(0)) / np.sqrt(dot((x, y, z), (x, y, z)))
    for _ in range(_FOCUS):
        half = half * half
    half = np.where(lamp > 0, half, np.float32(0))
    if surface.material == "metal":  # a blurred mirror of the sky: brighter at the rim and from above
        rim = np.maximum(np.float32(1) + dot(normal, ray) * scale, np.float32(0))
        half = half + np.float32(0.5) * rim + np.float32(0.15) * (normal[2] + np.float32(1))
    return half


def _body(thing: Thing, point: Vector) -> Vector:
    matrix = transposed(thing.turn) / thing.scale
    return transform(matrix, offset_from(thing.centre, point))


def _sky(sky: Sky, ray: Vector) -> Array:
    scale = np.float32(1) / np.sqrt(np.asarray(dot(ray, ray)))
    x, y, z = (np.asarray(axis) * scale for axis in ray)
    height = np.minimum(np.maximum(z, np.float32(0)) * np.float32(1.5), np.float32(1))
    cloud = noise(sky.lattice, (x * np.float32(6) + y * np.float32(4), z * np.float32(14)))
    share = height + np.float32(sky.clouds) * (cloud - np.float32(0.5))
    share = np.minimum(np.maximum(share, np.float32(0)), np.float32(1))
    low, high = single(sky.low), single(sky.high)
    return np.stack([a + (b - a) * share for a, b in zip(low, high, strict=True)])
