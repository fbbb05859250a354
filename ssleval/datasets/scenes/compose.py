"""Scenes: a subject, its company, a ground, a sky, a light and a camera, drawn from one stream."""

from dataclasses import dataclass

import numpy as np

from ssleval.datasets.scenes.camera import Camera, look_at
from ssleval.datasets.scenes.categories import CATEGORIES, body
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.palette import LATTICE, SIZES, any_color, ground, mixed, surface
from ssleval.datasets.scenes.things import Surface, Thing, place
from ssleval.datasets.scenes.vectors import (
    Matrix,
    Point,
    about,
    half_turn,
    length,
    multiply,
    subtract,
    times,
    unit,
)

_TILT = 0.06
"""Tangent of half the largest tilt of a thing, which is about 7 degrees."""
_ATTEMPTS = 12
"""Attempts to find a free place for a companion before it is left out."""
_OVERLAP = 0.2
"""Largest share of the subject's disk, along the line of centres, that a companion in front may cover."""


@dataclass(frozen=True, slots=True)
class Light:
    """A far lamp and the sky around."""

    direction: Point
    """Unit vector towards the lamp."""
    color: Point
    ambient: Point


@dataclass(frozen=True, slots=True)
class Sky:
    """Colours at the horizon and above, with clouds between them."""

    low: Point
    high: Point
    clouds: float
    lattice: np.ndarray


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything a picture shows. ``things[0]`` is the subject."""

    things: tuple[Thing, ...]
    ground: Surface
    sky: Sky
    light: Light
    camera: Camera


def compose(draw: Draw, category: int) -> Scene:
    """Return a scene with a subject of ``category`` and up to three other things."""
    subject = make_thing(draw.child("subject"), category)
    camera = view(draw.child("camera"), subject.centre, subject.radius)
    return scene_of(draw, with_company(draw.child("company"), subject, camera, draw.below(4)), camera)


def scene_of(draw: Draw, things: tuple[Thing, ...], camera: Camera) -> Scene:
    """Return the scene of these things on a random ground, under a random sky and light."""
    floor, sky, light = ground(draw.child("ground")), _sky(draw.child("sky")), _light(draw.child("light"))
    return Scene(things, floor, sky, light, camera)


def make_thing(draw: Draw, category: int) -> Thing:
    """Return a thing of random proportions, pose, size and surface, standing at the origin."""
    size = draw.below(len(SIZES))
    scale = list(SIZES.values())[size] * draw.uniform(0.92, 1.08)
    return _standing(draw, category, scale, (0.0, 0.0), size)


def _standing(draw: Draw, category: int, scale: float, at: tuple[float, float], size: int = 0) -> Thing:
    paint = surface(draw.child("surface"))
    return place(body(category, draw.child("body")), category, paint, pose(draw), scale, at, size)


def pose(draw: Draw) -> Matrix:
    """Return a turn about the vertical by any angle and a slight tilt."""
    tilt = [about(axis, half_turn(draw.uniform(-_TILT, _TILT))) for axis in ("x", "y")]
    return multiply(multiply(tilt[0], tilt[1]), about("z", draw.turn()))


def view(
    draw: Draw, centre: Point, radius: float, around: tuple[float, float] | None = None, far: float = 1.0
) -> Camera:
    """Return a camera that sees a sphere near the middle of its image.

    It looks from the horizontal direction with cosine and sine ``around`` (drawn if None), from ``far`` times
    the usual distance.
    """
    focal = draw.uniform(0.9, 1.5)
    c, s = around or draw.turn()
    rise = half_turn(draw.uniform(0.09, 0.29))
    # Not proportional to the radius, so that a large thing looks large.
    distance = focal * draw.uniform(1.75, 2.4) * (0.45 + 0.6 * radius) * far
    x, y, z = centre
    slack = 0.18 * radius
    aim_x, aim_y, aim_z = (axis + draw.uniform(-slack, slack) for axis in (x, y, z))
    position = (x + distance * rise[0] * c, y + distance * rise[0] * s, z + distance * rise[1])
    roll = half_turn(draw.uniform(-0.05, 0.05))
    return look_at(position, (aim_x, aim_y, aim_z), focal, roll)


def with_company(draw: Draw, subject: Thing, camera: Camera, count: int) -> tuple[Thing, ...]:
    """Return the subject and up to ``count`` smaller things that neither touch nor hide it."""
    things = [subject]
    for index in range(count):
        for _ in range(_ATTEMPTS):
            c, s = draw.turn()
            far = subject.radius * draw.uniform(1.3, 3.2)
            radius = subject.radius * draw.uniform(0.3, 0.55)
            spot = (subject.centre[0] + far * c, subject.centre[1] + far * s, 0.6 * radius)
            if _fits(spot, radius, things, camera):
                own = draw.child(index)
                things.append(_standing(own, own.below(len(CATEGORIES)), radius, (spot[0], spot[1])))
                break
    return tuple(things)


def _fits(spot: Point, radius: float, things: list[Thing], camera: Camera) -> bool:
    column, row, depth = camera.project(spot)
    if depth < 3 * radius or not (0.02 < column < 0.98 and 0.02 < row < 0.98):
        return False
    if any(length(subtract(spot, other.centre)) < 0.85 * (radius + other.radius) for other in things):
        return False
    subject = things[0]
    x, y, z = camera.project(subject.centre)
    if depth > z:
        return True
    near, own = camera.focal * radius / depth, camera.focal * subject.radius / z
    return near + own - length((x - column, y - row, 0)) < _OVERLAP * own


def _light(draw: Draw) -> Light:
    c, s = draw.turn()
    high = draw.uniform(0.5, 1.6)
    tint = mixed((1.0, 1.0, 1.0), any_color(draw), draw.uniform(0, 0.25))
    power, fill = draw.uniform(0.7, 1.3), draw.uniform(0.25, 0.55)
    return Light(unit((c, s, high)), times(tint, power), (fill, fill, fill))


def _sky(draw: Draw) -> Sky:
    return Sky(any_color(draw), any_color(draw), draw.uniform(0, 0.6), draw.lattice(LATTICE))
