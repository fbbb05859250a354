import numpy as np
import pytest

from ssleval.metrics.normals import ERRORS, angular_errors


def turned(degrees: float) -> np.ndarray:
    """A unit vector that many degrees from the z axis."""
    return np.array([np.sin(np.radians(degrees)), 0, np.cos(np.radians(degrees))], np.float32)


def test_shares_and_rmse_of_known_angles() -> None:
    """Angles that are set, not computed: half of the pixels are known."""
    degrees = [0.0, 11.0, 11.5, 22.0, 29.0, 31.0, 90.0, 180.0]
    predicted = np.stack([np.stack([turned(angle) for angle in degrees]), np.full((8, 3), 0.6, np.float32)])
    target = np.zeros((2, 8, 3), np.float32)
    target[0] = turned(0)
    found = dict(zip(ERRORS, angular_errors(predicted, target), strict=True))
    assert found["within@11.25"] == 2 / 8
    assert found["within@22.5"] == 4 / 8
    assert found["within@30"] == 5 / 8
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(degrees))), rel=1e-5)


def test_angles_are_those_of_the_arc_cosine() -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 6, 5, 3))
    first, second = (one / np.linalg.norm(one, axis=2, keepdims=True) for one in (first, second))
    angles = np.degrees(np.arccos((first * second).sum(2)))
    expected = [(angles < limit).mean() for limit in (11.25, 22.5, 30)] + [np.sqrt((angles**2).mean())]
    assert angular_errors(first, second) == pytest.approx(expected)


def test_an_image_without_a_known_normal_has_no_score() -> None:
    assert np.isnan(angular_errors(np.ones((2, 2, 3)), np.zeros((2, 2, 3)))).all()


def test_no_direction_is_a_right_angle_off() -> None:
    nothing, ahead = np.zeros((1, 1, 3)), np.array([[[0.0, 0.0, 1.0]]])
    assert angular_errors(nothing, ahead)[-1] == pytest.approx(90)
