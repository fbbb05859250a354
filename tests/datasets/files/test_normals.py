"""Normals of planes, spheres and edges, whose right values follow from their equations."""

import numpy as np
import pytest

from ssleval.datasets.files.normals import normals_of

INTRINSICS = np.array([[80.0, 0, 34], [0, 84, 22], [0, 0, 1]])
SHAPE = (48, 64)


def rays() -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return np.stack([(columns - 34) / 80, (rows - 22) / 84, np.ones(SHAPE)], axis=2)


def plane(normal: tuple[float, float, float], distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the plane n . p = -distance, and n."""
    unit = np.array(normal) / np.linalg.norm(normal)
    return -distance / (rays() @ unit), unit


def has_normal(normals: np.ndarray) -> np.ndarray:
    return np.linalg.norm(normals, axis=2) > 0


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((first * second).sum(-1), -1, 1)))


@pytest.mark.parametrize("radius", [0, 1, 3])
@pytest.mark.parametrize(
    "normal",
    [(0, 0, -1), (0, -1, -0.7), (0.8, 0, -1), (-0.5, 0.4, -1)],
    ids=["wall", "floor", "left", "oblique"],
)
def test_a_plane_has_its_normal_everywhere(normal: tuple[float, float, float], radius: int) -> None:
    depth, unit = plane(normal, 2.0)
    depth[depth > 20] = depth[depth < 0] = 0
    found = normals_of(depth, INTRINSICS, radius, edge=0.2)
    known = has_normal(found)
    assert known.mean() > 0.4
    assert angles(found[known].astype(float), unit).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(found[known], axis=1), 1, atol=1e-5)
    margin = radius + max(radius, 1)
    assert not known[:margin].any()
    assert not known[:, -margin:].any()


@pytest.mark.parametrize(("radius", "off"), [(0, 1.5), (2, 3.0)])
def test_a_sphere_has_radial_normals(radius: int, off: float) -> None:
    centre, size = np.array([0.1, -0.1, 3.0]), 1.0
    ray = rays()
    along, square = ray @ centre, (ray**2).sum(2)
    under = along**2 - square * (centre @ centre - size**2)
    hit = under > 0
    depth = np.where(hit, (along - np.sqrt(np.maximum(under, 0))) / square, 0)
    found = normals_of(depth, INTRINSICS, radius, edge=0.05)
    known = has_normal(found)
    assert known.sum() > 300
    assert not known[~hit].any()
    expected = (ray * depth[..., None] - centre) / size
    wrong = angles(found[known].astype(float), expected[known])
    assert wrong.max() < off
    assert wrong.mean() < off / 4


def test_pixels_near_holes_and_edges_are_unknown() -> None:
    depth = np.full(SHAPE, 2.0)
    depth[:, 40:] = 2.5
    depth[20, 10] = 0
    found = normals_of(depth, INTRINSICS, 2, edge=0.05)
    known = has_normal(found)
    expected = np.zeros(SHAPE, bool)
    expected[4:-4, 4:-4] = True
    expected[16:25, 6:15] = False
    expected[:, 35:45] = False
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_allclose(found[known], np.broadcast_to([0, 0, -1], (known.sum(), 3)), atol=1e-6)
    # What differs by less is one surface.
    assert normals_of(depth, INTRINSICS, 2, edge=0.3)[30, 35:45].any(axis=1).all()


def test_averaging_makes_up_for_noise() -> None:
    depth, unit = plane((0.3, -0.2, -1), 2.0)
    noisy = depth + np.random.default_rng(0).normal(0, 0.004, SHAPE)
    off = [
        angles(found[has_normal(found)].astype(float), unit).mean()
        for found in (normals_of(noisy, INTRINSICS, radius, edge=0.1) for radius in (0, 3))
    ]
    assert off[1] < off[0] / 5
