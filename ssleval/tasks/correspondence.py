"""Correspondence: do the same points of things get the same patch tokens in two images?

Nothing is trained. Both images are squashed to 448 x 448. The token of a point of the first, interpolated
bilinearly, is compared by cosine with those of the second, upsampled bilinearly to its pixels
(``positions=patches``: with its patches, a match being at their centre); the largest wins.
Key points (`pairs`): a match is right within 0.1 of the longer side of the thing's box in the second
image. PCK is averaged over pairs (``pck@0.1``), over all points, and over categories of means over pairs.
Depth and cameras (`views`): points 16 pixels apart on the first image that the second shows as well, by its
depth; recall is the share of them matched within some pixels of the image, or centimetres of the surface.

``protocol=probe3d`` counts as that code does, on tokens before the final norm. Key points: images are padded
with white to squares; a match is the corner of a patch; `recall@` is the mean over categories of the share of
points nearer than alpha. Views: of points of known depth, ``step`` pixels apart in both images, the 1,000
matches count that the ratio test trusts most, whether the second image shows the point or not.

Source: Min et al. 2019, arXiv:1908.10543, sec. 3 (PCK); Tang et al. 2023, arXiv:2306.03881 (upsampled
tokens); El Banani et al. 2024, arXiv:2404.08636, sec. 4.2 (recall).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ssleval.core import Dataset, FeatureRequest, Interpolation, Metric, Readout, Samples, Split
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, Different, NonNegative, Positive, Thresholds
from ssleval.core.targets import KeyPoints, Views
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DataError
from ssleval.features import Live
from ssleval.heads.matching import Positions, match_corners, match_pixels, most_distinct, upsampled_at
from ssleval.metrics import matches

_OF_VIEWS, _OF_PROBE3D = ("pixels", "centimetres", "step", "tolerance"), ("matches", "degrees")
_IDLE = {
    ("points", "pairs"): (*_OF_VIEWS, *_OF_PROBE3D),
    ("points", "views"): ("alphas", "normalise", *_OF_PROBE3D),
    ("probe3d", "pairs"): (*_OF_VIEWS, *_OF_PROBE3D, "positions", "normalise"),
    ("probe3d", "views"): ("alphas", "normalise", "positions", "tolerance"),
}
"""Settings without effect, by protocol and kind of pairs."""
KEPT = 64
"""Images whose tokens are kept: lists of pairs name the same ones again soon."""
PART = 8
"""Pairs that one process matches before all send each other their scores."""
Grids: TypeAlias = Sequence[Float[Tensor, "_ _ d"]]
Sizes: TypeAlias = Sequence[tuple[int, int]]
NamedTokens: TypeAlias = Callable[[str, Image.Image], Float[Tensor, "..."]]


@tasks.register("correspondence")
@dataclass(frozen=True)
class Correspondence(Task):
    """Points matched between two images by patch tokens alone."""

    seeded: ClassVar[bool] = False
    protocol: Literal["points", "probe3d"] = "points"
    """How matches are made and counted."""
    block: int = -1
    """Whose tokens are compared, after the model's final norm (`probe3d`: before it)."""
    size: Count = 448
    """Both sides in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bicubic"
    positions: Positions = "pixels"
    """What is searched in the second image."""
    alphas: Thresholds = (0.1, 0.05, 0.2)
    """Of key points: the largest distance, as a part of the box; the first leads."""
    normalise: Literal["box", "image"] = "box"
    """Of what longer side ``alphas`` are parts: of the thing's box, or of the second image."""
    pixels: Thresholds = (10.0, 5.0, 20.0)
    """Of views: the largest distance in pixels of the second image; the first leads."""
    centimetres: Thresholds = (5.0, 2.0, 10.0)
    """Of views: the largest distance on the surface."""
    step: Count = 16
    """Pixels of the image between the points of a view."""
    tolerance: Positive = 0.05
    """Metres between the depths of a point and of the pixel it falls on: more is hidden."""
    matches: Count = 1000
    """Of views by `probe3d`: how many count, those that the ratio test trusts most."""
    degrees: Annotated[tuple[NonNegative, ...], Different] = ()
    """Of views by `probe3d`: rotations between which recall is also given, increasing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.degrees) != sorted(self.degrees) or len(self.degrees) == 1:
            raise ConfigError(f"correspondence: degrees={self.degrees}; expected two or more, increasing")

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Pairs of images, and the block whose tokens are compared."""
        return Needs(("pairs", "views"), readouts=(self._readout,))

    @property
    def _readout(self) -> Readout:
        return Readout("patches", self.block, norm=self.protocol == "points")

    def recorded(self) -> dict[str, Any]:
        """Return the fields, without those of probe3d where its protocol is not asked for."""
        later = ("protocol", *_OF_PROBE3D) if self.protocol == "points" else ()
        return {name: value for name, value in super().recorded().items() if name not in later}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """PCK of key points, recall of views."""
        if self.protocol == "probe3d":
            views = matches.distinct_metrics(self.pixels, self.centimetres, self.degrees)
            return (*matches.category_metrics(self.alphas), *views)
        return (*matches.key_point_metrics(self.alphas), *matches.view_metrics(self.pixels, self.centimetres))

    def resolved(self, dataset: Dataset) -> "Correspondence":
        """Return the task with the scores that the dataset's kind of pairs has."""
        kind = dataset.card.target
        for name in _IDLE[self.protocol, kind]:
            if getattr(self, name) not in {(), getattr(Correspondence, name)}:
                raise ConfigError(
                    f"correspondence: {name}={getattr(self, name)} has no effect on {dataset.card.name}, "
                    f"whose target is {kind}, by protocol={self.protocol}; leave it out"
                )
        task = replace(self, pixels=(), centimetres=()) if kind == "pairs" else replace(self, alphas=())
        if not task.metrics:
            raise ConfigError(f"correspondence: no score of {kind} is left; set alphas, or pixels")
        return task

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored pairs, which go through the model in `evaluate`."""
        return (FeatureRequest(dataset, dataset.card.test_split, None, ()),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Match every pair; one row per pair that shares a point."""
        split, live, card = inputs.test_split, Live(inputs.backbone, inputs.context), inputs.card
        geometry = live.square("correspondence", self.size, self.interpolation)
        tokens_of = live.read_named(geometry, self._readout, KEPT)
        # Neighbours in a list of pairs share images, so that one process takes several of them.
        parts = [range(start, min(start + PART, len(split))) for start in range(0, len(split), PART)]
        rows: dict[str, dict[str, float]] = {}
        for scores in live.shared(card.name, parts, partial(self._part, split, tokens_of), len):
            rows |= scores
        if not rows:
            raise DataError(f"{card.name}/{card.test_split}: no pair has a point that both images show")
        drawn = (name for name in ("category", "group") if len({row.get(name) for row in rows.values()}) > 1)
        samples = samples_of(rows, cluster=next(drawn, ""))
        self._refuse_empty_ranges(samples, card.name)
        grouped = self.protocol == "probe3d" and "category" in samples.columns
        return matches.by_category(samples, self.alphas) if grouped else samples

    def _refuse_empty_ranges(self, samples: Samples, name: str) -> None:
        for low, high in pairwise(self.degrees):
            turns = samples["degrees"]
            if not ((turns >= low) & (turns < high)).any():
                raise DataError(f"{name}: no camera turns by {low:g} to {high:g} degrees; set other degrees")

    def _part(self, split: Split, tokens_of: NamedTokens, part: range) -> dict[str, dict[str, float]]:
        """Return the rows of some pairs, without those that share no point."""
        assert split.target is not None
        rows: dict[str, dict[str, float]] = {}
        for row in part:
            pair: KeyPoints | Views = split.target(row)
            images = (split.image(row), pair.partner)
            if self.protocol == "probe3d" and isinstance(pair, KeyPoints):
                images = tuple(squared(image) for image in images)
            grids = [tokens_of(*named) for named in zip(pair.names, images, strict=True)]
            sizes = [image.size for image in images]
            count = self._probe3d if self.protocol == "probe3d" else self._scores
            if scores := count(pair, grids, sizes):
                thing = pair.group if isinstance(pair, Views) else None
                rows[split.ids[row]] = scores if thing is None else {**scores, "group": thing}
        return rows

    def _probe3d(self, pair: KeyPoints | Views, grids: Grids, sizes: Sizes) -> dict[str, float]:
        """Return the row of one pair by probe3d's protocol."""
        if isinstance(pair, KeyPoints):
            matched = partial(_matched_squares, grids=grids, sizes=sizes, size=self.size)
            whole = pair._replace(partner_points=_whole_pixels(pair.partner_points, sizes[1], self.size))
            return matches.key_point_scores(whole, matched, self.alphas, "box", below=True)
        distinct = partial(_distinct, grids=grids, sizes=sizes, step=self.step, count=self.matches)
        limits = self.pixels, self.centimetres, self.degrees
        return matches.distinct_scores(pair, distinct, self.step, *limits)

    def _scores(self, pair: KeyPoints | Views, grids: Grids, sizes: Sizes) -> dict[str, float]:
        """Return the row of one pair, empty where it shares no point."""
        matched = partial(match_pixels, grids=grids, sizes=sizes, positions=self.positions)
        if isinstance(pair, KeyPoints):
            return matches.key_point_scores(pair, matched, self.alphas, self.normalise)
        return matches.view_scores(pair, matched, self.step, self.tolerance, self.pixels, self.centimetres)


def squared(image: Image.Image) -> Image.Image:
    """Return an image with white below it or to its right, so that both sides are equal."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image)
    return square


def _matched_squares(
    points: Float[np.ndarray, "k 2"], grids: Grids, sizes: Sizes, size: int
) -> Float[np.ndarray, "k 2"]:
    side, other = (max(size) for size in sizes)
    whole = _whole_pixels(points, sizes[0], size)
    return match_corners((whole - 0.5) / side, grids) * other + 0.5


def _whole_pixels(
    points: Float[np.ndarray, "k 2"], image: tuple[int, int], size: int
) -> Float[np.ndarray, "k 2"]:
    # Key points lie in corners of pixels there, and in whole pixels of the resized square, in both images.
    side = max(image)
    return np.trunc((points - 0.5) * size / side) * side / size + 0.5


def _distinct(
    first: Float[np.ndarray, "n 2"], second: Float[np.ndarray, "m 2"], grids: Grids, sizes: Sizes, step: int,
    count: int,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:  # fmt: skip
    here, there = (
        upsampled_at(grid, (size[1] // step, size[0] // step), (points // step).astype(int))
        for grid, points, size in zip(grids, (first, second), sizes, strict=True)
    )
    return most_distinct(here, there, count)
