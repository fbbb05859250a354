"""Attention: do the heads of the last block look at objects?

The protocol behind DINO's table of Jaccard similarities. Images are squashed to 480 x 480, rounded down to
whole patches. Each head's attention of the class token to the patches, scaled to sum to one, is cut to
the fewest patches that hold 60 % of it, and enlarged (nearest) to the mask. An object scores the Jaccard
index of its best head. Pixels that a mask ignores (255) are no object. Scores are means over the objects
of an image, then over images; images without an object do not count.

Source: Caron et al. 2021, arXiv:2104.14294, sec. 4.2.2 and fig. 4; the code was never released, details
are those of Muzammal-Naseer/IPViT, ``evaluate_segmentation.py``.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Samples, Split
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, OpenFraction
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import DataError, NotApplicableError
from ssleval.features import Live, pixels_of
from ssleval.heads.attention import mass_mask
from ssleval.metrics.segmentation import best_jaccard
from ssleval.metrics.stats import mean_of, ratio_of


@tasks.register("attention")
@dataclass(frozen=True)
class Attention(Task):
    """Jaccard index of objects and the best attention head."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("instances", "mask"), attention=True)
    size: Count = 480
    """Both sides in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bilinear"
    mass: OpenFraction = 0.6
    """Part of a head's attention that its mask holds."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean over images, as published, and over all objects."""
        return (
            Metric("jaccard", mean_of("jaccard")),
            Metric("jaccard@object", ratio_of("jaccard_sum", "objects")),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored images, which go through the model in `evaluate`; masks are of objects."""
        card = dataset.card
        if card.target == "mask" and card.class_names[:1] != ("background",):
            raise NotApplicableError(f"attention needs objects; {card.name} has no class 'background'")
        return (FeatureRequest(dataset, card.test_split, None, ()),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Compare every image's heads with its objects; one row per image that has one."""
        split, live = inputs.test_split, Live(inputs.backbone, inputs.context)
        geometry = live.square("attention", self.size, self.interpolation)
        scored: dict[str, dict[str, float]] = {}
        compared = partial(self._compared, live, split, geometry)
        for scores in live.shared(inputs.card.name, live.batches(split, geometry), compared, len):
            scored |= scores
        if not scored:
            raise DataError(f"{inputs.card.name}/{inputs.card.test_split}: no image has an object")
        return samples_of(scored)

    def _compared(
        self, live: Live, split: Split, geometry: Geometry, rows: range
    ) -> dict[str, dict[str, float]]:
        """Return the rows of the images of one batch that have an object."""
        assert split.target is not None
        images = torch.cat([pixels_of(split.image(row), geometry) for row in rows])
        scores: dict[str, dict[str, float]] = {}
        for row, heads in zip(rows, mass_mask(live.attention(images).cpu(), self.mass), strict=True):
            objects = split.target(row)
            best = best_jaccard(enlarged(heads, objects.shape), objects)
            if count := len(best):
                total = float(best.sum())
                scores[split.ids[row]] = {"jaccard": total / count, "jaccard_sum": total, "objects": count}
        return scores


def enlarged(heads: Bool[Tensor, "heads h w"], size: tuple[int, ...]) -> Bool[np.ndarray, "heads H W"]:
    """Return masks of patches as masks of pixels: each takes the patch that its centre lies in."""
    rows, columns = (
        torch.from_numpy((np.arange(side) * 2 + 1) * patches // (2 * side))
        for side, patches in zip(size, heads.shape[1:], strict=True)
    )
    return heads[:, rows][:, :, columns].numpy()
