import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from ssleval.core import Metric, Samples
from ssleval.metrics.influence import influence_of, spread
from ssleval.metrics.intervals import estimates
from ssleval.metrics.separation import auroc_of, fpr95_of

AREA, ALARMS = Metric("auroc", auroc_of("score", "out")), Metric("fpr95", fpr95_of("score", "out"))


def samples(inside: np.ndarray, outside: np.ndarray) -> Samples:
    scores = np.concatenate([inside, outside])
    columns = {"score": scores, "out": np.arange(len(scores)) >= len(inside)}
    return Samples([str(row) for row in range(len(scores))], columns)


def drawn(
    seed: int, inside: int = 150, outside: int = 120, *, shift: float = 2.0, digits: int = 9
) -> Samples:
    random = np.random.default_rng(seed)
    pair = random.normal(size=inside), random.normal(shift, 1.2, outside)
    return samples(*(np.round(scores, digits) for scores in pair))


@pytest.mark.parametrize("digits", [9, 1, 0])
@pytest.mark.parametrize("seed", range(4))
def test_both_are_scikit_learns(seed: int, digits: int) -> None:
    given = drawn(seed, digits=digits)
    assert AREA.score(given) == pytest.approx(roc_auc_score(given["out"], given["score"]), abs=1e-12)
    false, true, _ = roc_curve(given["out"], given["score"], drop_intermediate=False)
    assert ALARMS.score(given) == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)


@pytest.mark.parametrize("outside", [19, 20, 21, 120])
def test_false_alarms_by_the_definition_written_out(outside: int) -> None:
    given = drawn(3, 70, outside, digits=1)
    score, out = given["score"], given["out"]
    thresholds = [t for t in np.unique(score) if (score[out] >= t).mean() >= 0.95]
    assert ALARMS.score(given) == pytest.approx((score[~out] >= max(thresholds)).mean(), abs=1e-12)


def test_pairs_are_counted_with_ties_as_halves() -> None:
    given = samples(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    assert AREA.score(given) == (0.5 + 1 + 1 + 1) / 4
    assert AREA.score(samples(np.array([5.0, 6.0]), np.array([1.0, 2.0]))) == 0
    assert ALARMS.score(samples(np.array([5.0, 6.0]), np.array([1.0, 2.0]))) == 1
    assert ALARMS.score(samples(np.array([0.0, 1.0]), np.array([3.0, 2.0]))) == 0


def test_a_side_without_images_has_no_score() -> None:
    given = drawn(0)
    weights = np.stack([given["out"], ~given["out"]]).astype(float)
    for metric in (AREA, ALARMS):
        assert np.isnan(metric.statistic(given, weights)).all()


def test_moves_of_the_area_are_those_of_leaving_items_out() -> None:
    given = drawn(1, 30, 20, digits=1)
    without = AREA.statistic(given, 1 - np.eye(50))
    found = influence_of(AREA, given, None)
    assert found.by_unit == pytest.approx(AREA.score(given) - without, abs=1e-12)
    assert found.units == 20


def test_errors_are_the_deviation_over_draws() -> None:
    for metric, tolerance in ((AREA, 0.15), (ALARMS, 0.25)):
        runs = [drawn(seed, 600, 400) for seed in range(200)]
        error = np.mean([spread(influence_of(metric, one, None))[0] for one in runs[:50]]) ** 0.5
        assert error == pytest.approx(np.std([metric.score(one) for one in runs]), rel=tolerance)


def test_intervals_hold_the_true_rate() -> None:
    truth = 1 - norm.cdf(norm.ppf(0.05, 2.0, 1.2)), norm.cdf(2.0 / (1 + 1.2**2) ** 0.5)
    held = np.zeros(2)
    for seed in range(100):
        found = estimates([ALARMS, AREA], drawn(seed, 400, 300))
        held += [found[name].low <= true <= found[name].high for name, true in zip(found, truth, strict=True)]
    assert held.min() >= 89


def test_a_perfect_separation_is_as_sure_as_the_smaller_side() -> None:
    found = estimates([AREA, ALARMS], samples(np.zeros(1000), np.ones(30)))
    assert found["auroc"].value == 1
    assert 0.8 < found["auroc"].low < 0.95
    assert 0.05 < found["fpr95"].high < 0.2
