import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core.targets import Groups
from ssleval.metrics.retrieval import (
    average_precision,
    graded_scores,
    plain_scores,
    precision_at,
    precision_within,
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


def groups(letters: str) -> Groups:
    """Ranks of easy, hard and junk images in a ranking of their letters; w is wrong."""
    easy, hard, junk = (
        np.array([i for i, one in enumerate(letters) if one == kind], np.int64) for kind in "ehj"
    )
    return Groups(easy, hard, junk)


def test_recall_at_k_is_whether_the_first_right_answer_is_among_k_without_junk() -> None:
    found = plain_scores(groups("jwjew"), (1, 2, 3))
    assert found == {"ap": 0.5, "recall@1": 0.0, "recall@2": 1.0, "recall@3": 1.0}


def test_answers_of_other_grades_are_junk() -> None:
    found = graded_scores(groups("hwejw"), (1, 2, 10), ("easy", "hard", "medium"))
    # Easy: "we". Hard: "hw". Both: "hwe".
    assert found == pytest.approx(
        {
            "ap_easy": (0 + 1 / 2) / 2,
            "mp_easy@1": 0.0,
            "mp_easy@2": 0.5,
            "mp_easy@10": 0.5,
            "ap_hard": 1.0,
            "mp_hard@1": 1.0,
            "mp_hard@2": 1.0,
            "mp_hard@10": 1.0,
            "ap_medium": (1 + (1 / 2 + 2 / 3) / 2) / 2,
            "mp_medium@1": 1.0,
            "mp_medium@2": 0.5,
            "mp_medium@10": 2 / 3,
        }
    )


def test_answers_beyond_the_depth_of_a_ranking_are_missed() -> None:
    ranked = groups("jewewe")
    one, two = (1 + 1) / 2, (1 / 2 + 2 / 3) / 2
    three = (2 / 4 + 3 / 5) / 2
    for depth, area in ((1, one), (2, one), (3, one + two), (4, one + two), (5, one + two + three)):
        assert precision_within(ranked, depth) == pytest.approx(area / 3)
    assert precision_within(ranked, 0) == precision_within(ranked, 99) == precision_within(ranked, 5)
    assert np.isnan(precision_within(groups("ww"), 1))
