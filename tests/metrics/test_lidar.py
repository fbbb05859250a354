import numpy as np
import pytest
from scipy.linalg import sqrtm

from ssleval.errors import DataError
from ssleval.metrics.lidar import lidar


def views(n: int = 40, q: int = 3, d: int = 5, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Return ``[q n d]``: images of different spread along each axis, and noise between their views."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((n, d)) * np.linspace(0.2, 2, d) + 3
    return images + noise * random.standard_normal((q, n, d)) * np.linspace(1, 0.5, d)


def reference(seen: np.ndarray, weights: np.ndarray, delta: float) -> float:
    """LiDAR as the paper writes it, image by image, of images that count ``weights``."""
    centres = seen.mean(0)
    mean = (weights[:, None] * centres).sum(0)
    between = sum(w * np.outer(c - mean, c - mean) for w, c in zip(weights, centres, strict=True))
    within = delta * np.eye(seen.shape[2])
    for image, weight in enumerate(weights):
        for view in seen[:, image]:
            gap = view - centres[image]
            within = within + weight * np.outer(gap, gap) / (len(seen) - 1)
    whiten = np.linalg.inv(np.real(sqrtm(within)))
    values = np.linalg.eigvalsh(whiten @ between @ whiten).clip(min=0)
    share = values / values.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("delta", [1e-4, 0.5])
def test_it_is_the_papers_number(delta: float) -> None:
    seen = views()
    expected = reference(seen, np.full(40, 1 / 40), delta)
    assert lidar(list(seen), delta=delta).mean() == pytest.approx(expected, rel=1e-9)


def test_delta_changes_it() -> None:
    seen = list(views())
    assert lidar(seen, delta=1e-4).mean() != pytest.approx(lidar(seen, delta=0.5).mean(), rel=1e-3)


def test_contributions_are_first_order_influences() -> None:
    seen, step = views(), 1e-6
    found = lidar(list(seen), delta=0.01)
    for image in (0, 7, 39):
        weights = np.full(40, (1 - step) / 40)
        weights[image] += step
        change = (reference(seen, weights, 0.01) - reference(seen, np.full(40, 1 / 40), 0.01)) / step
        assert found[image] - found.mean() == pytest.approx(change, rel=1e-3, abs=1e-5)


def test_directions_that_change_between_views_do_not_count() -> None:
    random = np.random.default_rng(0)
    images = random.standard_normal((400, 6))
    steady = np.stack([images] * 2) + 0.01 * random.standard_normal((2, 400, 6))
    restless = steady.copy()
    restless[:, :, 3:] += random.standard_normal((2, 400, 3))
    assert lidar(list(steady), delta=1e-4).mean() == pytest.approx(6, abs=0.1)
    assert lidar(list(restless), delta=1e-4).mean() == pytest.approx(3, abs=0.1)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list(views())
    whole = lidar(seen, delta=1e-4)
    monkeypatch.setattr("ssleval.metrics.lidar._VALUES", 7 * 3 * 5)
    np.testing.assert_allclose(lidar(seen, delta=1e-4), whole, rtol=1e-9)


def test_what_has_no_views_or_no_differences_is_refused() -> None:
    with pytest.raises(DataError, match="1 view of"):
        lidar(list(views(q=1)), delta=1e-4)
    with pytest.raises(DataError, match="same features"):
        lidar(list(np.ones((2, 5, 3))), delta=1e-4)
    with pytest.raises(DataError, match="2 views of 1 image;"):
        lidar(list(views(n=1, q=2)), delta=1e-4)
    seen = views(n=2, q=2)
    assert lidar(list(seen), delta=0.1).mean() == pytest.approx(reference(seen, np.full(2, 0.5), 0.1))
