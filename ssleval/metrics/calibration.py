"""Whether stated probabilities come true: expected calibration errors, and the likelihood of the truth.

The confidence of a classifier is the probability that it gives to the class it predicts. The gap of a bin is
that between its mean confidence and its share of right items; the error is the mean gap of 15 bins, weighed
by their items. It is never below 0: of few items, a calibrated classifier has some points by chance.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import Metric, Samples
from ssleval.metrics.stats import Scores, Weights, divide, mean_of, statistic

BINS = 15


def calibration(suffix: str = "", correct: str = "correct") -> tuple[Metric, ...]:
    """Return both calibration errors and the loss, of the columns ``confidence``, ``correct`` and ``nll``.

    ``suffix`` follows each name, of metrics and of columns.
    """
    columns = f"confidence{suffix}", f"{correct}{suffix}"
    return (
        Metric(f"ece{suffix}", calibration_error_of(*columns), higher_is_better=False),
        Metric(f"adaptive_ece{suffix}", adaptive_calibration_error_of(*columns), higher_is_better=False),
        Metric(f"nll{suffix}", mean_of(f"nll{suffix}"), higher_is_better=False, unit="nats"),
    )


@statistic
def calibration_error_of(samples: Samples, weights: Weights, confidence: str, correct: str) -> Scores:
    """Return the statistic of 15 bins of equal width, each without its lower and with its upper end.

    Columns are ``[n]``, or ``[n s]`` of s classifiers, whose errors are averaged. An item whose confidence is
    NaN is none of the classifier's.

    Source:
        Guo et al. 2017, arXiv:1706.04599, eq. 3; their code has the same ends of bins.
    """
    return _averaged(_equal_widths, samples[confidence], samples[correct], weights)


@statistic
def adaptive_calibration_error_of(
    samples: Samples, weights: Weights, confidence: str, correct: str
) -> Scores:
    """Return the statistic of 15 bins with equally many items, in the order of their confidence.

    Items of one confidence are in one bin, that of the middle of them. Columns are those of
    `calibration_error_of`.

    Source:
        Nguyen and O'Connor 2015, arXiv:1508.05154; as in Mukhoti et al. 2020, arXiv:2002.09437.
    """
    return _averaged(_equal_masses, samples[confidence], samples[correct], weights)


def moves_of_errors(
    confidence: Float[np.ndarray, "n *s"], correct: Shaped[np.ndarray, "n *s"], *, adaptive: bool
) -> Float[np.ndarray, " n"]:
    """Return how far the error of all items lies above that without each, the bins staying as they are."""
    moves: list[Float[np.ndarray, " n"]] = []
    for known, stated, gap in _classifiers(confidence, correct):
        bins = (_equal_masses if adaptive else _equal_widths)(stated, np.ones((1, len(stated))))[0]
        sums = np.bincount(bins, gap, minlength=BINS)
        error, own = np.abs(sums).sum(), sums[bins]
        without = (error - np.abs(own) + np.abs(own - gap)) / max(1, len(gap) - 1)
        moves.append(np.zeros(len(known)))
        moves[-1][known] = error / len(gap) - without
    return np.mean(moves, axis=0) if moves else np.zeros(len(confidence))


def _averaged(
    bins_of: Callable[..., np.ndarray],
    confidence: Shaped[np.ndarray, "n ..."],
    correct: Shaped[np.ndarray, "n ..."],
    weights: Weights,
) -> Scores:
    total, classifiers = np.zeros(len(weights)), np.zeros(len(weights))
    for known, stated, gap in _classifiers(confidence, correct):
        own = weights[:, known]
        places = bins_of(stated, own) + BINS * np.arange(len(own))[:, None]
        gaps = np.bincount(places.ravel(), (own * gap).ravel(), minlength=BINS * len(own))
        items = own.sum(axis=1)
        total += divide(np.abs(gaps.reshape(-1, BINS)).sum(axis=1), items, 0.0)
        classifiers += items > 0
    return divide(total, classifiers)


def _classifiers(
    confidence: Shaped[np.ndarray, "n ..."], correct: Shaped[np.ndarray, "n ..."]
) -> Iterator[tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]]:
    """Yield which items each classifier has, their confidence, and how far right or wrong lies above it."""
    shape = (len(confidence), -1)
    for stated, right in zip(confidence.reshape(shape).T, correct.reshape(shape).T, strict=True):
        known = ~np.isnan(stated)
        if known.any():
            yield known, stated[known].astype(np.float64), right[known].astype(np.float64) - stated[known]


def _equal_widths(stated: Float[np.ndarray, " k"], own: Weights) -> Int[np.ndarray, "r k"]:
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], stated, side="left")
    return np.broadcast_to(bins, own.shape)


def _equal_masses(stated: Float[np.ndarray, " k"], own: Weights) -> Int[np.ndarray, "r k"]:
    values, place = np.unique(stated, return_inverse=True)
    masses = np.zeros((len(own), len(values)))
    np.add.at(masses.T, place, own.T)
    below = np.cumsum(masses, axis=1)
    middles = (below - masses / 2) / np.maximum(below[:, -1:], 1e-300)
    return np.minimum((BINS * middles).astype(np.int64), BINS - 1)[:, place]
