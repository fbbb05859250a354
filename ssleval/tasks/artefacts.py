"""Artefacts: do some patch tokens have norms far above the others, and do these still know their patch?

The L2 norm of every patch token of every block, before and after the model's final norm, at 224 pixels
(bicubic resize of the short side to 256, central crop). Of the last block, before the final norm: the share
of patches above three times the median of their image, which leads, and above `cut`; the first also after the
final norm. Then what is known by the patches of largest norm (2 %) and by the others: place and pixels are
read from the token after the final norm, by ridge regressions fitted on the other half of the images. Images
of the scored split; labels are not needed.

Source: Darcet et al. 2024, arXiv:2309.16588, sec. 2, which cuts at 150 for DINOv2 ViT-g/14.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from ssleval.core import Dataset, FeatureRequest, Geometry, Metric, Readout, Samples, Split
from ssleval.core.image_level import PATCHES, ImageGeometry
from ssleval.core.settings import OpenFraction, Positive, Several
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import DataError
from ssleval.features import Live, pixels_of
from ssleval.heads.dense.artefacts import above_medians, largest_of, norms_of, patch_pixels, read_back
from ssleval.metrics.stats import mean_of, ratio_of

IMAGES_AT_ONCE = 16
"""Tokens of all blocks are held together."""
_UNITS = {"position": "fraction", "distance": "patches", "pixels": "grey levels"}


@tasks.register("artefacts")
@dataclass(frozen=True)
class Artefacts(ImageGeometry, Task):
    """Patch tokens of large norm, and what they know."""

    needs: ClassVar[Needs] = Needs(readouts=(PATCHES,))
    cut: Positive = 150.0
    """A norm, of the scale that the model has."""
    medians: Positive = 3.0
    """A patch is an outlier above so many times the median norm of its image."""
    largest: OpenFraction = 0.02
    """Share of patches, those of largest norm, that is compared with the others in what it knows."""
    strength: Positive = 1e-3
    """Penalty of the regressions, relative to the mean variance of a channel."""
    read_among: Several = 500
    """Images that regressions are fitted and scored on, drawn by the seed."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Shares of outliers, then what is known by both groups of patches."""
        shares = (f"outliers@{self.medians:g}medians", f"outliers@{self.cut:g}", "outliers_normed")
        known = (
            Metric(f"{name}@{group}", ratio_of(f"{name}@{group}", f"count@{group}"), name == "position", unit)
            for name, unit in _UNITS.items()
            for group in ("others", "largest")
        )
        return (*(Metric(name, mean_of(name), higher_is_better=False) for name in shares), *known)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored images, which go through the model in `evaluate`; any dataset will do."""
        return (FeatureRequest(dataset, dataset.card.test_split, None, ()),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Measure all norms; one row per image."""
        split, live = inputs.test_split, Live(inputs.backbone, inputs.context)
        if len(split) < 2:
            raise DataError("artefacts needs two images: what a token knows is read by a fit to other images")
        geometry = self.geometry or inputs.backbone.card.native_geometry()
        order = np.random.default_rng(inputs.context.seed).permutation(len(split))
        chosen = np.sort(order[: self.read_among])
        seen = partial(self._seen, live, split, geometry, chosen)
        starts = range(0, len(split), IMAGES_AT_ONCE)
        batches = [range(start, min(start + IMAGES_AT_ONCE, len(split))) for start in starts]
        parts = list(live.shared(inputs.card.name, batches, seen, len))
        norms, by_block, tokens, pixels = (np.concatenate(part) for part in zip(*parts, strict=True))
        large = largest_of(norms[chosen], self.largest)
        known = read_back(tokens, pixels, {"others": ~large, "largest": large}, self.strength)
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"norms": norms, "by_block": by_block}
        columns[f"outliers@{self.medians:g}medians"] = by_block[:, -1, 0, 2]
        columns[f"outliers@{self.cut:g}"] = (norms > self.cut).mean(axis=(1, 2))
        columns["outliers_normed"] = by_block[:, -1, 1, 2]
        for name, values in known.items():
            columns[name] = np.zeros(len(norms))
            columns[name][chosen] = values
        return Samples(list(split.ids), columns)

    def _seen(
        self, live: Live, split: Split, geometry: Geometry, chosen: Int[np.ndarray, " k"], rows: range
    ) -> tuple[np.ndarray, ...]:
        """Return what is kept of one batch, of tokens and pixels that of ``chosen`` rows.

        Norms ``[b h w]`` of the last block; of every block, before and after the final norm, their median,
        the largest and the share of outliers ``[b blocks 2 3]``; tokens ``[k h w d]``; pixels ``[k h w t]``.
        """
        images = torch.cat([pixels_of(split.image(row), geometry) for row in rows])
        blocks = range(live.backbone.num_blocks)
        stages = [[Readout("patches", block, norm) for norm in (False, True)] for block in blocks]
        values = live.read(images, [readout for both in stages for readout in both])
        norms = [[norms_of(values[readout]) for readout in both] for both in stages]
        last = values[stages[-1][1]].float().cpu().numpy()
        kept = np.isin(rows, chosen)
        pixels = patch_pixels(images, last.shape[1:3])
        by_block = [np.stack([self._summary(one) for one in both], axis=1) for both in norms]
        return norms[-1][0], np.stack(by_block, axis=1), last[kept], pixels[kept]

    def _summary(self, norms: Float[np.ndarray, "b h w"]) -> Float[np.ndarray, "b 3"]:
        numbers = np.median(norms, axis=(1, 2)), norms.max(axis=(1, 2))
        return np.stack([*numbers, above_medians(norms, self.medians).mean(axis=(1, 2))], axis=1)
