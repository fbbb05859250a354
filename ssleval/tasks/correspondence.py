"""Correspondence: do the same points of things get the same patch tokens in two images?

Nothing is trained. Both images are squashed to 448 x 448. The token of a point of the first, interpolated
bilinearly, is compared by cosine with those of the second, upsampled bilinearly to its pixels
(``positions=patches``: with its patches, a match being at their centre); the largest wins.
Key points (`pairs`): a match is right within 0.1 of the longer side of the thing's box in the second
image. PCK is averaged over pairs (``pck@0.1``), over all points, and over categories of means over pairs.
Depth and cameras (`views`): points 16 pixels apart on the first image that the second shows as well, by its
depth; recall is the share of them matched within some pixels of the image, or centimetres of the surface.

Source: Min et al. 2019, arXiv:1908.10543, sec. 3 (PCK); Tang et al. 2023, arXiv:2306.03881 (upsampled
tokens); El Banani et al. 2024, arXiv:2404.08636, sec. 4.2 (recall).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, TypeAlias

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ssleval.core import Dataset, FeatureRequest, Interpolation, Metric, Readout, Samples, Split
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, Positive, Thresholds
from ssleval.core.targets import KeyPoints, Views
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, DataError
from ssleval.features import Live
from ssleval.heads.matching import Positions, match_pixels
from ssleval.metrics import matches

_IDLE = {"pairs": ("pixels", "centimetres", "step", "tolerance"), "views": ("alphas", "normalise")}
"""Settings without effect, by kind of pairs."""
KEPT = 64
"""Images whose tokens are kept: lists of pairs name the same ones again soon."""
PART = 8
"""Pairs that one process matches before all send each other their scores."""
NamedTokens: TypeAlias = Callable[[str, Image.Image], Float[Tensor, "..."]]


@tasks.register("correspondence")
@dataclass(frozen=True)
class Correspondence(Task):
    """Points matched between two images by patch tokens alone."""

    seeded: ClassVar[bool] = False
    block: int = -1
    """Whose tokens are compared, after the model's final norm."""
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

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Pairs of images, and the block whose tokens are compared."""
        return Needs(("pairs", "views"), readouts=(Readout("patches", self.block),))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """PCK of key points, recall of views."""
        return (*matches.key_point_metrics(self.alphas), *matches.view_metrics(self.pixels, self.centimetres))

    def resolved(self, dataset: Dataset) -> "Correspondence":
        """Return the task with the scores that the dataset's kind of pairs has."""
        kind = dataset.card.target
        for name in _IDLE[kind]:
            if getattr(self, name) not in {(), getattr(Correspondence, name)}:
                raise ConfigError(
                    f"correspondence: {name}={getattr(self, name)} has no effect on {dataset.card.name}, "
                    f"whose target is {kind}; leave it out"
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
        tokens_of = live.read_named(geometry, Readout("patches", self.block), KEPT)
        # Neighbours in a list of pairs share images, so that one process takes several of them.
        parts = [range(start, min(start + PART, len(split))) for start in range(0, len(split), PART)]
        rows: dict[str, dict[str, float]] = {}
        for scores in live.shared(card.name, parts, partial(self._part, split, tokens_of), len):
            rows |= scores
        if not rows:
            raise DataError(f"{card.name}/{card.test_split}: no pair has a point that both images show")
        several = len({row.get("category") for row in rows.values()}) > 1
        return samples_of(rows, cluster="category" if several else "")

    def _part(self, split: Split, tokens_of: NamedTokens, part: range) -> dict[str, dict[str, float]]:
        """Return the rows of some pairs, without those that share no point."""
        assert split.target is not None
        rows: dict[str, dict[str, float]] = {}
        for row in part:
            pair: KeyPoints | Views = split.target(row)
            images = (split.image(row), pair.partner)
            grids = [tokens_of(*named) for named in zip(pair.names, images, strict=True)]
            sizes = [image.size for image in images]
            matched = partial(match_pixels, grids=grids, sizes=sizes, positions=self.positions)
            if scores := self._scores(pair, matched):
                rows[split.ids[row]] = scores
        return rows

    def _scores(self, pair: KeyPoints | Views, matched: matches.Matcher) -> dict[str, float]:
        """Return the row of one pair, empty where it shares no point."""
        if isinstance(pair, KeyPoints):
            return matches.key_point_scores(pair, matched, self.alphas, self.normalise)
        return matches.view_scores(pair, matched, self.step, self.tolerance, self.pixels, self.centimetres)
