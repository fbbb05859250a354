"""Statistics of samples, and how sure a score is: intervals over the draw of items.

Everything here works on a `Statistic`, a score for each row of item weights. A resample of a bootstrap
is a row of counts, so that thousands of resamples are a few matrix products, and the same rows serve
every metric of a task and both sides of a comparison.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from ssleval.core import Metric, Samples, Statistic
from ssleval.errors import ContractError

_WEIGHTS_AT_ONCE = 4_000_000
"""Item weights held at a time: 32 MB, whatever the number of items."""


# Statistics ---------------------------------------------------------------------------------------


def mean_of(column: str) -> Statistic:
    """Return the statistic that averages a column ``[n]``; rows that are NaN are left out."""
    return partial(_mean, column=column)


def ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides the sum of one column ``[n]`` by that of another."""
    return partial(_ratio, numerator=numerator, denominator=denominator)


def mean_ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides sums over items class by class, then averages the classes.

    Columns are ``[n c]``: with intersections over unions this is the mean IoU of a whole split. A class
    whose denominator is 0 for all items drawn is left out.
    """
    return partial(_mean_ratio, numerator=numerator, denominator=denominator)


def mean_per_class_of(correct: str, label: str) -> Statistic:
    """Return the statistic that averages ``correct [n]`` within each ``label [n]``, then over labels.

    A class none of whose items is drawn is left out.
    """
    return partial(_mean_per_class, correct=correct, label=label)


def _mean(samples: Samples, weights: Float[np.ndarray, "r n"], *, column: str) -> Float[np.ndarray, " r"]:
    found = samples[column]
    values = found.astype(np.float64)
    if found.dtype.kind in "biu":
        return _divide(weights @ values, weights.sum(axis=1))
    known = ~np.isnan(values)
    return _divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def _ratio(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, numerator: str, denominator: str
) -> Float[np.ndarray, " r"]:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return _divide(weights @ above, weights @ below)


def _mean_ratio(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, numerator: str, denominator: str
) -> Float[np.ndarray, " r"]:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return _mean_over_classes(weights @ above, weights @ below)


def _mean_per_class(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, correct: str, label: str
) -> Float[np.ndarray, " r"]:
    # Summing runs of sorted labels needs no [n c] one-hot, which for ImageNet would take 400 MB.
    order = np.argsort(samples[label], kind="stable")
    _, starts = np.unique(samples[label][order], return_index=True)
    drawn = weights[:, order]
    right = np.add.reduceat(drawn * samples[correct][order].astype(np.float64), starts, axis=1)
    return _mean_over_classes(right, np.add.reduceat(drawn, starts, axis=1))


def _mean_over_classes(
    above: Float[np.ndarray, "r c"], below: Float[np.ndarray, "r c"]
) -> Float[np.ndarray, " r"]:
    present = below > 0
    ratios = np.where(present, _divide(above, below), 0.0)
    return _divide(ratios.sum(axis=1), present.sum(axis=1).astype(np.float64))


def _divide(above: Float[np.ndarray, "*s"], below: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


# Intervals ----------------------------------------------------------------------------------------


def bootstrap(
    metrics: Sequence[Metric],
    samples: Samples,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of every metric, over resampled items.

    All metrics see the same resamples. Those on which a metric is undefined count nowhere in it. The
    answer depends on ``seed`` and the samples, never on how much is computed at a time. ``level`` is the
    probability, in (0, 1), with which the interval is meant to hold the truth.

    Raises:
        ContractError: no items, no resamples, or an impossible level.

    Source:
        Efron 1979; the percentile interval of Efron & Tibshirani 1993, sec. 13.3.
    """
    _check(len(samples), resamples, level)
    scores: dict[str, list[Float[np.ndarray, " r"]]] = {metric.name: [] for metric in metrics}
    for counts in resample_counts(len(samples), resamples, seed, _WEIGHTS_AT_ONCE):
        for metric in metrics:
            scores[metric.name].append(metric.statistic(samples, counts))
    return {name: _interval(np.concatenate(parts), level) for name, parts in scores.items()}


def _check(items: int, resamples: int, level: float) -> None:
    if items < 1 or resamples < 1 or not 0 < level < 1:
        raise ContractError(
            f"bootstrap of {items} items, {resamples} resamples, level {level}: "
            "needs one item, one resample and a level between 0 and 1"
        )


def resample_counts(
    items: int, resamples: int, seed: int, at_once: int = _WEIGHTS_AT_ONCE
) -> Iterator[Float[np.ndarray, "r n"]]:
    """Yield rows of how often each item is drawn, together ``resamples`` rows."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, rows := max(1, at_once // items)):
        size = min(rows, resamples - start)
        drawn = random.integers(0, items, size=(size, items))
        drawn += np.arange(size)[:, None] * items
        counts = np.bincount(drawn.reshape(-1), minlength=size * items)
        yield counts.reshape(size, items).astype(np.float64)


def _interval(scores: Float[np.ndarray, " r"], level: float) -> tuple[float, float]:
    known = scores[~np.isnan(scores)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
