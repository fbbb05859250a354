import math

import numpy as np
import pytest

from ssleval.heads.open_set import Neighbours

RANDOM = np.random.default_rng(0)
SIMILARITY = -np.sort(-RANDOM.uniform(-0.5, 1.0, (60, 9)).astype(np.float32), axis=1)
LABELS = RANDOM.integers(0, 6, (60, 9)) * 10


def probability(similarity: list[float], labels: list[int], t: float, classes: int) -> tuple[int, float]:
    """One query by dictionaries: the reference."""
    best: dict[int, float] = {}
    for cosine, label in zip(similarity, labels, strict=True):
        best[label] = max(best.get(label, 0.0), cosine)
    weights = {label: math.exp(t * cosine) for label, cosine in best.items()}
    label = max(sorted(best), key=lambda one: best[one])
    return label, weights[label] / (sum(weights.values()) + classes - len(weights))


@pytest.mark.parametrize("t", [0.01, 1.0, 15.0])
@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("classes", [6, 1000])
def test_class_and_confidence_are_those_of_plain_dictionaries(t: float, k: int, classes: int) -> None:
    found = Neighbours(SIMILARITY, LABELS, classes).classify(k, t)
    for row in range(len(LABELS)):
        label, expected = probability(SIMILARITY[row, :k].tolist(), LABELS[row, :k].tolist(), t, classes)
        assert found[0][row] == label
        assert found[1][row] == pytest.approx(math.log(expected / (1 - expected)), abs=1e-9)


def test_scale_k_and_number_of_classes_change_the_confidence() -> None:
    base = Neighbours(SIMILARITY, LABELS, 100).classify(9, 10.0)[1]
    for other in (
        Neighbours(SIMILARITY, LABELS, 100).classify(9, 11.0),
        Neighbours(SIMILARITY, LABELS, 101).classify(9, 10.0),
        Neighbours(SIMILARITY, LABELS, 100).classify(3, 10.0),
    ):
        assert (other[1] != base).mean() > 0.9


def test_confidences_that_round_to_one_are_still_told_apart() -> None:
    near = np.array([[0.8, 0.1], [0.9, 0.1]], np.float32)
    odds = Neighbours(near, np.array([[0, 1], [0, 1]]), 224_408).classify(2, 500.0)[1]
    assert 1 - np.exp(-odds)[0] == 1 - np.exp(-odds)[1] == 1
    assert odds[0] < odds[1] < math.inf


def test_of_equally_near_classes_the_smaller_wins_and_what_points_away_is_at_nothing() -> None:
    near = np.array([[0.5, 0.5, 0.2], [-0.1, -0.2, -0.3]], np.float32)
    labels = np.array([[9, 4, 1], [7, 8, 3]])
    predicted, odds = Neighbours(near, labels, 10).classify(3, 2.0)
    assert predicted.tolist() == [4, 3]
    assert odds[1] == pytest.approx(math.log(1 / 9))
    assert odds[0] == pytest.approx(math.log(math.e / (math.e + math.exp(0.4) + 7)), abs=1e-6)


def test_with_one_class_there_is_no_doubt() -> None:
    assert Neighbours(SIMILARITY, LABELS * 0, 1).classify(9, 1.0)[1].min() == math.inf
