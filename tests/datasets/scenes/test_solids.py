"""Every solid against its implicit function: inside or outside, decided without intersections."""

from collections.abc import Callable

import numpy as np
import pytest

from ssleval.datasets.scenes.solids import Kind, enter, lowest, reach, surface_normal
from ssleval.datasets.scenes.vectors import Vector

SOLIDS: list[tuple[Kind, tuple[float, ...]]] = [
    ("sphere", ()),
    ("box", ()),
    ("frustum", (1.0, 1.0)),
    ("frustum", (1.0, 0.0)),
    ("frustum", (0.4, 0.9)),
    ("torus", (0.3,)),
    ("pyramid", ()),
    ("roof", ()),
]
INSIDE: dict[Kind, Callable[[np.ndarray, tuple[float, ...]], np.ndarray]] = {
    "sphere": lambda p, _: 1 - np.linalg.norm(p, axis=-1),
    "box": lambda p, _: 1 - np.abs(p).max(-1),
    "frustum": lambda p, s: np.minimum(
        1 - np.abs(p[..., 2]),
        s[0] + (s[1] - s[0]) * (p[..., 2] + 1) / 2 - np.hypot(p[..., 0], p[..., 1]),
    ),
    "torus": lambda p, s: s[0] - np.hypot(np.hypot(p[..., 0], p[..., 1]) - 1, p[..., 2]),
    "pyramid": lambda p, _: np.minimum(
        p[..., 2] + 1, (1 - p[..., 2]) / 2 - np.maximum(np.abs(p[..., 0]), np.abs(p[..., 1]))
    ),
    "roof": lambda p, _: np.minimum(
        np.minimum(p[..., 2] + 1, 1 - np.abs(p[..., 1])), (1 - p[..., 2]) / 2 - np.abs(p[..., 0])
    ),
}
"""Positive inside."""


def rays(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    origins = random.normal(size=(count, 3))
    origins *= 4 / np.linalg.norm(origins, axis=1, keepdims=True)
    aims = random.uniform(-1.3, 1.3, (count, 3))
    return origins, (aims - origins) / 3.0


def split(points: np.ndarray) -> Vector:
    return np.ascontiguousarray(points.T, np.float32)


def entries(kind: Kind, shape: tuple[float, ...], origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.asarray(enter(kind, shape, split(origins), split(directions)), np.float64)


@pytest.mark.parametrize(("kind", "shape"), SOLIDS)
def test_enter_finds_what_a_fine_march_finds(kind: Kind, shape: tuple[float, ...]) -> None:
    origins, directions = rays(200)
    steps = np.linspace(0, 10, 5001)
    inside = INSIDE[kind](origins[:, None] + steps[:, None] * directions[:, None], shape)
    touched = inside > 0.003
    first = np.where(touched.any(1), steps[touched.argmax(1)], np.inf)

    found = entries(kind, shape, origins, directions)

    assert 30 < np.isfinite(first).sum() < 200
    assert np.isfinite(found[np.isfinite(first)]).all()
    # A ray that only grazes may be missed by the march, never by much.
    grazed = np.isfinite(found) & np.isinf(first)
    assert (inside[grazed].max(1) > -0.003).all()
    both = np.isfinite(first)
    # Towards 0.003 inside, a flat approach takes longer than a steep one.
    assert np.median(np.abs(found[both] - first[both])) < 0.008
    at = origins[both] + found[both, None] * directions[both]
    np.testing.assert_allclose(INSIDE[kind](at, shape), 0, atol=8e-4)


@pytest.mark.parametrize(("kind", "shape"), SOLIDS)
def test_surface_normal_is_the_downhill_direction_of_inside(kind: Kind, shape: tuple[float, ...]) -> None:
    origins, directions = rays(300)
    found = entries(kind, shape, origins, directions)
    hit = np.isfinite(found)
    points = origins[hit] + found[hit, None] * directions[hit]
    step = 1e-4
    gradient = np.stack(
        [
            INSIDE[kind](points - step * axis, shape) - INSIDE[kind](points + step * axis, shape)
            for axis in np.eye(3)
        ],
        axis=-1,
    )

    normal = np.stack(list(surface_normal(kind, shape, split(points))), axis=-1)

    cosine = (normal * gradient).sum(-1) / np.linalg.norm(normal, axis=-1) / np.linalg.norm(gradient, axis=-1)
    assert len(cosine) > 40
    # At an edge two faces are right; there are few such points.
    assert (cosine > 0.999).mean() > 0.97


@pytest.mark.parametrize(("kind", "shape"), SOLIDS)
def test_lowest_and_reach_bound_the_solid_tightly(kind: Kind, shape: tuple[float, ...]) -> None:
    steps = np.linspace(-1.4, 1.4, 57)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    points = grid[INSIDE[kind](grid, shape) >= -1e-9]

    for axis in ((0.0, 0.0, 1.0), (0.48, -0.6, 0.64), (-0.6, 0.8, 0.0)):
        least = (points @ np.array(axis)).min()
        assert least - 0.09 < lowest(kind, shape, axis) <= least + 1e-6
    np.testing.assert_allclose(np.abs(points).max(0), reach(kind, shape), atol=0.06)


@pytest.mark.parametrize(("kind", "shape"), SOLIDS)
def test_what_lies_behind_is_not_met(kind: Kind, shape: tuple[float, ...]) -> None:
    origins, directions = rays(200)
    ahead = entries(kind, shape, origins, directions)

    assert np.isfinite(ahead).any()
    assert np.isinf(entries(kind, shape, origins, -directions)).all()


def test_shape_changes_the_solid() -> None:
    origins, directions = rays(300)

    thin, thick = (np.isfinite(entries("torus", (tube,), origins, directions)).sum() for tube in (0.1, 0.4))

    assert thin < thick
