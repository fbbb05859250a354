"""Against the cameras of `scenes`, which know nothing of these functions."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from ssleval.core.targets import Views
from ssleval.datasets.scenes import pairs
from ssleval.datasets.scenes.draw import Draw
from ssleval.metrics.reprojection import (
    Seen,
    depth_at,
    errors,
    errors_of_pairs,
    known_points,
    lifted,
    projected,
    seen_by_both,
    turned,
)

SIDE = 96


@dataclass
class Rendered:
    views: Views
    points: np.ndarray
    partner_points: np.ndarray


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Two views of a scene with the points that its renderer says correspond."""
    scenes, frames, points = pairs._matched(Draw("scenes@1", "pair", 7), 7)
    poses = []
    for camera in (scene.camera for scene in scenes):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.asarray(camera.turn).T, camera.position
        poses.append(pose)
    matrices = [
        np.array([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1.0]])
        for focal in (scene.camera.focal * SIDE for scene in scenes)
    ]
    depths = [frame.depth.astype(np.float32) / np.float32(1000) for frame in frames]
    views = Views(
        ("a", "b"),
        Image.fromarray(frames[1].image),
        (depths[0], depths[1]),
        (matrices[0], matrices[1]),
        np.linalg.inv(poses[1]) @ poses[0],
    )
    found = np.isfinite(points[0][:, 0])
    return Rendered(views, points[0][found], points[1][found])


def test_points_go_where_the_renderer_says(rendered: Rendered) -> None:
    seen = seen_by_both(rendered.views, 1, 0.05)
    known = {(float(x), float(y)): place for (x, y), place in zip(seen.points, seen.places, strict=True)}
    assert len(rendered.points) >= 4
    for (x, y), there in zip(rendered.points, rendered.partner_points, strict=True):
        np.testing.assert_allclose(known[float(x), float(y)], there, atol=0.01)


