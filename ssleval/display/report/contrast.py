"""Self-supervised against weakly supervised, board by board: the best of each, on the items they share."""

from dataclasses import asdict, dataclass
from typing import Any

from ssleval.core import Metric
from ssleval.metrics.paired import paired_bootstrap
from ssleval.metrics.recorded import statistic_from
from ssleval.results.ranking import Board, headline_samples


@dataclass(frozen=True, slots=True)
class Contrast:
    """The best self-supervised entry of a board minus the best weakly supervised one."""

    own: int
    """Place of the self-supervised entry on the board."""
    weak: int
    difference: float
    """In the metric's unit; its sign is turned so that more is better for the self-supervised."""
    low: float
    """Ends of the 95 % interval of the paired difference, sign turned alike."""
    high: float
    n: int
    """Shared items."""
    tried: tuple[int, int]
    """How many entries of either kind the best was picked from."""

    @property
    def verdict(self) -> str:
        """Return which kind is better, if the samples can separate the two."""
        if self.low > 0:
            return "self-supervised better"
        return "weakly supervised better" if self.high < 0 else "no difference shown"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict."""
        return {**asdict(self), "verdict": self.verdict}


def contrast(board: Board) -> Contrast | None:
    """Return the contrast of one board; None where either kind is missing.

    The interval is of the two that were picked and of nothing else: it does not pay for the picking.
    """
    kinds = [entry.result.backbone.get("supervision") for entry in board.entries]
    if "self" not in kinds or "weak" not in kinds:
        return None
    own, weak = kinds.index("self"), kinds.index("weak")
    score = board.entries[own].result.metrics[board.headline]
    metric = Metric(board.headline, statistic_from(score.statistic), score.higher_is_better, score.unit)
    sides = headline_samples([board.entries[place].result for place in (own, weak)])
    found = paired_bootstrap(metric, sides[0], sides[1])
    low, high = sorted(end if score.higher_is_better else -end for end in found.interval())
    value = found.value if score.higher_is_better else -found.value
    return Contrast(own, weak, value, low, high, found.n, (kinds.count("self"), kinds.count("weak")))
