"""What shows the same: which rows of a gallery are answers to a query, and sets of such groups."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

__all__ = ["Groups", "SameGroup"]


class Groups(NamedTuple):
    """Rows of the gallery that show what a query shows, as the revisited Oxford set groups them."""

    easy: Int[np.ndarray, " e"]
    hard: Int[np.ndarray, " h"]
    junk: Int[np.ndarray, " j"]
    """Neither right nor wrong: to be left out of a ranking."""
    group: int = 0
    """Which group the query is one of, where scores are also averaged group by group."""

    @property
    def right(self) -> Int[np.ndarray, " r"]:
        """Rows that answer the query, the easy ones first."""
        return np.concatenate([self.easy, self.hard])


@dataclass(frozen=True, slots=True)
class SameGroup:
    """Every image asks for the others of its group, and is junk in its own ranking."""

    group: Int[np.ndarray, " n"]
    """-1 for distractors, which have no others."""

    def __call__(self, index: int) -> Groups:
        """Return the answers to image ``index``."""
        own = int(self.group[index])
        same = np.flatnonzero(self.group == own) if own >= 0 else np.zeros(0, np.int64)
        nothing = np.zeros(0, np.int64)
        return Groups(same[same != index], nothing, np.array([index], np.int64), own)