def test_what_is_hidden_or_outside_is_left_out(rendered: Rendered) -> None:
    strict, loose = (seen_by_both(rendered.views, 4, tolerance) for tolerance in (0.02, 100.0))
    assert 0 < len(strict.points) < len(loose.points) < (SIDE // 4) ** 2
    for seen in (strict, loose):
        assert (seen.places >= 0).all()
        assert (seen.places < SIDE).all()
    gaps = np.abs(depth_at(rendered.views.depths[1], loose.places) - loose.surface[:, 2])
    assert (gaps <= 0.02).sum() == len(strict.points)
    assert gaps.max() > 0.2


def test_points_are_a_grid_of_pixel_centres(rendered: Rendered) -> None:
    for step in (4, 8):
        seen = seen_by_both(rendered.views, step, 0.05)
        assert ((seen.points - 0.5) % step == step // 2).all()
    assert len(seen_by_both(rendered.views, 4, 0.05).points) > 2 * len(seen.points)


def test_errors_are_distances_in_the_image_and_in_the_world(rendered: Rendered) -> None:
    seen = seen_by_both(rendered.views, 4, 0.02)
    pixels, metres = errors(seen.places, seen, rendered.views)
    assert pixels.max() == 0
    # A place lies inside a pixel, whose depth is that of its middle.
    assert np.median(metres) < 0.02
    shifted = seen.places + np.array([3.0, 4.0])
    inside = (shifted < SIDE).all(1)
    pixels, metres = errors(shifted, seen, rendered.views)
    assert pixels == pytest.approx(np.full(len(pixels), 5.0))
    assert np.isinf(metres[~inside]).all()
    matrix = rendered.views.intrinsics[1]
    for row in np.flatnonzero(np.isfinite(metres))[:20]:
        x, y = shifted[row]
        depth = float(rendered.views.depths[1][int(y), int(x)])
        there = depth * np.array([(x - SIDE / 2) / matrix[0, 0], (y - SIDE / 2) / matrix[1, 1], 1.0])
        assert metres[row] == pytest.approx(np.linalg.norm(there - seen.surface[row]))


def test_unknown_depth_is_nowhere(rendered: Rendered) -> None:
    first, second = rendered.views.depths
    seen = seen_by_both(rendered.views, 4, 0.05)
    nothing = np.zeros_like(first)
    assert not len(seen_by_both(rendered.views._replace(depths=(nothing, second)), 4, 0.05).points)
    blind = rendered.views._replace(depths=(first, nothing))
    assert not len(seen_by_both(blind, 4, 0.05).points)
    assert np.isinf(errors(seen.places, seen, blind)[1]).all()


def test_points_behind_the_second_camera_are_not_seen(rendered: Rendered) -> None:
    back = np.diag([-1.0, 1.0, -1.0, 1.0])
    assert not len(seen_by_both(rendered.views._replace(motion=back), 4, 100.0).points)


def test_the_angle_between_cameras() -> None:
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    assert turned(motion) == pytest.approx(np.degrees(0.3))
    assert turned(np.eye(4)) == 0
    assert turned(np.diag([1.0, -1, -1, 1])) == pytest.approx(180)
    # Rounding takes the cosine beyond 1 at either end.
    assert turned(np.diag([1 + 1e-12, 1, 1, 1])) == 0
    assert turned(np.diag([1.0, -1, -1 - 1e-12, 1])) == pytest.approx(180)


def test_a_point_has_the_depth_of_the_pixel_that_it_lies_in() -> None:
    depth = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    points = np.array([[0, 0], [2.99, 1.99], [1, 1], [3, 0], [0, 2], [-0.01, 0], [0, -0.01], [2.5, 0.5]])
    assert depth_at(depth, points).tolist() == [1, 6, 5, 0, 0, 0, 0, 3]


def test_a_camera_by_hand() -> None:
    matrix = np.array([[10.0, 0, 20], [0, 5, 30], [0, 0, 1]])
    surface = lifted(np.array([[30.0, 40]]), np.array([3.0]), matrix)
    assert surface == pytest.approx(np.array([[3.0, 6, 3]]))
    assert projected(surface, matrix) == pytest.approx(np.array([[30.0, 40]]))


def wall(second: float = 2.0, ahead: float = 0.0) -> Views:
    """A wall two metres before the first camera; the depth that the second measures, and its motion."""
    matrix, motion = np.array([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]), np.eye(4)
    motion[2, 3] = ahead
    depths = np.full((6, 8), 2, np.float32), np.full((6, 8), second, np.float32)
    return Views(("a", "b"), Image.new("RGB", (8, 6)), depths, (matrix, matrix), motion)


def test_depths_that_differ_by_the_tolerance_agree() -> None:
    for second, shown in ((2.0, 12), (2.25, 12), (1.75, 12), (2.26, 0), (1.74, 0)):
        assert len(seen_by_both(wall(second), 2, 0.25).points) == shown
    np.testing.assert_array_equal(
        seen_by_both(wall(), 3, 0.0).points, [[x + 0.5, y + 0.5] for y in (1, 4) for x in (1, 4, 7)]
    )


def test_a_point_in_the_plane_of_the_second_camera_is_not_seen() -> None:
    assert not len(seen_by_both(wall(ahead=-2.0), 2, 100.0).points)
    assert len(seen_by_both(wall(ahead=2.0), 2, 100.0).points) == 12


def test_errors_at_a_place_without_depth_are_infinite_and_others_by_hand() -> None:
    views = wall()
    seen = Seen(
        np.zeros((2, 2)), np.array([[4.5, 3.5], [0.5, 0.5]]), np.array([[0.125, 0.125, 2.0], [0, 0, 2]])
    )
    pixels, metres = errors(np.array([[4.5, 5.5], [8.5, 0.5]]), seen, views)
    assert pixels == pytest.approx([2.0, 8.0])
    assert metres == pytest.approx([0.5, np.inf])


def test_points_of_both_images_are_compared_in_the_frame_of_the_second_camera() -> None:
    """A wall 2 m away and a camera that moved 0.1 m to the left: 5 pixels at a focal length of 100."""
    depth = np.full((40, 60), 2.0, np.float32)
    camera = np.array([[100.0, 0, 30], [0, 100.0, 20], [0, 0, 1]])
    motion = np.eye(4)
    motion[0, 3] = 0.1
    views = Views(("a", "b"), Image.new("RGB", (60, 40)), (depth, depth), (camera, camera), motion)
    here = np.array([[10.5, 10.5], [20.5, 30.5], [20.5, 30.5]])
    there = np.array([[15.5, 10.5], [25.5, 34.5], [22.5, 30.5]])
    pixels, metres = errors_of_pairs((here, there), views)
    np.testing.assert_allclose(pixels, [0, 4, 3], atol=1e-9)
    np.testing.assert_allclose(metres, [0, 4 * 2 / 100, 3 * 2 / 100], atol=1e-9)
    motion[2, 3] = -5.0
    pixels, _ = errors_of_pairs((here, there), views)
    assert np.isinf(pixels).all()


def test_known_points_are_centres_of_pixels_with_depth() -> None:
    depth = np.zeros((4, 6), np.float32)
    depth[1, 3], depth[3, 1], depth[2, 2] = 2, 3, 9
    points, depths = known_points(depth, 2)
    assert points.tolist() == [[3.5, 1.5], [1.5, 3.5]]
    assert depths.tolist() == [2, 3]
