"""Attention: do the heads of the last block look at objects?

The protocol behind DINO's table of Jaccard similarities. Images are squashed to 480 x 480, rounded down to
whole patches. Each head's attention of the class token to the patches, scaled to sum to one, is cut to
the fewest patches that hold 60 % of it, and enlarged (nearest) to the mask. An object scores the Jaccard
index of its best head. Pixels that a mask ignores (255) are no object. Scores are means over the objects
of an image, then over images; images without an object do not count.

Source: Caron et al. 2021, arXiv:2104.14294, sec. 4.2.2 and fig. 4; the code was never released, details
are those of Muzammal-Naseer/IPViT, ``evaluate_segmentation.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ssleval.core import Context, Dataset, FeatureRequest, Geometry, Interpolation, Metric, Samples, Split
from ssleval.core.backbone import Backbone
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features.extract import choose_batch_size, class_attention
from ssleval.features.geometry import apply
from ssleval.features.progress import progress
from ssleval.heads.attention import mass_mask
from ssleval.metrics.segmentation import best_jaccard
from ssleval.metrics.stats import mean_of, ratio_of


@tasks.register("attention")
@dataclass(frozen=True)
class Attention(Task):
    """Jaccard index of objects and the best attention head."""

    size: int = 480
    """Both sides in pixels; rounded down to whole patches."""
    interpolation: Interpolation = "bilinear"
    mass: float = 0.6
    """Part of a head's attention that its mask holds."""

    seeded = False

    def __post_init__(self) -> None:
        """Refuse settings that no model could honour."""
        if not 0 < self.mass < 1 or self.size < 1:
            raise ConfigError(
                f"attention: mass={self.mass}, size={self.size}; expected a fraction inside (0, 1) and a size"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean over images, as published, and over all objects."""
        return (
            Metric("jaccard", mean_of("jaccard")),
            Metric("jaccard@object", ratio_of("jaccard_sum", "objects")),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored images, which go through the model in `evaluate`.

        Raises:
            NotApplicableError: the dataset does not tell objects from background.
        """
        card = dataset.card
        classes = card.target == "mask" and card.class_names[:1] == ("background",)
        if card.target != "instances" and not classes:
            raise NotApplicableError(
                f"attention needs masks of objects, or of classes of which the first is background; "
                f"{card.name} has target {card.target!r}"
            )
        return (FeatureRequest(dataset, card.test_split, None, ()),)

    def check(self, backbone: Backbone) -> None:
        """Refuse a model without attention of a class token.

        Raises:
            NotApplicableError: it has none, or its library hides it.
        """
        side = backbone.card.native_geometry().fixed_size
        assert side is not None
        backbone.attention(torch.zeros(1, 3, side, side, device=backbone.mean.device))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Compare every image's heads with its objects; one row per image that has one."""
        split = dataset.split(dataset.card.test_split)
        ids: list[str] = []
        rows: list[tuple[float, int]] = []
        label = f"{source.backbone.card.name} on {dataset.card.name}"
        with progress(label, len(split), 0, show=context.progress) as advance:
            for row, heads in self._masks(source.backbone, split, context):
                assert split.target is not None
                objects = split.target(row)
                found = best_jaccard(enlarged(heads, objects.shape), objects)
                if len(found):
                    ids.append(split.ids[row])
                    rows.append((float(found.sum()), len(found)))
                advance(1)
        if not ids:
            raise DataError(f"{dataset.card.name}/{dataset.card.test_split}: no image has an object")
        total, count = (np.array(column) for column in zip(*rows, strict=True))
        return Samples(ids, {"jaccard": total / count, "jaccard_sum": total, "objects": count})

    def _masks(
        self, backbone: Backbone, split: Split, context: Context
    ) -> Iterator[tuple[int, Bool[Tensor, "heads h w"]]]:
        """Yield the row of every image, and the patches that each head looks at."""
        geometry = self._geometry(backbone.card.patch_size)
        size = choose_batch_size(backbone, (), geometry, context)
        for start in range(0, len(split), size):
            batch = range(start, min(start + size, len(split)))
            images = torch.from_numpy(np.stack([apply(geometry, split.image(row)) for row in batch]))
            kept = mass_mask(class_attention(backbone, images, context), self.mass)
            yield from zip(batch, kept.cpu(), strict=True)

    def _geometry(self, patch: int) -> Geometry:
        if self.size < patch:
            raise ConfigError(f"attention: size={self.size} holds no patch of {patch} pixels")
        return Geometry(self.size // patch * patch, "square", None, self.interpolation)


def enlarged(heads: Bool[Tensor, "heads h w"], size: tuple[int, ...]) -> Bool[np.ndarray, "heads H W"]:
    """Return masks of patches as masks of pixels: each takes the patch that its centre lies in."""
    rows, columns = (
        torch.from_numpy((np.arange(side) * 2 + 1) * patches // (2 * side))
        for side, patches in zip(size, heads.shape[1:], strict=True)
    )
    return heads[:, rows][:, :, columns].numpy()
