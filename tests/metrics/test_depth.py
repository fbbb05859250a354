import numpy as np
import pytest
import torch
from sklearn.metrics import root_mean_squared_error, root_mean_squared_log_error
from torchmetrics.regression import MeanAbsolutePercentageError

from ssleval.metrics.depth import ERRORS, depth_errors


def maps() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    target = random.uniform(0.2, 12, (30, 40)).astype(np.float32)
    predicted = (target * random.lognormal(0.1, 0.3, target.shape)).astype(np.float32)
    target[random.random(target.shape) < 0.3] = 0
    return predicted, target


def errors(nearest: float = 0.001, farthest: float = 10.0) -> dict[str, float]:
    return dict(zip(ERRORS, depth_errors(*maps(), nearest=nearest, farthest=farthest), strict=True))


def test_errors_equal_other_implementations() -> None:
    predicted, target = maps()
    known = (target > 0.001) & (target < 10)
    found, true = predicted[known].astype(float), target[known].astype(float)
    got = errors()
    assert got["rmse"] == pytest.approx(root_mean_squared_error(true, found))
    relative = MeanAbsolutePercentageError()(torch.from_numpy(found), torch.from_numpy(true))
    assert got["abs_rel"] == pytest.approx(float(relative))
    # sklearn takes log(1 + x): shifted by one it is the plain logarithm, of values above one.
    scaled = root_mean_squared_log_error(10 * true - 1, 10 * found - 1)
    assert got["rmse_log"] == pytest.approx(scaled)
    ratio = np.log(found / true)
    assert got["silog"] == pytest.approx(100 * np.sqrt((ratio**2).mean() - ratio.mean() ** 2))
    assert got["log10"] == pytest.approx(
        np.mean([abs(np.log10(f / t)) for f, t in zip(found, true, strict=True)])
    )
    assert got["sq_rel"] == pytest.approx(
        np.mean([(f - t) ** 2 / t for f, t in zip(found, true, strict=True)])
    )
    for power in (1, 2, 3):
        near = np.abs(ratio) < power * np.log(1.25)
        assert got[f"delta{power}"] == pytest.approx(near.mean())


def test_the_range_decides_which_pixels_count() -> None:
    assert errors()["rmse"] != errors(farthest=8.0)["rmse"] != errors(nearest=2.0)["rmse"]


def test_a_map_without_known_depth_is_left_out() -> None:
    nothing = np.zeros((3, 3), np.float32)
    assert np.isnan(depth_errors(nothing + 1, nothing, nearest=0.1, farthest=10.0)).all()


def test_a_perfect_map_has_no_error() -> None:
    target = np.full((3, 3), 2.0, np.float32)
    assert depth_errors(target, target, nearest=0.1, farthest=10.0) == (0,) * 6 + (1,) * 3


def test_a_pixel_at_a_limit_does_not_count() -> None:
    target = np.array([[1.0, 2.0, 4.0, 8.0]])
    predicted = np.array([[9.0, 3.0, 5.0, 99.0]])
    assert depth_errors(predicted, target, nearest=1.0, farthest=8.0)[0] == 1.0


def test_a_factor_of_exactly_five_quarters_is_too_much() -> None:
    # Exact in binary: 1.25, 1.25^2 = 25/16 and 1.25^3 = 125/64, and pixels one part in 64 nearer.
    target = np.full((1, 6), 64.0)
    predicted = np.array([[80.0, 79.0, 100.0, 99.0, 125.0, 124.0]])
    found = depth_errors(predicted, target, nearest=1.0, farthest=100.0)
    assert found[6:] == pytest.approx((1 / 6, 3 / 6, 5 / 6))
    assert depth_errors(target, predicted, nearest=1.0, farthest=200.0)[6:] == pytest.approx(found[6:])
