"""One ranking of all pairs of queries and images: are scores comparable from query to query?"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import Samples, Statistic
from ssleval.core.targets import Groups

_NUMBERS = 8_000_000
"""Counts held at a time: 64 MB."""


def micro_average_precision_of(scores: str, right: str, answers: str) -> Statistic:
    """Return the statistic that ranks the pairs of all queries together, and takes the average precision.

    Row i of ``scores [n k]`` are the scores of the pairs that query i claims, of ``right [n k]`` whether
    they are right; NaN claims nothing. ``answers [n]`` counts the right pairs there are, claimed or not.
    Average precision is the sum of precision over gained recall, equal scores taken together. A query is
    what is resampled: drawn twice, all its pairs stand in the ranking twice. With a single claim of each
    query, its predicted class, this is the global average precision (GAP) of recognition.

    Source:
        Douze et al. 2021, arXiv:2106.09672, sec. 5 (micro-AP); Perronnin et al. 2009 (GAP).
    """
    return partial(_micro_average_precision, scores=scores, right=right, answers=answers)


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


def _micro_average_precision(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, scores: str, right: str, answers: str
) -> Float[np.ndarray, " r"]:
    claimed, correct = samples[scores].astype(np.float64), samples[right].astype(bool)
    total = weights @ samples[answers].astype(np.float64)
    areas = _areas_of_one_claim if claimed.shape[1] == 1 else _areas
    area = areas(claimed, correct, weights)
    return np.divide(area, total, out=np.full_like(area, np.nan), where=total > 0)


def _areas_of_one_claim(
    claimed: Float[np.ndarray, "n 1"], correct: Bool[np.ndarray, "n 1"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Return what `_areas` does. One sort serves all draws, where as many cuts as queries would not."""
    known = np.flatnonzero(~np.isnan(claimed[:, 0]))
    order = known[np.argsort(-claimed[known, 0], kind="stable")]
    ordered, drawn = claimed[order, 0], weights[:, order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    seen = drawn.cumsum(axis=1)[:, last]
    hits = (drawn * correct[order, 0]).cumsum(axis=1)[:, last]
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return (precision * np.diff(hits, axis=1, prepend=0.0)).sum(axis=1)


def _areas(
    claimed: Float[np.ndarray, "n k"], correct: Bool[np.ndarray, "n k"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    """Return the sum of precision at every gain of a right pair."""
    # Precision counts only where recall is gained: at the scores of right pairs, best first.
    cuts = np.unique(claimed[correct & ~np.isnan(claimed)])[::-1]
    area, gained = np.zeros(len(weights)), np.zeros(len(weights))
    step = max(1, _NUMBERS // max(1, len(claimed)))
    for first in range(0, len(cuts), step):
        some = cuts[first : first + step]
        seen = weights @ _at_least(claimed, np.ones_like(correct), some)
        hits = weights @ _at_least(claimed, correct, some)
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        area += (precision * np.diff(hits, axis=1, prepend=gained[:, None])).sum(axis=1)
        gained = hits[:, -1]
    return area


def _at_least(
    claimed: Float[np.ndarray, "n k"], counted: Bool[np.ndarray, "n k"], cuts: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "n c"]:
    """Return how many counted pairs of each query score as high as each cut."""
    known = counted & ~np.isnan(claimed)
    found = np.empty((len(claimed), len(cuts)))
    for row, (own, kept) in enumerate(zip(claimed, known, strict=True)):
        ordered = np.sort(own[kept])
        found[row] = len(ordered) - np.searchsorted(ordered, cuts, side="left")
    return found
