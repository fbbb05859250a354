"""The best self-supervised against the best weakly supervised model of a board, on the items they share."""

from dataclasses import dataclass

from ssleval.metrics.paired import paired_test
from ssleval.results.ranking import Board, headline_samples


@dataclass(frozen=True, slots=True)
class Contrast:
    """The best self-supervised entry of a board minus the best weakly supervised one."""

    own: int
    """Place of the self-supervised entry on the board."""
    weak: int
    difference: float
    """In the metric's unit; positive if the self-supervised entry is better."""
    low: float
    """Ends of the 95 % interval of the paired difference, with the same sign."""
    high: float
    n: int
    """Number of shared items."""
    tried: tuple[int, int]
    """Number of entries of each kind that the best was chosen from."""
    verdict: str
    """Which kind is better, if the samples separate the two."""


def contrast(board: Board) -> Contrast | None:
    """Return the contrast of a board; None if either kind is missing.

    The interval is of the two chosen entries; it does not account for choosing the best of several.
    """
    results = [entry.result for entry in board.entries]
    kinds = [result.backbone.get("supervision") for result in results]
    if "self" not in kinds or "weak" not in kinds:
        return None
    own, weak = kinds.index("self"), kinds.index("weak")
    score = results[own].metrics[board.headline]
    ours, theirs = headline_samples([results[own], results[weak]])
    gap = paired_test(score.metric(board.headline), ours, theirs)
    sign = 1 if score.higher_is_better else -1
    low, high = sorted(sign * end for end in gap.interval())
    tried = kinds.count("self"), kinds.count("weak")
    verdict = "no difference shown"
    if gap.separable:
        verdict = "self-supervised better" if low > 0 else "weakly supervised better"
    return Contrast(own, weak, sign * gap.value, low, high, gap.n, tried, verdict)
