import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ssleval.core import Samples
from ssleval.metrics.multilabel import (
    average_precisions,
    eleven_point_precision_of,
    mean_average_precision_of,
    precisions_without_each,
)


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


@pytest.fixture
def doubtful(ranked: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Labels 1 and 0, and -1 for a tenth of them."""
    scores, targets = ranked
    labels = targets.astype(np.int8)
    labels[np.random.default_rng(2).random(labels.shape) < 0.1] = -1
    return scores, labels


def test_items_below_zero_count_neither_way(doubtful: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = doubtful
    expected = [
        average_precision_score(labels[labels[:, c] >= 0, c], scores[labels[:, c] >= 0, c]) for c in range(4)
    ]
    samples = Samples([""] * 60, {"s": scores, "t": labels})
    found = mean_average_precision_of("s", "t")(samples, np.ones((1, 60)))
    assert found[0] == pytest.approx(np.mean(expected))
    full, without = precisions_without_each(scores, labels)
    assert full == pytest.approx(expected)
    for item in range(60):
        left = np.arange(60) != item
        assert without[item] == pytest.approx(
            average_precisions(scores[left], labels[left], np.ones((1, 59)))[0]
        )
    labels[:, 1] = -1
    assert np.isnan(average_precisions(scores, labels, np.ones((1, 60)))[0, 1])


def eleven_points(scores: np.ndarray, labels: np.ndarray) -> float:
    """The development kit of 2007 in words: one cut for every score, tenths of the recall."""
    cuts = [scores[labels >= 0] >= cut for cut in set(scores[labels >= 0].tolist())]
    truth = labels[labels >= 0] > 0
    points = [((cut & truth).sum(), cut.sum()) for cut in cuts]
    best = [
        max(float(hits / seen) for hits, seen in points if hits * 10 >= tenth * truth.sum())
        for tenth in range(11)
    ]
    return sum(best) / 11


def test_eleven_points_are_those_of_the_development_kit(doubtful: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = doubtful
    expected = np.mean([eleven_points(scores[:, c], labels[:, c]) for c in range(4)])
    samples = Samples([""] * 60, {"s": scores, "t": labels})
    statistic = eleven_point_precision_of("s", "t")
    assert statistic(samples, np.ones((1, 60)))[0] == pytest.approx(expected)
    assert statistic(samples, np.full((1, 60), 3.0))[0] == pytest.approx(expected)
    by_hand = Samples(["", "", ""], {"s": np.array([[3.0], [2], [1]]), "t": np.array([[1], [0], [1]])})
    # Precision 1 up to recall 1/2 (six points), 2/3 beyond.
    assert statistic(by_hand, np.ones((1, 3)))[0] == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_how_many_draws_are_ranked_at_a_time_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, ranked: tuple[np.ndarray, np.ndarray]
) -> None:
    weights = np.random.default_rng(1).integers(0, 3, (7, 60)).astype(float)
    whole = average_precisions(*ranked, weights)
    for at_once in (1, 3 * 60):
        monkeypatch.setattr("ssleval.metrics.multilabel._VALUES_AT_ONCE", at_once)
        np.testing.assert_allclose(average_precisions(*ranked, weights), whole, rtol=1e-12)
