"""Statistics of samples, and bootstrap intervals over the draw of items.

A `Statistic` returns a score for each row of item weights. A resample of a bootstrap is a row of counts, so
thousands of resamples are a few matrix products. The same rows serve every metric of a task and both sides of
a comparison.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Real

from ssleval.core import Metric, Samples, Statistic, statistics
from ssleval.core.text import counted
from ssleval.errors import ContractError

Weights: TypeAlias = Float[np.ndarray, "r n"]
"""A row of item weights for each of r resamples."""
Scores: TypeAlias = Float[np.ndarray, " r"]

_WEIGHTS_AT_ONCE = 4_000_000
"""Item weights held at a time: 32 MB, whatever the number of items."""


# Statistics ---------------------------------------------------------------------------------------


@statistics.register("mean_of")
def mean_of(column: str) -> Statistic:
    """Return the statistic that averages a column ``[n]``; NaN rows are left out."""
    return partial(_mean, column=column)


@statistics.register("ratio_of")
def ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides the sum of one column ``[n]`` by that of another."""
    return partial(_ratio, numerator=numerator, denominator=denominator)


@statistics.register("mean_ratio_of")
def mean_ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides sums over items class by class, then averages the classes.

    Columns are ``[n c]``; with intersections and unions it is the mean IoU of a split. A class whose
    denominator is 0 over the items drawn is left out.
    """
    return partial(_mean_ratio, numerator=numerator, denominator=denominator)


@statistics.register("mean_per_class_of")
def mean_per_class_of(correct: str, label: str) -> Statistic:
    """Return the statistic that averages ``correct [n]`` within each ``label [n]``, then over labels.

    A class without items in the draw is left out.
    """
    return partial(_mean_per_class, correct=correct, label=label)


def _mean(samples: Samples, weights: Weights, *, column: str) -> Scores:
    values = samples[column].astype(np.float64)
    if samples[column].dtype.kind in "biu":
        return divide(weights @ values, weights.sum(axis=1))
    known = ~np.isnan(values)
    return divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def _ratio(samples: Samples, weights: Weights, *, numerator: str, denominator: str) -> Scores:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return divide(weights @ above, weights @ below)


def _mean_ratio(samples: Samples, weights: Weights, *, numerator: str, denominator: str) -> Scores:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return _mean_over_classes(weights @ above, weights @ below)


def _mean_per_class(samples: Samples, weights: Weights, *, correct: str, label: str) -> Scores:
    # Summing runs of sorted labels needs no [n c] one-hot matrix, which for ImageNet would take 400 MB.
    order = np.argsort(samples[label], kind="stable")
    _, starts = np.unique(samples[label][order], return_index=True)
    drawn = weights[:, order]
    right = np.add.reduceat(drawn * samples[correct][order].astype(np.float64), starts, axis=1)
    return _mean_over_classes(right, np.add.reduceat(drawn, starts, axis=1))


def _mean_over_classes(above: Float[np.ndarray, "r c"], below: Float[np.ndarray, "r c"]) -> Scores:
    present = below > 0
    return divide(np.where(present, divide(above, below), 0.0).sum(axis=1), present.sum(axis=1))


def divide(
    above: Float[np.ndarray, "*s"], below: Real[np.ndarray, "*s"], otherwise: float = np.nan
) -> Float[np.ndarray, "*s"]:
    """Return ``above / below``, and ``otherwise`` where ``below`` is 0."""
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below != 0)


# Intervals ----------------------------------------------------------------------------------------


def bootstrap(
    metrics: Sequence[Metric], samples: Samples, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Return the percentile bootstrap interval of every metric, with coverage ``level`` in (0, 1).

    All metrics use the same resamples of items. Resamples for which a metric is undefined are left out of its
    interval. The result depends on ``seed`` and the samples, not on how much is computed at a time.

    Raises:
        ContractError: no items, no resamples, or a level outside (0, 1).

    Source:
        Efron 1979; the percentile interval of Efron & Tibshirani 1993, sec. 13.3.
    """
    if len(samples) < 1 or resamples < 1 or not 0 < level < 1:
        raise ContractError(
            f"bootstrap of {counted(len(samples), 'item')}, {counted(resamples, 'resample')}, level {level}: "
            "needs one item, one resample and a level between 0 and 1"
        )
    scores: dict[str, list[Scores]] = {metric.name: [] for metric in metrics}
    for counts in resample_counts(len(samples), resamples, seed, _WEIGHTS_AT_ONCE):
        for metric in metrics:
            scores[metric.name].append(metric.statistic(samples, counts))
    return {name: _interval(np.concatenate(parts), level) for name, parts in scores.items()}


def resample_counts(
    items: int, resamples: int, seed: int, at_once: int = _WEIGHTS_AT_ONCE
) -> Iterator[Weights]:
    """Yield blocks of rows that say how often each item is drawn, together ``resamples`` rows."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, rows := max(1, at_once // items)):
        size = min(rows, resamples - start)
        drawn = random.integers(0, items, size=(size, items))
        drawn += np.arange(size)[:, None] * items
        counts = np.bincount(drawn.reshape(-1), minlength=size * items)
        yield counts.reshape(size, items).astype(np.float64)


def _interval(scores: Scores, level: float) -> tuple[float, float]:
    known = scores[~np.isnan(scores)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
