"""Quality of one ranking: average precision, by steps and by trapezoids, and precision at k."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ssleval.core.targets import Groups, Level


def ranks_without(right: Int[np.ndarray, " p"], junk: Int[np.ndarray, " j"]) -> Int[np.ndarray, " p"]:
    """Return the ranks of the right answers with junk removed from the ranking, in increasing order.

    Both arguments are 0-based ranks in one ranking.
    """
    ordered = np.sort(right)
    return ordered - np.searchsorted(np.sort(junk), ordered)


def average_precision(ranks: Int[np.ndarray, " p"]) -> float:
    """Return the mean precision at the right answers; NaN if there is none.

    ``ranks`` are the 0-based ranks of all right answers, in increasing order.
    """
    if not len(ranks):
        return float("nan")
    return float(((np.arange(len(ranks)) + 1) / (ranks + 1)).mean())


def trapezoid_average_precision(ranks: Int[np.ndarray, " p"], count: int) -> float:
    """Return the area under the precision-recall curve by trapezoids; NaN if ``count`` is 0.

    ``ranks`` are 0-based, in increasing order. There are ``count`` right answers; those without a rank were
    not found.

    Source:
        Philbin et al. 2007's evaluation, as in Radenovic et al. 2018, arXiv:1803.11285, sec. 3.
    """
    if not count:
        return float("nan")
    above = np.arange(len(ranks))
    before = np.where(ranks > 0, above / np.maximum(ranks, 1), 1.0)
    return float((before + (above + 1) / (ranks + 1)).sum() / (2 * count))


def precision_at(ranks: Int[np.ndarray, " p"], k: int) -> float:
    """Return the fraction of the first k images that is right; NaN if there is no right answer.

    If the last right answer comes before place k, the ranking ends with it.

    Source:
        Radenovic et al. 2018, arXiv:1803.11285, sec. 3, mP@k.
    """
    if not len(ranks):
        return float("nan")
    first = min(k, int(ranks.max()) + 1)
    return float((ranks < first).sum() / first)


def plain_scores(ranked: Groups, ks: Sequence[int]) -> dict[str, float]:
    """Return ``ap`` and ``recall@k`` of a query: is any right answer among the first k?

    ``ranked`` has 0-based ranks in place of rows; junk is taken out of the ranking.
    """
    right = ranks_without(ranked.right, ranked.junk)
    return {"ap": average_precision(right), **{f"recall@{k}": float(right[0] < k) for k in ks}}


def graded_scores(ranked: Groups, ks: Sequence[int], levels: Sequence[Level]) -> dict[str, float]:
    """Return ``ap_LEVEL``, by trapezoids, and ``mp_LEVEL@k`` of a query whose answers are graded.

    ``ranked`` has 0-based ranks in place of rows; junk of a level is taken out of its ranking.
    """
    scores: dict[str, float] = {}
    for level in levels:
        graded = ranked.at(level)
        right = ranks_without(graded.right, graded.junk)
        scores[f"ap_{level}"] = trapezoid_average_precision(right, len(right))
        scores |= {f"mp_{level}@{k}": precision_at(right, k) for k in ks}
    return scores


def precision_within(ranked: Groups, depth: int) -> float:
    """Return average precision by trapezoids; answers beyond the first ``depth`` places are missed (0: none).

    ``ranked`` has 0-based ranks in place of rows; junk is taken out of the ranking. NaN without an answer.
    """
    right = ranks_without(ranked.right, ranked.junk)
    return trapezoid_average_precision(right[right < depth] if depth else right, len(right))
