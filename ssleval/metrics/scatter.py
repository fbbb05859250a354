"""How much a paired difference scatters over the draw of items, and from how many items that is known.

The variance is that of a bootstrap. A plain mean needs no drawing for it: the variance of infinitely many
resamples is that of the items over their number. Degrees of freedom follow the kurtosis of the items'
influence, so that a mean IoU that hangs on few images of a rare class is not taken for certain.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from ssleval.core import Metric, Samples
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import resample_counts

_WEIGHTS_AT_ONCE = 4_000_000
_MOST_GROUPS = 1000
"""Items beyond this number are left out by groups, which costs half as much as the bootstrap itself."""


def item_scatter(
    metric: Metric, ones: Sequence[Samples], others: Sequence[Samples], resamples: int, seed: int
) -> tuple[float, float]:
    """Return the variance of the difference over the draw of items, and its degrees of freedom.

    ``ones[i]`` is paired with ``others[i]``, and all have the same items; the difference is averaged over
    ``i``. The variance of a single item is infinite.
    """
    items = len(ones[0])
    if items < 2:
        return float("inf"), 1.0
    by_item = _gaps_of_a_mean(metric, ones, others)
    if by_item is not None:
        return float(variance_of_means(by_item[None])[0]), float(freedom_of_means(by_item[None])[0])
    draws = _draws(items, resamples, seed)
    drawn = float(np.nanvar(np.concatenate([_gaps(metric, ones, others, one) for one in draws])))
    freedom = _freedom(_influences(metric, ones, others)[None] ** 2, items)
    # A bootstrap draws from the sample, whose variance is too small by (n - 1) / n.
    return drawn * items / (items - 1), float(freedom[0])


def variance_of_means(gaps: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
    """Return the variance of the mean of every row over the draw of its items, of which there are two."""
    return gaps.var(axis=1, ddof=1) / gaps.shape[1]


def freedom_of_means(gaps: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
    """Return the degrees of freedom of `variance_of_means`."""
    return _freedom((gaps - gaps.mean(axis=1, keepdims=True)) ** 2, gaps.shape[1])


def _gaps(
    metric: Metric, ones: Sequence[Samples], others: Sequence[Samples], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    pairs = zip(ones, others, strict=True)
    found = [metric.statistic(one, weights) - metric.statistic(two, weights) for one, two in pairs]
    return np.mean(found, axis=0)


def _gaps_of_a_mean(
    metric: Metric, ones: Sequence[Samples], others: Sequence[Samples]
) -> Float[np.ndarray, " n"] | None:
    """Return every item's difference, None if the metric is no mean of all of them."""
    described = describe(metric.statistic)
    if described["name"] != "mean_of":
        return None
    first, second = ([run[described["columns"]["column"]] for run in side] for side in (ones, others))
    by_seed = [one.astype(np.float64) - two for one, two in zip(first, second, strict=True)]
    gaps = by_seed[0] if len(by_seed) == 1 else np.mean(by_seed, axis=0)
    return None if np.isnan(gaps).any() else gaps


def _draws(items: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "r n"]]:
    if items * resamples <= _WEIGHTS_AT_ONCE:
        yield _one_draw(items, resamples, seed)
    else:
        yield from resample_counts(items, resamples, seed, _WEIGHTS_AT_ONCE)


@lru_cache(maxsize=1)
def _one_draw(items: int, resamples: int, seed: int) -> Float[np.ndarray, "r n"]:
    # A board compares hundreds of models on the same items: drawing is dearer than the statistic.
    (counts,) = resample_counts(items, resamples, seed, _WEIGHTS_AT_ONCE)
    counts.flags.writeable = False
    return counts


def _influences(
    metric: Metric, ones: Sequence[Samples], others: Sequence[Samples]
) -> Float[np.ndarray, " g"]:
    """Return what leaving out each item, or group of items, takes from the difference (the jackknife)."""
    items = len(ones[0])
    groups = math.ceil(items / math.ceil(items / _MOST_GROUPS))
    # Every so-manieth item, since files sorted by class would make a group of a class.
    group_of = np.arange(items) % groups
    parts = np.array_split(np.arange(groups), math.ceil(groups * items / _WEIGHTS_AT_ONCE))
    left_out = [_gaps(metric, ones, others, (part[:, None] != group_of).astype(np.float64)) for part in parts]
    whole = _gaps(metric, ones, others, np.ones((1, items)))
    return np.nan_to_num(whole - np.concatenate(left_out))


def _freedom(squares: Float[np.ndarray, "m g"], items: int) -> Float[np.ndarray, " m"]:
    """Return how many items each variance is really known from: few, where a few rare ones decide.

    ``squares`` are of the influences. The variance of a sample variance is (kurtosis - 1) / n of its square,
    and 2 / freedom of a chi square; n - 1 at most.
    """
    count = squares.shape[1]
    most = float(min(count, items) - 1)
    total, fourths = squares.sum(axis=1), (squares**2).sum(axis=1)
    kurtosis = np.divide(count * fourths, total**2, out=np.zeros_like(total), where=total > 0)
    few = np.divide(2.0 * count, kurtosis - 1, out=np.full_like(total, np.inf), where=kurtosis > 1)
    return np.clip(few, 1.0, most)
