"""Light on surfaces: linear RGB and normals of every ray.

Rays are sorted by what they hit, so that every surface is one slice, and restored to image order at the end.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from ssleval.datasets.scenes.compose import Scene, Sky
from ssleval.datasets.scenes.solids import surface_normal
from ssleval.datasets.scenes.textures import Where, accent, noise
from ssleval.datasets.scenes.things import Material, Surface
from ssleval.datasets.scenes.trace import GROUND, SKY, Hits, in_shadow, solids_of
from ssleval.datasets.scenes.vectors import Array, Point, Vector, dot, offset_from, single, transform

_LIFT = np.float32(2e-3)
"""Metres between a surface and the point from which the lamp is looked for."""
_HAZE = np.float32(40)
"""Metres at which the ground has the colour of the horizon."""
_GLOSS: dict[Material, tuple[float, float]] = {
    "matte": (1.0, 0.0),
    "glossy": (0.9, 0.6),
    "metal": (0.45, 1.1),
}
"""Weights of the diffuse and of the reflected light."""
_FOCUS = 5
"""How often the cosine of the highlight is squared: to the power 32."""


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Rays ordered by what they hit: sky, ground, then solid by solid."""

    order: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " s"]
    """First ray of the sky, the ground, every solid, and the end."""
    rays: Vector
    depth: Float32[np.ndarray, " n"]

    def rows(self, first: int, last: int) -> slice:
        """Return the rays that hit the solids ``first`` to ``last - 1``."""
        return slice(int(self.starts[first - SKY]), int(self.starts[last - SKY]))

    def restored(self, values: Vector, shape: tuple[int, ...]) -> Vector:
        """Return values of rays in the order of the image."""
        result = np.empty_like(values)
        result[:, self.order] = values
        return result.reshape(3, *shape)


def shade(scene: Scene, hits: Hits, rays: Vector) -> tuple[Vector, Vector]:
    """Return what every ray ``[3 S S]`` sees.

    Linear RGB, not clipped; and outward unit normals in world coordinates, 0 at the sky.
    """
    bundle = _sorted(hits, rays, len(solids_of(scene.things)))
    sky, rest = bundle.rows(SKY, GROUND), slice(int(bundle.starts[1]), None)
    points = _column(scene.camera.position) + np.where(np.isinf(bundle.depth), 0, bundle.depth) * bundle.rays
    normals = _normals(scene, bundle, points)
    color, lamp = np.empty_like(points), np.zeros_like(bundle.depth)
    color[:, sky] = _sky(scene.sky, bundle.rays[:, sky])
    lamp[rest] = _lamp(scene, points[:, rest], normals[:, rest])
    _paint_ground(scene, bundle, points, lamp, color)
    first = 0
    for thing in scene.things:
        rows = bundle.rows(first, first + len(thing.solids))
        first += len(thing.solids)
        if rows.start < rows.stop:
            where = transform(thing.turn.T / thing.scale, offset_from(thing.centre, points[:, rows]))
            seen = normals[:, rows], bundle.rays[:, rows], lamp[rows]
            color[:, rows] = _lit(scene, thing.surface, where, *seen)
    shape = hits.depth.shape
    return bundle.restored(color, shape), bundle.restored(normals, shape)


def _sorted(hits: Hits, rays: Vector, solids: int) -> _Sorted:
    which = hits.solid.reshape(-1)
    order = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[order], np.arange(SKY, solids + 1))
    return _Sorted(order, starts, rays.reshape(3, -1)[:, order], hits.depth.reshape(-1)[order])


def _column(point: Point) -> Float32[np.ndarray, "3 1"]:
    return single(point)[:, None]


def _normals(scene: Scene, bundle: _Sorted, points: Vector) -> Vector:
    normals = np.zeros_like(points)
    normals[2, bundle.rows(GROUND, 0)] = 1
    for index, (_, solid) in enumerate(solids_of(scene.things)):
        rows = bundle.rows(index, index + 1)
        if rows.start == rows.stop:
            continue
        local = transform(solid.inverse, offset_from(solid.centre, points[:, rows]))
        # Normals transform by the inverse transpose of the matrix that points transform by.
        world = transform(solid.inverse.T, surface_normal(solid.kind, solid.shape, local))
        normals[:, rows] = world * (np.float32(1) / np.sqrt(dot(world, world)))
    return normals


def _lamp(scene: Scene, points: Vector, normals: Vector) -> Float32[np.ndarray, " n"]:
    lamp = np.maximum(dot(normals, single(scene.light.direction)), np.float32(0))
    lamp[in_shadow(scene.things, points + _LIFT * normals, scene.light.direction)] = 0
    return lamp


def _paint_ground(scene: Scene, bundle: _Sorted, points: Vector, lamp: Array, color: Array) -> None:
    rows = bundle.rows(GROUND, 0)
    x, y, _ = points[:, rows]
    # Half a period up, so that a plane through a lattice of dots shows them.
    where = (x, y, np.float32(scene.ground.period / 2))
    lit = _lit(scene, scene.ground, where, single((0, 0, 1)), bundle.rays[:, rows], lamp[rows])
    fade = np.minimum(bundle.depth[rows] / _HAZE, np.float32(1))
    color[:, rows] = lit + (_column(scene.sky.low) - lit) * fade


def _lit(
    scene: Scene, surface: Surface, where: Where, normal: Vector, ray: Vector, lamp: Array
) -> Float32[np.ndarray, "3 n"]:
    base, light = _column(surface.base), _column(scene.light.color)
    diffuse, mirror = (np.float32(weight) for weight in _GLOSS[surface.material])
    fill = np.float32(0.65) + np.float32(0.35) * normal[2]
    albedo = base + (_column(surface.accent) - base) * accent(surface, where)
    shown = albedo * (diffuse * (light * lamp + _column(scene.light.ambient) * fill))
    if surface.material == "matte":
        return shown
    gloss = light * (mirror * _gloss(scene, surface, normal, ray, lamp))
    # Metal tints its reflections, lacquer does not.
    return shown + (gloss * albedo if surface.material == "metal" else gloss)


def _gloss(scene: Scene, surface: Surface, normal: Vector, ray: Vector, lamp: Array) -> Array:
    scale = np.float32(1) / np.sqrt(dot(ray, ray))
    between = _column(scene.light.direction) - ray * scale
    half = np.maximum(dot(between, normal), np.float32(0)) / np.sqrt(dot(between, between))
    for _ in range(_FOCUS):
        half = half * half
    half = np.where(lamp > 0, half, np.float32(0))
    if surface.material == "metal":  # a blurred reflection of the sky: brighter at the rim and from above
        rim = np.maximum(np.float32(1) + dot(normal, ray) * scale, np.float32(0))
        half = half + np.float32(0.5) * rim + np.float32(0.15) * (normal[2] + np.float32(1))
    return half


def _sky(sky: Sky, ray: Vector) -> Vector:
    x, y, z = ray * (np.float32(1) / np.sqrt(dot(ray, ray)))
    height = np.minimum(np.maximum(z, np.float32(0)) * np.float32(1.5), np.float32(1))
    cloud = noise(sky.lattice, (x * np.float32(6) + y * np.float32(4), z * np.float32(14)))
    share = height + np.float32(sky.clouds) * (cloud - np.float32(0.5))
    share = np.minimum(np.maximum(share, np.float32(0)), np.float32(1))
    low = _column(sky.low)
    return low + (_column(sky.high) - low) * share
