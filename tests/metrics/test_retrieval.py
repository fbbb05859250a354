import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.metrics.retrieval import (
    average_precision,
    precision_at,
    ranks_without,
    trapezoid_average_precision,
)


def rankings(seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """A ranking of letters (right, junk, wrong), and the ranks of what is right and of the junk."""
    letters = np.random.default_rng(seed).choice(list("rjw"), 40).tolist()
    right, junk = (np.array([i for i, one in enumerate(letters) if one == kind]) for kind in "rj")
    return letters, right, junk


@pytest.mark.parametrize("seed", range(6))
def test_junk_leaves_the_ranking(seed: int) -> None:
    letters, right, junk = rankings(seed)
    left = [one for one in letters if one != "j"]
    expected = [i for i, one in enumerate(left) if one == "r"]
    shuffled = np.random.default_rng(seed).permutation
    assert ranks_without(shuffled(right), shuffled(junk)).tolist() == expected


@pytest.mark.parametrize("seed", range(6))
def test_plain_average_precision_is_scikit_learns(seed: int) -> None:
    letters, right, _ = rankings(seed)
    truth = [one == "r" for one in letters]
    expected = average_precision_score(truth, -np.arange(len(letters)))
    assert average_precision(right) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_trapezoids_are_the_area_under_the_curve(seed: int) -> None:
    """Independently: the precision-recall curve image by image, integrated by NumPy."""
    letters, right, _ = rankings(seed)
    truth = np.array([one == "r" for one in letters])
    hits = np.concatenate([[0], np.cumsum(truth)])
    seen = np.arange(len(hits))
    precision = np.where(seen > 0, hits / np.maximum(seen, 1), 1.0)
    area = np.trapezoid(precision, hits / truth.sum())
    assert trapezoid_average_precision(right, len(right)) == pytest.approx(area, abs=1e-12)
    assert trapezoid_average_precision(right, 2 * len(right)) == pytest.approx(area / 2, abs=1e-12)


def test_published_examples() -> None:
    assert trapezoid_average_precision(np.array([0, 1]), 2) == 1.0
    assert trapezoid_average_precision(np.array([1]), 1) == pytest.approx(0.25)
    assert average_precision(np.array([1])) == 0.5
    assert np.isnan(trapezoid_average_precision(np.zeros(0, np.int64), 0))
    assert np.isnan(average_precision(np.zeros(0, np.int64)))
    assert np.isnan(precision_at(np.zeros(0, np.int64), 5))


def test_precision_at_k_ends_with_the_last_right_answer() -> None:
    places = np.array([0, 2, 3])
    assert precision_at(places, 1) == 1.0
    assert precision_at(places, 2) == 0.5
    assert precision_at(places, 10) == 0.75
