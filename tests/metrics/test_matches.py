from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from ssleval.core import Metric, Samples
from ssleval.core.targets import KeyPoints, Views
from ssleval.metrics.matches import key_point_metrics, key_point_scores, view_metrics, view_scores
from ssleval.metrics.recorded import describe

POINTS = np.array([[1, 1], [2, 5], [7, 3], [9, 9]], np.float32)


@dataclass
class Off:
    """Points of the first image are found this far from where they are."""

    by: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return points + self.by


def pair(box: tuple[float, float, float, float] = (2, 5, 22, 15)) -> KeyPoints:
    return KeyPoints(("a", "b"), Image.new("RGB", (40, 60)), POINTS, POINTS.copy(), box, category=3)


@pytest.mark.parametrize(
    ("normalise", "box", "side"),
    [("box", (2, 5, 22, 15), 20), ("box", (2, 5, 12, 25), 20), ("image", (2, 5, 22, 15), 60)],
)
def test_points_are_right_within_a_fraction_of_the_longer_side(
    normalise: str, box: tuple[float, float, float, float], side: int
) -> None:
    # Distances of 3-4-5 triangles: an eighth of the side, just more, half of it, none.
    by = np.array([[3, 4], [3, 4.01], [6, 8], [0, 0]]) * (side / 40)
    found = key_point_scores(pair(box), Off(by), (0.125, 0.25), normalise)  # pyright: ignore[reportArgumentType]
    assert found == {
        "pck@0.125": 0.5,
        "pck@0.25": 1.0,
        "right@0.125": 2,
        "right@0.25": 4,
        "points": 4,
        "category": 3,
    }


def test_a_pair_without_points_has_no_score() -> None:
    empty = pair()._replace(points=POINTS[:0], partner_points=POINTS[:0])
    assert key_point_scores(empty, Off(np.zeros(2)), (0.1,), "box") == {}


def scores(metrics: tuple[Metric, ...], columns: dict[str, np.ndarray]) -> dict[str, float]:
    samples = Samples([str(i) for i in range(len(next(iter(columns.values()))))], columns)
    return {metric.name: metric.score(samples) for metric in metrics}


def test_pck_is_averaged_over_pairs_over_points_and_over_categories() -> None:
    columns = {
        "pck@0.1": np.array([1.0, 0.5, 0.0]),
        "right@0.1": np.array([2, 4, 0]),
        "points": np.array([2, 8, 1]),
        "category": np.array([0, 0, 1]),
    }
    assert scores(key_point_metrics((0.1,)), columns) == pytest.approx(
        {"pck@0.1": 0.5, "pck_point@0.1": 6 / 11, "pck_macro@0.1": (0.75 + 0) / 2}
    )
    assert [describe(metric.statistic)["columns"] for metric in view_metrics((5.0, 10.0), (2.0,))] == [
        {"column": name} for name in ("recall_px@5", "recall_px@10", "recall_cm@2")
    ]


def views(turn: float = 0.0) -> Views:
    """A wall two metres ahead of a camera of focal length 8, which may turn about its axis."""
    motion, wall = np.eye(4), np.full((16, 16), 2, np.float32)
    motion[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix = np.array([[8.0, 0, 8], [0, 8, 8], [0, 0, 1]])
    return Views(("a", "b"), Image.new("RGB", (16, 16)), (wall, wall), (matrix, matrix), motion)


def test_recall_of_views_is_in_pixels_and_in_centimetres() -> None:
    seen = np.mgrid[2:16:4, 2:16:4].reshape(2, -1).T[:, ::-1] + 0.5

    def matched(points: np.ndarray) -> np.ndarray:
        np.testing.assert_array_equal(points, seen)
        off = np.zeros_like(points)
        # One pixel is a quarter of a metre on the wall.
        off[:8, 0], off[8:12, 1] = 1, 1.001
        return points + off

    found = view_scores(views(), matched, 4, 0.05, (0.5, 1.0, 2.0), (24.0, 25.0, 26.0))
    assert found == {
        "recall_px@0.5": 0.25,
        "recall_px@1": 0.75,
        "recall_px@2": 1.0,
        "recall_cm@24": 0.25,
        "recall_cm@25": 0.75,
        "recall_cm@26": 1.0,
        "points": 16,
        "degrees": 0.0,
    }


def test_views_that_share_nothing_have_no_score_and_turned_ones_an_angle() -> None:
    there: Callable[[np.ndarray], np.ndarray] = lambda points: points  # noqa: E731
    assert view_scores(views(), there, 4, -1.0, (1.0,), (1.0,)) == {}
    found = view_scores(views(np.pi / 2), there, 4, 0.05, (1.0,), (1.0,))
    assert found["degrees"] == pytest.approx(90)
    # Column and row of a point turn into minus row and column about the middle.
    assert (found["recall_px@1"], found["points"]) == (0.0, 16)
