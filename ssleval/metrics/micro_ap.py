"""Average precision of one ranking of the pairs of all queries (micro-AP, GAP).

It is high only if scores are comparable from query to query.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import Samples
from ssleval.core.targets import Groups
from ssleval.metrics.stats import Scores, Weights, divide, statistic

_NUMBERS = 8_000_000
"""Counts held at a time: 64 MB."""


@statistic
def micro_average_precision_of(
    samples: Samples, weights: Weights, scores: str, right: str, answers: str
) -> Scores:
    """Return the statistic that ranks the pairs of all queries together and takes the average precision.

    Row i of ``scores [n k]`` holds the scores of the pairs that query i proposes, ``right [n k]`` whether
    they are right; NaN proposes nothing. ``answers [n]`` counts all right pairs, proposed or not. Average
    precision is the sum of precision over gained recall, with equal scores taken together. A query of
    weight two has all its pairs in the ranking twice. With one proposal per query, its
    predicted class, this is the global average precision (GAP) of recognition.

    Source:
        Douze et al. 2021, arXiv:2106.09672, sec. 5 (micro-AP); Perronnin et al. 2009 (GAP).
    """
    proposed, correct = samples[scores].astype(np.float64), samples[right].astype(bool)
    areas = _areas_of_one_proposal if proposed.shape[1] == 1 else _areas
    return divide(areas(proposed, correct, weights), weights @ samples[answers].astype(np.float64))


def claims_of(
    rows: Int[np.ndarray, "q k"], similarity: Float[np.ndarray, "q k"], answers: Sequence[Groups]
) -> dict[str, Shaped[np.ndarray, "q ..."]]:
    """Return columns ``similarity``, ``right`` and ``answers`` of queries that claim ``rows`` of a gallery.

    A pair of a query and its junk claims nothing.
    """
    right, scores = np.zeros(rows.shape, bool), similarity.copy()
    for place, groups in enumerate(answers):
        right[place] = np.isin(rows[place], groups.right)
        scores[place, np.isin(rows[place], groups.junk)] = np.nan
    counts = np.array([len(groups.right) for groups in answers])
    return {"similarity": scores, "right": right, "answers": counts}


def _areas_of_one_proposal(
    proposed: Float[np.ndarray, "n 1"], correct: Bool[np.ndarray, "n 1"], weights: Weights
) -> Scores:
    """Do what `_areas` does: one sort serves all rows of weights, instead of as many cuts as queries."""
    known = np.flatnonzero(~np.isnan(proposed[:, 0]))
    order = known[np.argsort(-proposed[known, 0], kind="stable")]
    ranked, drawn = proposed[order, 0], weights[:, order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])
    seen = drawn.cumsum(axis=1)[:, ends]
    hits = (drawn * correct[order, 0]).cumsum(axis=1)[:, ends]
    return (divide(hits, seen, 0.0) * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1)


def _areas(proposed: Float[np.ndarray, "n k"], correct: Bool[np.ndarray, "n k"], weights: Weights) -> Scores:
    """Return, for each row of weights, the sum of precision over gained right pairs."""
    # Recall is gained only at the scores of right pairs; these are the cuts, best first.
    cuts = np.unique(proposed[correct & ~np.isnan(proposed)])[::-1]
    area, gained = np.zeros(len(weights)), np.zeros(len(weights))
    step = max(1, _NUMBERS // max(1, len(proposed)))
    for start in range(0, len(cuts), step):
        block = cuts[start : start + step]
        seen = weights @ _at_least(proposed, np.ones_like(correct), block)
        hits = weights @ _at_least(proposed, correct, block)
        area += (divide(hits, seen, 0.0) * np.diff(hits, axis=1, prepend=gained[:, None])).sum(axis=1)
        gained = hits[:, -1]
    return area


def _at_least(
    proposed: Float[np.ndarray, "n k"], counted: Bool[np.ndarray, "n k"], cuts: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "n c"]:
    """Return how many counted pairs of each query score at least each cut."""
    kept = counted & ~np.isnan(proposed)
    counts = np.empty((len(proposed), len(cuts)))
    for row, scores in enumerate(proposed):
        ranked = np.sort(scores[kept[row]])
        counts[row] = len(ranked) - np.searchsorted(ranked, cuts, side="left")
    return counts
