"""How well a score tells images from outside: AUROC, and false alarms where 95 % of them are found.

Images from outside are the positive ones, as in OpenOOD, and should have the larger scores.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from ssleval.core import Samples
from ssleval.metrics.stats import Scores, Weights, divide, statistic

FOUND = 0.95
"""Share of the images from outside that false alarms are counted at."""


@statistic
def auroc_of(samples: Samples, weights: Weights, score: str, out: str) -> Scores:
    """Return the statistic of pairs, one from outside and one not, in which the former has the larger score.

    Pairs of equal scores count half. ``out`` is a column of booleans.

    Source:
        Hanley and McNeil 1982; scikit-learn's ``roc_auc_score``.
    """
    outside = samples[out].astype(bool)
    drawn = weights * outside
    ordered = (drawn * placements(samples[score].astype(np.float64), outside, weights)).sum(axis=1)
    return divide(ordered, drawn.sum(axis=1) * (weights * ~outside).sum(axis=1))


@statistic
def fpr95_of(samples: Samples, weights: Weights, score: str, out: str) -> Scores:
    """Return the statistic of false alarms: images not from outside with a score of the threshold or above.

    The threshold is the largest score that 95 % or more of the images from outside reach.

    Source:
        Yang et al. 2022, arXiv:2210.07242; OpenOOD v1.5, ``auc_and_fpr_recall``, which reads the first such
        point of scikit-learn's ``roc_curve``.
    """
    values, place = np.unique(-samples[score].astype(np.float64), return_inverse=True)
    outside = samples[out].astype(bool)
    found, alarms = (
        np.cumsum(_by_value(weights * side, place, len(values)), axis=1) for side in (outside, ~outside)
    )
    at = np.argmax(divide(found, found[:, -1:] + 0 * found, 0.0) >= FOUND, axis=1)[:, None]
    rate = divide(np.take_along_axis(alarms, at, axis=1)[:, 0], alarms[:, -1])
    return np.where(found[:, -1] > 0, rate, np.nan)


def placements(
    score: Float[np.ndarray, " n"], out: Bool[np.ndarray, " n"], weights: Weights
) -> Float[np.ndarray, "r n"]:
    """Return for every item the weight of the other side that it is rightly ordered with, ties halved."""
    values, place = np.unique(score, return_inverse=True)
    inside, outside = (_by_value(weights * side, place, len(values)) for side in (~out, out))
    above = outside.sum(axis=1, keepdims=True) - np.cumsum(outside, axis=1) + outside / 2
    below = np.cumsum(inside, axis=1) - inside / 2
    return np.where(out, below[:, place], above[:, place])


def threshold(score: Float[np.ndarray, " n"], out: Bool[np.ndarray, " n"], found: float = FOUND) -> float:
    """Return the largest score that the share ``found`` of the images from outside reach."""
    ordered = np.sort(score[out])[::-1]
    return float(ordered[np.argmax(np.arange(1, len(ordered) + 1) / len(ordered) >= found)])


def _by_value(weights: Weights, place: Int[np.ndarray, " n"], count: int) -> Float[np.ndarray, "r v"]:
    rows = np.arange(len(weights))[:, None] * count + place
    return np.bincount(rows.ravel(), weights.ravel(), minlength=len(weights) * count).reshape(-1, count)
