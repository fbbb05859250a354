import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from ssleval.metrics.stats import deviation_contributions


@pytest.fixture
def correct() -> np.ndarray:
    return np.random.default_rng(0).random((500, 5)) < [0.5, 0.6, 0.62, 0.7, 0.8]


def test_contributions_average_to_the_deviation_over_tries(correct: np.ndarray) -> None:
    one_group = np.zeros(500, int)
    expected = np.std(correct.mean(axis=0), ddof=1)
    assert deviation_contributions(correct, one_group).mean() == pytest.approx(expected)


def test_with_groups_the_score_is_mean_per_class(correct: np.ndarray) -> None:
    labels = np.random.default_rng(1).choice(3, 500, p=[0.6, 0.3, 0.1])
    scores = [
        balanced_accuracy_score(labels, np.where(right, labels, (labels + 1) % 3)) for right in correct.T
    ]
    found = deviation_contributions(correct, labels)
    assert found.mean() == pytest.approx(np.std(scores, ddof=1))


def test_contributions_vary_like_resampled_deviations(correct: np.ndarray) -> None:
    random = np.random.default_rng(2)
    drawn = [np.std(correct[random.integers(0, 500, 500)].mean(axis=0), ddof=1) for _ in range(2000)]
    found = deviation_contributions(correct, np.zeros(500, int))
    assert found.std() / np.sqrt(500) == pytest.approx(np.std(drawn), rel=0.15)


def test_equal_tries_do_not_deviate() -> None:
    assert deviation_contributions(np.ones((4, 3), bool), np.zeros(4, int)).tolist() == [0.0] * 4
