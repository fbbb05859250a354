"""The variance of a paired difference over the draw of items, and its degrees of freedom.

The variance is that of a bootstrap. For a plain mean no resampling is needed: in the limit of infinitely many
resamples it is the variance of the items divided by their number. The degrees of freedom follow from the
kurtosis of the items' influences, so a mean IoU that depends on few images of a rare class is not taken as
certain.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from ssleval.core import Metric, Samples
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import Scores, Weights, resample_counts

Runs: TypeAlias = Sequence[Samples]
"""Samples of one model, one run per probe seed."""

_WEIGHTS_AT_ONCE = 4_000_000
_MOST_GROUPS = 1000
"""With more items than this the jackknife leaves out groups, which costs half as much as the bootstrap."""


def item_scatter(metric: Metric, ours: Runs, theirs: Runs, resamples: int, seed: int) -> tuple[float, float]:
    """Return the variance of the difference over the draw of items, and its degrees of freedom.

    ``ours[i]`` is paired with ``theirs[i]``, all with the same items; the difference is averaged over ``i``.
    With a single item the variance is infinite.
    """
    items = len(ours[0])
    if items < 2:
        return float("inf"), 1.0
    by_item = _gaps_of_a_mean(metric, ours, theirs)
    if by_item is not None:
        return float(variance_of_means(by_item[None])[0]), float(freedom_of_means(by_item[None])[0])
    blocks = _draws(items, resamples, seed)
    drawn = float(np.nanvar(np.concatenate([_gaps(metric, ours, theirs, weights) for weights in blocks])))
    freedom = _freedom(_influences(metric, ours, theirs)[None] ** 2, items)
    # The bootstrap draws from the sample, whose variance is too small by a factor of (n - 1) / n.
    return drawn * items / (items - 1), float(freedom[0])


def variance_of_means(gaps: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
    """Return the variance of the mean of every row, over the draw of its items (at least two)."""
    return gaps.var(axis=1, ddof=1) / gaps.shape[1]


def freedom_of_means(gaps: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
    """Return the degrees of freedom of `variance_of_means`."""
    return _freedom((gaps - gaps.mean(axis=1, keepdims=True)) ** 2, gaps.shape[1])


def _gaps(metric: Metric, ours: Runs, theirs: Runs, weights: Weights) -> Scores:
    pairs = zip(ours, theirs, strict=True)
    by_seed = [
        metric.statistic(first, weights) - metric.statistic(second, weights) for first, second in pairs
    ]
    return np.mean(by_seed, axis=0)


def _gaps_of_a_mean(metric: Metric, ours: Runs, theirs: Runs) -> Float[np.ndarray, " n"] | None:
    """Return the difference of every item; None if the metric is not the mean of all of them."""
    described = describe(metric.statistic)
    if described["name"] != "mean_of":
        return None
    column = described["columns"]["column"]
    pairs = zip(ours, theirs, strict=True)
    by_seed = [first[column].astype(np.float64) - second[column] for first, second in pairs]
    gaps = by_seed[0] if len(by_seed) == 1 else np.mean(by_seed, axis=0)
    return None if np.isnan(gaps).any() else gaps


def _draws(items: int, resamples: int, seed: int) -> Iterator[Weights]:
    if items * resamples <= _WEIGHTS_AT_ONCE:
        yield _one_draw(items, resamples, seed)
    else:
        yield from resample_counts(items, resamples, seed, _WEIGHTS_AT_ONCE)


@lru_cache(maxsize=1)
def _one_draw(items: int, resamples: int, seed: int) -> Weights:
    # A board compares hundreds of models on the same items, and drawing costs more than the statistic.
    (counts,) = resample_counts(items, resamples, seed, _WEIGHTS_AT_ONCE)
    counts.flags.writeable = False
    return counts


def _influences(metric: Metric, ours: Runs, theirs: Runs) -> Float[np.ndarray, " g"]:
    """Return the change of the difference when each item, or group of items, is left out (the jackknife)."""
    items = len(ours[0])
    groups = math.ceil(items / math.ceil(items / _MOST_GROUPS))
    # Interleaved, since in files sorted by class neighbouring items would make a group of one class.
    group_of = np.arange(items) % groups
    parts = np.array_split(np.arange(groups), math.ceil(groups * items / _WEIGHTS_AT_ONCE))
    left_out = [_gaps(metric, ours, theirs, (part[:, None] != group_of).astype(np.float64)) for part in parts]
    full = _gaps(metric, ours, theirs, np.ones((1, items)))
    return np.nan_to_num(full - np.concatenate(left_out))


def _freedom(squares: Float[np.ndarray, "m g"], items: int) -> Float[np.ndarray, " m"]:
    """Return the degrees of freedom of each variance: few, where a few rare items decide; at most n - 1.

    ``squares`` are of the influences. Relative to its square, the variance of a sample variance is
    (kurtosis - 1) / n, and that of a chi square 2 / freedom.
    """
    count = squares.shape[1]
    most = float(min(count, items) - 1)
    total, fourths = squares.sum(axis=1), (squares**2).sum(axis=1)
    kurtosis = np.divide(count * fourths, total**2, out=np.zeros_like(total), where=total > 0)
    freedom = np.divide(2.0 * count, kurtosis - 1, out=np.full_like(total, np.inf), where=kurtosis > 1)
    return np.clip(freedom, 1.0, most)
