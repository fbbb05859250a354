import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Samples
from ssleval.metrics.multilabel import average_precisions, mean_average_precision_of, precisions_without_each


@pytest.fixture
def ranked() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    targets = random.random((60, 4)) < 0.3
    return np.round(targets + random.standard_normal((60, 4)), 1), targets  # rounding makes ties


def test_average_precision_equals_scikit_learns_under_any_weights(
    ranked: tuple[np.ndarray, np.ndarray],
) -> None:
    scores, targets = ranked
    weights = np.stack([np.ones(60), *np.random.default_rng(1).multinomial(60, [1 / 60] * 60, 5)])
    found = average_precisions(scores, targets, weights)
    for row, weight in zip(found, weights, strict=True):
        for label in range(4):
            expected = average_precision_score(targets[:, label], scores[:, label], sample_weight=weight)
            assert row[label] == pytest.approx(expected)


def test_a_class_without_positives_is_left_out(ranked: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = ranked
    targets[:, 2] = False
    samples = Samples([""] * 60, {"s": scores, "t": targets})
    expected = np.mean([average_precision_score(targets[:, c], scores[:, c]) for c in (0, 1, 3)])
    assert mean_average_precision_of("s", "t")(samples, np.ones((1, 60)))[0] == pytest.approx(expected)
    nobody = Samples([""] * 60, {"s": scores, "t": targets & False})
    assert np.isnan(mean_average_precision_of("s", "t")(nobody, np.ones((1, 60)))[0])


def test_precision_without_an_item_is_that_of_the_others(ranked: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = ranked
    targets[:, 1], targets[:, 2] = False, np.arange(60) == 7
    full, without = precisions_without_each(scores, targets)
    assert full == pytest.approx(average_precisions(scores, targets, np.ones((1, 60)))[0], nan_ok=True)
    for item in range(60):
        left = np.arange(60) != item
        wanted = average_precisions(scores[left], targets[left], np.ones((1, 59)))[0]
        if item == 7:
            wanted[2] = full[2]
        assert without[item] == pytest.approx(wanted, nan_ok=True)
