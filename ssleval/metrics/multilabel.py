"""Mean average precision of items with several labels, class by class."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ssleval.core import Metric, Samples
from ssleval.metrics.stats import Scores, Weights, divide, mean_of_known, statistic

_VALUES_AT_ONCE = 4_000_000


@statistic
def mean_average_precision_of(samples: Samples, weights: Weights, scores: str, targets: str) -> Scores:
    """Return the statistic that averages, over classes, the average precision of ``scores [n c]``.

    ``targets [n c]`` is whether an item has the label; below 0, the item counts neither way for the class. A
    class without positives in the draw is left out; scikit-learn's ``average_precision_score`` and recent
    torchmetrics count it 0.
    """
    return mean_of_known(average_precisions(samples[scores].astype(np.float64), samples[targets], weights))


@statistic
def eleven_point_precision_of(samples: Samples, weights: Weights, scores: str, targets: str) -> Scores:
    """Return the mean over classes of VOC 2007's average precision; otherwise `mean_average_precision_of`.

    It is the mean, over recalls of 0, 0.1, ..., 1, of the largest precision at that recall or a higher one.

    Source:
        Everingham et al. 2010, sec. 4.2; VOCevalcls.m of the development kit of 2007.
    """
    values = samples[scores].astype(np.float64)
    return mean_of_known(average_precisions(values, samples[targets], weights, _eleven_points))


MEAN_PRECISIONS = {
    "map": Metric("map", mean_average_precision_of("scores", "targets")),
    "map_11": Metric("map_11", eleven_point_precision_of("scores", "targets")),
}
"""Scores of the columns ``scores`` and ``targets``; ``map_11`` is by VOC 2007's 11 points."""


_Area: TypeAlias = Callable[[Shaped[np.ndarray, "r e"], Shaped[np.ndarray, "r e"]], Float[np.ndarray, " r"]]
"""From positives and items down to each place of a ranking to average precision times positives."""


def _area(hits: Shaped[np.ndarray, "r e"], seen: Shaped[np.ndarray, "r e"]) -> Float[np.ndarray, " r"]:
    return (divide(hits, seen, 0.0) * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1)


def _eleven_points(
    hits: Shaped[np.ndarray, "r e"], seen: Shaped[np.ndarray, "r e"]
) -> Float[np.ndarray, " r"]:
    precision, positives = divide(hits, seen, 0.0), hits[:, -1:]
    # Products, since 0.3 has no exact quotient.
    best = [np.where(10 * hits >= tenth * positives, precision, 0.0).max(axis=1) for tenth in range(11)]
    return np.mean(best, axis=0) * positives[:, 0]


def average_precisions(
    scores: Float[np.ndarray, "n c"],
    targets: Shaped[np.ndarray, "n c"],
    weights: Weights,
    area: _Area = _area,
) -> Float[np.ndarray, "r c"]:
    """Return the average precision of every class; NaN for a class without positives of any weight.

    It is the area under the precision-recall curve without interpolation, with equal scores taken together,
    as scikit-learn's ``average_precision_score``, unless another ``area`` is given.
    """
    precisions = np.full((len(weights), scores.shape[1]), np.nan)
    step = max(1, _VALUES_AT_ONCE // max(1, weights.shape[1]))
    for label in range(scores.shape[1]):
        counted = np.flatnonzero(targets[:, label] >= 0)
        if not len(counted):
            continue
        order = counted[np.argsort(-scores[counted, label], kind="stable")]
        ranked = scores[order, label]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        for start in range(0, len(weights), step):
            drawn = weights[start : start + step, order]
            hits = np.cumsum(drawn * (targets[order, label] > 0), axis=1)[:, ends]
            seen = np.cumsum(drawn, axis=1)[:, ends]
            precisions[start : start + step, label] = divide(area(hits, seen), hits[:, -1])
    return precisions


def precisions_without_each(
    scores: Float[np.ndarray, "n c"], targets: Shaped[np.ndarray, "n c"]
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "n c"]]:
    """Return every class's average precision, and what it is without each item.

    NaN for a class without positives; without its only positive it stays as it is.
    """
    full, without = np.full(scores.shape[1], np.nan), np.full(scores.shape, np.nan)
    for label in np.flatnonzero((targets > 0).any(axis=0)):
        rows = targets[:, label] >= 0
        full[label], without[rows, label] = _precision_without_each(
            scores[rows, label], targets[rows, label] > 0
        )
        without[~rows, label] = full[label]
    return full, without


def _precision_without_each(
    scores: Float[np.ndarray, " n"], targets: Bool[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " n"]]:
    # Without an item, precision changes from its place in the ranking down: above it stays what it was.
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], targets[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    tie, ends = np.cumsum(last) - last, np.flatnonzero(last)
    hits, seen, rest = np.cumsum(right)[ends].astype(np.float64), ends + 1.0, np.maximum(ends, 1)
    gained = np.diff(hits, prepend=0.0)
    area, positives = np.cumsum(gained * hits / seen), int(hits[-1])
    above = np.append(0.0, area[:-1])
    no_negative = above + gained * hits / rest + _below(gained * hits / rest)
    no_positive = above + (gained - 1) * (hits - 1) / rest + _below(gained * (hits - 1) / rest)
    if positives == 1:
        no_positive = np.full_like(area, area[-1])
    without = np.where(right, no_positive[tie] / max(1, positives - 1), no_negative[tie] / positives)
    by_item = np.empty_like(without)
    by_item[order] = without
    return float(area[-1] / positives), by_item


def _below(values: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    return np.append(np.cumsum(values[:0:-1])[::-1], 0.0)
