from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import kurtosis

from ssleval.core import Metric, Samples
from ssleval.metrics import scatter
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.scatter import item_scatter
from ssleval.metrics.stats import mean_of, mean_ratio_of, ratio_of, resample_counts


def samples(**columns: np.ndarray) -> Samples:
    return Samples([str(i) for i in range(len(next(iter(columns.values()))))], columns)


def scatter_of(metric: Metric, runs: Sequence[Samples], resamples: int = 2000) -> tuple[float, float]:
    return item_scatter(metric, runs[:1], runs[1:], resamples, 0)


def test_the_variance_of_a_mean_is_that_of_endless_resamples() -> None:
    random, metric = np.random.default_rng(0), Metric("m", mean_of("x"))
    one, two = runs = [samples(x=random.gamma(2, size=50)) for _ in range(2)]
    variance, _ = scatter_of(metric, [one, two])
    assert variance == pytest.approx(np.var(one["x"] - two["x"], ddof=1) / 50)
    assert scatter_of(metric, runs, 1) == scatter_of(metric, runs, 9), "nothing is drawn"
    draws = np.concatenate(list(resample_counts(50, 40_000, 3)))
    drawn = metric.statistic(one, draws) - metric.statistic(two, draws)
    assert variance == pytest.approx(drawn.var() * 50 / 49, rel=0.03)
    # A mean of x over ones is the same number by the way that does draw.
    ratio = Metric("m", ratio_of("x", "one"))
    ones = [Samples(side.ids, {**side.columns, "one": np.ones(50)}) for side in (one, two)]
    assert scatter_of(ratio, ones) == pytest.approx(scatter_of(metric, [one, two]), rel=0.1)


def test_items_that_are_unknown_are_left_out_of_a_mean() -> None:
    random, metric = np.random.default_rng(1), Metric("m", mean_of("x"))
    one, two = random.normal(size=(2, 400))
    one[::2] = two[::2] = np.nan
    known = samples(x=one[1::2]), samples(x=two[1::2])
    found, _ = scatter_of(metric, [samples(x=one), samples(x=two)])
    assert found == pytest.approx(scatter_of(metric, known)[0], rel=0.15)


def test_degrees_of_freedom_are_those_of_the_exact_influences_however_few_resamples() -> None:
    random, n = np.random.default_rng(2), 300
    metric = Metric("m", ratio_of("x", "one"))
    rare = np.where(np.arange(n) % 50 == 0, 30.0, 0.1) * random.normal(size=n)
    one, zero = samples(x=rare, one=np.ones(n)), samples(x=np.zeros(n), one=np.ones(n))
    # Of a ratio by ones the influence is the item itself less the mean.
    want = 2 * n / (kurtosis(rare, fisher=False) - 1)
    for resamples in (20, 500):
        assert scatter_of(metric, [one, zero], resamples)[1] == pytest.approx(want, rel=1e-6)
    assert want < 20


def test_a_rare_class_leaves_few_degrees_of_freedom() -> None:
    random, n = np.random.default_rng(3), 200
    below = np.stack([np.ones(n), np.arange(n) < 5], axis=1).astype(float)
    metric = Metric("m", mean_ratio_of("above", "below"))
    one, two = (samples(above=below * random.random((n, 2)), below=below) for _ in range(2))
    variance, freedom = scatter_of(metric, [one, two])
    common, all_of_them = scatter_of(
        metric, [samples(above=s["above"][:, :1], below=below[:, :1]) for s in (one, two)]
    )
    assert freedom < 10
    assert all_of_them > 150
    assert variance > 4 * common


def test_many_items_are_left_out_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    random, n = np.random.default_rng(4), 240
    targets = random.random((n, 2)) < 0.4
    runs = [samples(scores=targets + random.normal(size=(n, 2)), targets=targets) for _ in range(2)]
    metric = Metric("map", mean_average_precision_of("scores", "targets"))
    variance, freedom = scatter_of(metric, runs, 200)
    monkeypatch.setattr(scatter, "_MOST_GROUPS", 50)
    grouped, fewer = scatter_of(metric, runs, 200)
    assert grouped == variance
    assert fewer <= 47 < freedom


def test_how_much_is_computed_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    metric = Metric("m", ratio_of("x", "y"))
    one, two = runs = [samples(x=random.random(40), y=random.random(40) + 1) for _ in range(2)]
    whole = scatter_of(metric, runs, 300)
    monkeypatch.setattr(scatter, "_WEIGHTS_AT_ONCE", 400)
    assert scatter_of(metric, runs, 300) == pytest.approx(whole)
    assert item_scatter(metric, [one], [two], 300, 1)[0] != whole[0]


def test_a_single_item_says_nothing() -> None:
    one = samples(x=np.ones(1))
    assert scatter_of(Metric("m", mean_of("x")), [one, one]) == (float("inf"), 1.0)
