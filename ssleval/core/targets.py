"""What a dense or relational target holds: answers in a gallery, or what two images of a pair share.

A pair is one item of a split, its first image that of `Split.image`; the target carries the other. So
any subset of a split keeps its pairs whole.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int64
from PIL import Image

from ssleval.core.vocabulary import Split
from ssleval.errors import DataError

Level: TypeAlias = Literal["easy", "medium", "hard"]
"""Which answers count: easy ones, all, or hard ones."""


class Groups(NamedTuple):
    """Rows of the gallery that show what a query shows, as the revisited Oxford set groups them."""

    easy: Int[np.ndarray, " e"]
    hard: Int[np.ndarray, " h"]
    junk: Int[np.ndarray, " j"]
    """Neither right nor wrong: to be left out of a ranking."""
    group: int = 0
    """Which group the query is one of, where scores are also averaged group by group."""

    @property
    def rows(self) -> Int[np.ndarray, " r"]:
        """All of them: easy, hard, junk."""
        return np.concatenate([self.easy, self.hard, self.junk])

    def renumbered(self, numbers: Int[np.ndarray, " r"]) -> "Groups":
        """Return the same groups with other numbers, such as ranks, in place of `rows`."""
        parts = np.split(numbers, np.cumsum([len(self.easy), len(self.hard)]))
        return Groups(*parts, group=self.group)

    def at(self, level: Level) -> "Groups":
        """Return the groups at a level of the revisited benchmark, where other answers are junk."""
        nothing = self.easy[:0]
        if level == "easy":
            return self._replace(hard=nothing, junk=np.concatenate([self.junk, self.hard]))
        if level == "hard":
            return self._replace(easy=nothing, junk=np.concatenate([self.junk, self.easy]))
        return self

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
        own, rows = int(self.group[index]), np.arange(len(self.group))
        others = rows[(self.group == own) & (own >= 0) & (rows != index)]
        return Groups(others, others[:0], rows[index : index + 1], own)


class KeyPoints(NamedTuple):
    """Points of one thing that both images show; row j is the same point in both."""

    names: tuple[str, str]
    """Of the two images: equal names, equal images."""
    partner: Image.Image
    """The second image, RGB."""
    points: Float32[np.ndarray, "k 2"]
    """Column and row in pixels from the corner of the first image, pixel centres at halves."""
    partner_points: Float32[np.ndarray, "k 2"]
    """The same points in the second image."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the thing in the second image, in pixels."""
    category: int = 0
    """Of the thing, where scores are also averaged category by category."""


class Views(NamedTuple):
    """One place seen by a camera of known motion; both images have the size of their depth."""

    names: tuple[str, str]
    """Of the two images: equal names, equal images."""
    partner: Image.Image
    """The second image, RGB."""
    depths: tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]
    """Metres along the axis of each camera, 0 where unknown."""
    intrinsics: tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3 3"]]
    """Of each camera, in pixels from the corner of its image."""
    motion: Float64[np.ndarray, "4 4"]
    """Takes points from the frame of the first camera into that of the second, in metres."""
    group: int | None = None
    """Of the thing that is seen, where a set has several and draws pairs of each."""


def clips_of(split: Split) -> dict[str, list[int]]:
    """Return the rows of every clip, whose name is the part of an id before the last slash."""
    clips: dict[str, list[int]] = {}
    for row, name in enumerate(split.ids):
        clips.setdefault(name.rpartition("/")[0], []).append(row)
    for clip, rows in clips.items():
        if len(rows) < 3:
            raise DataError(
                f"clip {clip}: {len(rows)} frames; the first and the last are not scored, so that it takes "
                "three: a --limit draws frames from all clips, choose a larger one"
            )
    return clips


class Objects(NamedTuple):
    """Things of known classes in an image, and where they are."""

    size: tuple[int, int]
    """Rows and columns of the image."""
    boxes: Float64[np.ndarray, "m 4"]
    """Left, top, right and bottom in pixels; the last two exclusive."""
    labels: Int64[np.ndarray, " m"]
    difficult: Bool[np.ndarray, " m"]
    """Need not be found: to find one is neither right nor wrong."""
    crowd: Bool[np.ndarray, " m"]
    """Several things under one box; any number of detections inside it are neither right nor wrong."""
    masks: Bool[np.ndarray, "m H W"] | None = None
    """Pixels of each, where the set has masks."""

    @property
    def counted(self) -> Bool[np.ndarray, " m"]:
        """Which of them are to be found, and fitted on."""
        return ~(self.difficult | self.crowd)

    @classmethod
    def of_masks(
        cls,
        masks: Bool[np.ndarray, "m H W"],
        labels: Int64[np.ndarray, " m"],
        difficult: Bool[np.ndarray, " m"],
    ) -> "Objects":
        """Return objects whose boxes are those of their masks, none of which is empty."""
        (left, right), (top, bottom) = (_ends(np.asarray(masks.any(axis))) for axis in (1, 2))
        boxes = np.stack([left, top, right, bottom], axis=1).astype(np.float64)
        height, width = masks.shape[1:]
        return cls((height, width), boxes, labels, difficult, np.zeros(len(masks), bool), masks)


def _ends(shown: Bool[np.ndarray, "m s"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Return the first place of each row that is set, and the one behind the last."""
    return shown.argmax(1), shown.shape[1] - shown[:, ::-1].argmax(1)
