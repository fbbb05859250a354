"""Discovery: is the object of an image found without any training?

One object is found per image, by TokenCut (the second eigenvector of a normalised cut of the patches) or
`method=lost` (patches similar to that of fewest similarities), on the keys of the last block's attention.
Images keep their size and are filled up below and to the right to whole patches with the mean colour. Where
boxes are annotated: CorLoc, the share of images whose box has an intersection over union of at least 0.5 with
any; images without a box do not count. Where masks are: the F-measure with beta^2 = 0.3, intersection over
union, and accuracy of pixels, means over images; pixels of patches belong to the object as their patch does.

Source: Wang et al. 2022, arXiv:2202.11539 (TokenCut); Simeoni et al. 2021, arXiv:2109.14279 (LOST).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta
from PIL import Image

from ssleval.core import IGNORED, Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, Fraction, Natural, Positive
from ssleval.core.targets import Objects
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.core.vocabulary import Split
from ssleval.errors import DataError, NotApplicableError
from ssleval.features import Live, pixels_of
from ssleval.heads.dense.discovery import Placed, in_pixels, lost, tokencut
from ssleval.metrics.boxes import box_overlaps, boxes_of, saliency
from ssleval.metrics.stats import mean_of

_BOXES, _MASKS = ("corloc", "overlap"), ("max_f", "iou", "accuracy")


@tasks.register("discovery")
@dataclass(frozen=True)
class Discovery(Task):
    """One object per image, found from the similarities of patches."""

    seeded: ClassVar[bool] = False
    method: Literal["tokencut", "lost"] = "tokencut"
    features: Literal["keys", "patches"] = "keys"
    """Of patches: keys of the last attention, or tokens of the last block after the final norm."""
    size: Natural = 0
    """Pixels of the long side; 0: images keep their size."""
    interpolation: Interpolation = "bicubic"
    threshold: Annotated[float, Meta(ge=-1, lt=1)] = 0.2
    """Of TokenCut: patches are joined whose cosine exceeds it."""
    weight: Positive = 1e-5
    """Of TokenCut: what joins the others."""
    candidates: Count = 100
    """Of LOST: patches of fewest similarities that may vote."""
    overlap: Fraction = 0.5
    """Intersection over union from which on a box is right."""
    beta_squared: Positive = 0.3
    score: Literal["target", "boxes", "masks"] = "target"
    """Boxes or masks of objects are scored: boxes where instances or boxes are annotated, else masks."""

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Keys, or patch tokens."""
        targets = (
            ("instances", "mask") if self.score == "masks" else ("boxes", "instances", "mask", "objects")
        )
        readouts = () if self.features == "keys" else (Readout("patches"),)
        instead = "--set discovery.features=patches"
        return Needs(targets, keys=self.features == "keys", without_keys=instead, readouts=readouts)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """CorLoc and the mean overlap with the best box, or scores of masks."""
        return tuple(Metric(name, mean_of(name)) for name in (_MASKS if self.score == "masks" else _BOXES))

    def resolved(self, dataset: Dataset) -> "Discovery":
        """Return the task with the kind of score filled in."""
        if self.score != "target":
            return self
        return replace(self, score="masks" if dataset.card.target == "mask" else "boxes")

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored images, which go through the model in `evaluate`; masks are of objects."""
        card = dataset.card
        if card.target == "mask" and card.class_names[:1] != ("background",):
            raise NotApplicableError(f"discovery needs objects; {card.name} has no class 'background'")
        return (FeatureRequest(dataset, card.test_split, None, ()),)

    def evaluate(self, inputs: Inputs) -> Samples:
        """Find an object in every image; one row per image that has one."""
        split, live = inputs.test_split, Live(inputs.backbone, inputs.context)
        judged = partial(self._judged, live, split, boxed=inputs.card.target in {"boxes", "objects"})
        rows = live.shared(inputs.card.name, range(len(split)), judged, lambda _: 1)
        scored = {split.ids[row]: found for row, found in enumerate(rows) if found}
        if not scored:
            raise DataError(f"{inputs.card.name}/{inputs.card.test_split}: no image has an object")
        return samples_of(scored)

    def _judged(self, live: Live, split: Split, row: int, *, boxed: bool) -> dict[str, float]:
        """Return the scores of one image; none where it has no object."""
        assert split.target is not None
        image, target = split.image(row), split.target(row)
        if isinstance(target, Objects):
            # LOST's code rounds corners and leaves out crowds.
            target = np.round(target.boxes[~target.crowd])
        if self.score == "masks":
            counted, true = target != IGNORED, (target != 0) & (target != IGNORED)
            found = self._found(live, image)[1]
            return saliency(found, true, counted, self.beta_squared) if true.any() else {}
        boxes = target if boxed else boxes_of(target)
        if not len(boxes):
            return {}
        best = float(box_overlaps(self._found(live, image)[0], boxes).max())
        return {"corloc": float(best >= self.overlap), "overlap": best}

    def _found(self, live: Live, image: Image.Image) -> Placed:
        """Return the box and the mask of the object of an image, in its own pixels."""
        patch = live.backbone.card.patch_size
        pixels = pixels_of(image, Geometry(self.size or None, "long", None, self.interpolation))
        height, width = pixels.shape[1:3]
        tokens = (live.keys(pixels) if self.features == "keys" else live.patches(pixels))[0]
        grid = tokens.float().cpu().numpy()
        by_lost = self.method == "lost"
        found = lost(grid, self.candidates) if by_lost else tokencut(grid, self.threshold, self.weight)
        return in_pixels(found, patch, (width, height), image.size)
