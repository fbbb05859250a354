"""Ground truth against closed forms: a sphere, a box and a plane at known places."""

from dataclasses import replace

import numpy as np
import pytest

from ssleval.datasets.scenes.camera import look_at
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import Scene, compose
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.palette import surface
from ssleval.datasets.scenes.render import IGNORE, MASK_CLASSES, SIDE, Frame, render
from ssleval.datasets.scenes.things import Part, Thing, place
from ssleval.datasets.scenes.vectors import identity

FOCAL = 1.2


def thing(part: Part, scale: float = 1.0, at: tuple[float, float] = (0.0, 0.0), category: int = 0) -> Thing:
    return place([part], category=category, surface=surface(Draw("s")), turn=identity(), scale=scale, at=at)


def scene(*things: Thing) -> Scene:
    camera = look_at((0.0, -5.0, 1.0), (0.0, 0.0, 1.0), FOCAL)
    return replace(compose(Draw("scene"), 0), things=things, camera=camera)


def pixel_rays() -> np.ndarray:
    """Directions of depth 1 through pixel centres, in world coordinates: x right, y forward, z up."""
    steps = ((np.arange(SIDE) + 0.5) / SIDE - 0.5) / FOCAL
    right, up = np.broadcast_arrays(steps[None, :], -steps[:, None])
    return np.stack([right, np.ones_like(right), up], axis=-1)


def sphere_truth() -> tuple[np.ndarray, np.ndarray]:
    """Depth (nan off the sphere) and normals of the unit sphere that touches the ground at the origin."""
    rays = pixel_rays()
    offset = np.array([0.0, -5.0, 1.0]) - np.array([0.0, 0.0, 1.0])
    a, b, c = (rays**2).sum(-1), (rays * offset).sum(-1), (offset**2).sum() - 1
    with np.errstate(invalid="ignore"):
        depth = (-b - np.sqrt(b * b - a * c)) / a
    normal = offset + depth[..., None] * rays
    return depth, np.stack([normal[..., 0], -normal[..., 2], normal[..., 1]], axis=-1)


@pytest.fixture(scope="module")
def ball() -> Frame:
    return render(scene(thing(Part("sphere", (1.0, 1.0, 1.0)))))


def test_sphere_has_the_depth_of_its_equation(ball: Frame) -> None:
    depth, _ = sphere_truth()
    inside = (ball.instances == 1) & (ball.depth > 0)

    error = np.abs(ball.depth[inside] / 1000 - depth[inside])

    assert inside.sum() > 1500
    assert np.nanmedian(error) < 0.001
    # Near the rim a pixel spans much depth: the mean over it is not the value at its centre.
    assert np.nanpercentile(error, 95) < 0.02


def test_sphere_has_the_area_of_its_outline(ball: Frame) -> None:
    # Seen at distance 5, a unit sphere is a disk of radius f / sqrt(25 - 1).
    area = np.pi * (FOCAL * SIDE) ** 2 / 24

    assert abs((ball.instances == 1).sum() - area) / area < 0.01


def test_sphere_has_radial_normals_towards_the_camera(ball: Frame) -> None:
    _, normal = sphere_truth()
    inside = (ball.mask == 0) & (ball.depth > 0) & np.isfinite(normal).all(-1)
    found = ball.normals[inside] / 127

    cosine = (found * normal[inside]).sum(-1) / np.linalg.norm(found, axis=-1)

    assert np.degrees(np.arccos(np.minimum(np.median(cosine), 1))) < 0.6
    assert (found[:, 2] < 0.1).all()


def test_ground_has_the_depth_and_normal_of_its_plane(ball: Frame) -> None:
    ground = (ball.mask == MASK_CLASSES.index("ground")) & (ball.depth > 0)
    depth = -1.0 / pixel_rays()[..., 2]

    error = np.abs(ball.depth[ground] / 1000 - depth[ground])

    assert ground.sum() > 2000
    assert (error <= 0.00051 + 1e-5 * depth[ground]).all()
    assert (ball.normals[ground] == np.array([0, -127, 0])).all()


def test_box_has_the_depth_of_its_front() -> None:
    frame = render(scene(thing(Part("box", (0.5, 0.5, 1.0)))))
    # Its front is the plane y = -0.5, 4.5 m ahead; half a metre wide to either side.
    half, tall = 0.5 / 4.5 * FOCAL * SIDE, 1 / 4.5 * FOCAL * SIDE
    across = np.abs(np.arange(SIDE) + 0.5 - SIDE / 2)
    front = np.ix_(across < tall - 1, across < half - 1)

    assert (frame.mask[front] == 0).all()
    assert (frame.depth[front] == 4500).all()
    assert (frame.normals[front] == np.array([0, 0, -127])).all()
    assert abs((frame.instances == 1).sum() / (4 * half * tall) - 1) < 0.03


def test_nearer_thing_hides_the_farther_and_edges_are_ignored() -> None:
    sphere = Part("sphere", (1.0, 1.0, 1.0))
    frame = render(scene(thing(sphere, 0.6, (0.0, -1.0), 3), thing(sphere, 1.0, (0.3, 1.5), 5)))

    assert {1, 2} <= set(np.unique(frame.instances).tolist())
    assert {3, 5, IGNORE} <= set(np.unique(frame.mask).tolist())
    assert frame.depth[frame.instances == 1].max() < frame.depth[(frame.mask == 5)].min()
    assert (frame.depth[frame.mask == IGNORE] == 0).all()
    assert (frame.mask == IGNORE).mean() < 0.1


def test_sky_has_no_depth_and_no_normal(ball: Frame) -> None:
    sky = ball.mask == MASK_CLASSES.index("sky")

    assert sky.any()
    assert (ball.depth[sky] == 0).all()
    assert (ball.normals[sky] == 0).all()


def test_shadow_falls_away_from_the_lamp() -> None:
    part = Part("sphere", (0.6, 0.6, 0.6))
    base = scene(thing(part))
    plain = replace(base.ground, material="matte", pattern="plain", base=(0.5, 0.5, 0.5))
    base = replace(base, ground=plain)
    left, right = (
        render(replace(base, light=replace(base.light, direction=(x, 0.0, 0.8)))).image.astype(int).sum(-1)
        for x in (-0.6, 0.6)
    )
    ground = render(base).mask == MASK_CLASSES.index("ground")
    darker = ground & (left < right - 60)  # lamp on the left: shadow on the right

    assert darker.sum() > 50
    assert np.nonzero(darker)[1].mean() > SIDE / 2 + 5


@pytest.mark.parametrize("category", range(len(CATEGORIES)))
def test_every_category_is_seen(category: int) -> None:
    frame = render(compose(Draw("seen", category), category))

    assert (frame.mask == category).sum() > 100
    assert frame.image.std() > 3


def test_materials_and_patterns_change_the_picture() -> None:
    base = thing(Part("sphere", (1.0, 1.0, 1.0)))
    paint = replace(base.surface, material="matte", pattern="plain")
    kinds = [
        paint,
        replace(paint, material="glossy"),
        replace(paint, material="metal"),
        *(replace(paint, pattern=pattern) for pattern in ("stripes", "checks", "dots", "marble", "speckle")),
        replace(paint, pattern="checks", period=paint.period * 1.7),
        replace(paint, pattern="stripes", axis=(1.0, 0.0, 0.0)),
    ]

    pictures = {render(scene(replace(base, surface=kind))).image.tobytes() for kind in kinds}

    assert len(pictures) == len(kinds)
