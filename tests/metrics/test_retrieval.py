import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Metric, Samples
from ssleval.metrics.retrieval import (
    average_precision,
    micro_average_precision_of,
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


def micro(samples: Samples, weights: np.ndarray) -> float:
    statistic = micro_average_precision_of("scores", "right", "positives")
    return float(statistic(samples, weights[None].astype(float))[0])


def candidates(seed: int, found: int = 12) -> Samples:
    random = np.random.default_rng(seed)
    scores, right = random.random((9, 12)).round(1), random.random((9, 12)) < 0.3
    columns = {"scores": scores[:, :found], "right": right[:, :found], "positives": right.sum(1)}
    return Samples([str(row) for row in range(9)], columns)


@pytest.mark.parametrize("seed", range(4))
def test_micro_average_precision_is_that_of_all_pairs(seed: int) -> None:
    samples = candidates(seed)
    expected = average_precision_score(samples["right"].ravel(), samples["scores"].ravel())
    assert micro(samples, np.ones(9)) == pytest.approx(expected, abs=1e-12)
    counts = np.array([2, 0, 1, 1, 0, 3, 1, 1, 0])
    right, scores = (np.repeat(samples[name], counts, axis=0).ravel() for name in ("right", "scores"))
    assert micro(samples, counts) == pytest.approx(average_precision_score(right, scores), abs=1e-12)


def test_answers_that_no_candidate_is_count_as_missed() -> None:
    cut = candidates(0, found=4)
    seen = average_precision_score(cut["right"].ravel(), cut["scores"].ravel())
    share = cut["right"].sum() / cut["positives"].sum()
    assert share < 1
    metric = Metric("micro_ap", micro_average_precision_of("scores", "right", "positives"))
    assert metric.score(cut) == pytest.approx(seen * share, abs=1e-12)


def test_nothing_found_is_zero_and_nothing_to_find_is_undefined() -> None:
    samples = Samples(["a"], {"scores": np.ones((1, 2)), "right": np.zeros((1, 2)), "positives": np.ones(1)})
    assert micro(samples, np.ones(1)) == 0.0
    nothing = Samples(["a"], {**samples.columns, "positives": np.zeros(1)})
    assert np.isnan(micro(nothing, np.ones(1)))
