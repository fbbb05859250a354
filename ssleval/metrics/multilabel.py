"""Ranking of items by class, where an item has several labels."""

from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from ssleval.core import Samples, Statistic

_VALUES_AT_ONCE = 4_000_000


def mean_average_precision_of(scores: str, targets: str) -> Statistic:
    """Return the statistic that ranks items by each of the columns of ``scores [n c]``, and averages AP.

    ``targets [n c]`` says which items have the label. A class that no item drawn has is left out.
    """
    return partial(_map, scores=scores, targets=targets)


def average_precisions(
    scores: Float[np.ndarray, "n c"], targets: Bool[np.ndarray, "n c"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r c"]:
    """Return average precision per class, NaN for a class without positives of any weight.

    The area under precision over recall without interpolation, equal scores taken together: as
    scikit-learn's ``average_precision_score``, not the 11 points of VOC 2007.
    """
    found = np.full((len(weights), scores.shape[1]), np.nan)
    step = max(1, _VALUES_AT_ONCE // max(1, weights.shape[1]))
    for label in range(scores.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        for start in range(0, len(weights), step):
            drawn = weights[start : start + step, order]
            hits = np.cumsum(drawn * targets[order, label], axis=1)[:, ends]
            seen = np.cumsum(drawn, axis=1)[:, ends]
            gained = np.diff(hits, axis=1, prepend=0.0)
            precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
            total = hits[:, -1]
            area = (precision * gained).sum(axis=1)
            found[start : start + step, label] = np.divide(
                area, total, out=np.full_like(area, np.nan), where=total > 0
            )
    return found


def _map(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, scores: str, targets: str
) -> Float[np.ndarray, " r"]:
    found = average_precisions(samples[scores].astype(np.float64), samples[targets].astype(bool), weights)
    known = ~np.isnan(found)
    return np.divide(
        np.where(known, found, 0).sum(axis=1),
        known.sum(axis=1),
        out=np.full(len(found), np.nan),
        where=known.any(1),
    )
