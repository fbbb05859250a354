"""Semantic segmentation: how much of a scene can be read off single patch tokens by a linear head.

The head of DINOv2: batch normalisation and a 1x1 convolution on frozen patch tokens, logits upsampled
bilinearly to the mask, cross-entropy averaged over all pixels (ignored ones add nothing), AdamW, a
linear warm-up and decay. `lin` reads the last block, `ms` the last four, concatenated.
``protocol=fast`` trains on stored tokens of images squashed to 448 x 448, without augmentation, on
pixels drawn at random from every mask. ``protocol=paper`` runs the backbone on augmented crops of 512
pixels for 40,000 iterations, and slides such a window over test images of that short side; `ms` does so
at 640 pixels, five scales and both ways round. Scored at the resolution of the masks: mean IoU of
intersections and unions summed over the split, over the classes that occur in masks or are predicted.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.4 and app. B; dinov2/eval/segmentation.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import numpy as np
from jaxtyping import Int64

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.image_level import fitting_amounts, train_and_test
from ssleval.core.settings import Count, Natural, NonNegative, Positive, ProperFraction
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.features import Live
from ssleval.heads.dense.crops import Batch, Crops, GridBatch, fit_on_crops
from ssleval.heads.dense.grid import Fit, LinearHead, batches, outputs_of
from ssleval.heads.dense.labelled import labelled
from ssleval.heads.dense.recipe import Choice, PaperFields, published
from ssleval.heads.dense.segmentation import classes_at, fit_classes
from ssleval.metrics.segmentation import OVERLAP_METRICS, confusions, overlap


@tasks.register("segmentation")
@dataclass(frozen=True)
class Segmentation(PaperFields, Task):
    """Linear segmentation on frozen patch tokens."""

    version = 2
    protocol: Literal["fast", "paper"] = "fast"
    inputs: Literal["lin", "ms"] = "lin"
    """The last block, or the last four, after the model's final norm."""
    size: Natural = 0
    """Pixels of both sides (fast; 448, a multiple of every usual patch size), or of the short one (paper)."""
    interpolation: Choice = "protocol"
    iterations: Natural = 0
    batch_size: Count = 16
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    warmup: ProperFraction = 0.0375
    """Fraction of the iterations: 1,500 of 40,000 in the paper."""
    pixels: Natural = 0
    """Pixels drawn from every image of a batch (fast; 2,048). The paper's loss takes all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        full = published(self, self.protocol, self.inputs)
        full.refuse_conflicts(self.protocol, full.pixels, full.size)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels."""
        return OVERLAP_METRICS

    @property
    def needs(self) -> Needs:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Masks to fit on and to score, and the blocks that are read."""
        return Needs(("mask",), training_split=True, readouts=self._readouts)

    def resolved(self, dataset: Dataset) -> "Segmentation":  # noqa: ARG002
        """Return the task with the published values where it has none of its own."""
        return published(self, self.protocol, self.inputs)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split; for the paper the splits alone."""
        if self.protocol == "paper":
            return train_and_test(dataset, None, ())
        geometry = Geometry(self.size, "square", None, cast("Interpolation", self.interpolation))
        return train_and_test(dataset, geometry, self._readouts)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the iterations, and the images of both splits."""
        return {**super().amounts(dataset), **fitting_amounts(dataset, self.iterations, self.batch_size)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit the head on the training split; one row of pixel counts per scored image."""
        if self.protocol == "paper":
            return self._on_crops(inputs)
        train, test = labelled(inputs)
        head = fit_classes(train.examples, Fit.of(self), inputs.card.num_classes, inputs.context)
        classes = (partial(classes_at, logits) for logits in outputs_of(head, test.grids, len(test.ids)))
        return Samples(test.ids, overlap(confusions(classes, test.targets, inputs.card.num_classes)))

    def _on_crops(self, inputs: Inputs) -> Samples:
        train, test = (inputs.dataset.split(request.split) for request in inputs.requests)
        live, seed = Live(inputs.backbone, inputs.context), inputs.context.seed
        patches_of, card = live.grids(self._readouts), live.backbone.card
        rows = np.stack(list(batches(len(train), self.batch_size, self.iterations, seed)))
        crops = Crops(train, rows, self.augmentation(self.size, self.interpolation), card.mean, seed)
        channels, device = card.embed_dim * len(self._readouts), inputs.context.device
        head = LinearHead(channels, inputs.card.num_classes, normalise=True, seed=seed)

        def grids_of(batch: Batch) -> GridBatch:
            return patches_of(batch[0].to(device)).to(live.sent_from), batch[1]

        name = f"crops of {inputs.card.name}"
        grids = live.shared_batches(name, crops, len(crops), grids_of, self.batch_size)
        # Every step of the head needs the one before, so that one process fits it.
        live.fit_once(head, grids, lambda grids: fit_on_crops(grids, Fit.of(self), head, device))
        classes_of = self.windows(patches_of, head, self.size, self.interpolation, device)

        assert test.target is not None
        mask_of = test.target

        def counts_of(row: int) -> Int64[np.ndarray, "c c"]:
            classes = partial(classes_of, test.image(row))
            return confusions([classes], lambda _: mask_of(row), inputs.card.num_classes)[0]

        counts = live.shared(inputs.card.name, range(len(test)), counts_of, lambda _: 1)
        return Samples(test.ids, overlap(list(counts)))

    @property
    def _readouts(self) -> tuple[Readout, ...]:
        return tuple(Readout("patches", block) for block in ((-1,) if self.inputs == "lin" else range(-4, 0)))
