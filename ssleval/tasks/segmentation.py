"""Semantic segmentation: how much of a scene can be read off single patch tokens by a linear head.

The head of DINOv2: batch normalisation and a 1x1 convolution on frozen patch tokens, logits upsampled
bilinearly to the mask, cross-entropy averaged over all pixels (ignored ones add nothing), AdamW, a
linear warm-up and decay. `lin` reads the last block, `ms` the last four, concatenated.
``protocol=fast`` trains on stored tokens of images squashed to 448 x 448, without augmentation, on
pixels drawn at random from every mask. Scored at the resolution of the masks: mean IoU of
intersections and unions summed over the split, over the classes that occur.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.4 and app. B.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    Geometry,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.dense.grid import Fit, grids_of, outputs_of, targets_of
from ssleval.heads.dense.segmentation import classes_at, fit_classes
from ssleval.metrics.segmentation import confusion, overlap
from ssleval.metrics.stats import mean_ratio_of, ratio_of
from ssleval.task import Source, Task, refuse_one_split, tasks

__all__ = ["Segmentation"]


@tasks.register("segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """Linear segmentation on frozen patch tokens."""

    inputs: Literal["lin", "ms"] = "lin"
    """The last block, or the last four, after the model's final norm."""
    size: int = 448
    """Both sides in pixels; a multiple of every usual patch size (14, 16, 28, 32)."""
    interpolation: Interpolation = "bicubic"
    iterations: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.0375
    """Fraction of the iterations: 1,500 of 40,000 in the paper."""
    pixels: int = 2048
    """Pixels drawn from every image of a batch."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour."""
        self._how()
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"segmentation: warmup={self.warmup}; expected a fraction from 0 to below 1")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels."""
        return (
            Metric("mean_iou", mean_ratio_of("intersection", "union")),
            Metric("mean_accuracy", mean_ratio_of("intersection", "area")),
            Metric("pixel_accuracy", ratio_of("correct", "labelled")),
        )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split.

        Raises:
            NotApplicableError: the target is no mask of classes.
            ConfigError: the two splits are one.
        """
        card = dataset.card
        if card.target != "mask":
            raise NotApplicableError(
                f"segmentation needs a mask of classes; {card.name} has target {card.target!r}"
            )
        refuse_one_split("segmentation", card)
        geometry = Geometry(self.size, "square", None, self.interpolation)
        blocks = (-1,) if self.inputs == "lin" else (-4, -3, -2, -1)
        readouts = tuple(Readout("patches", block) for block in blocks)
        return tuple(
            FeatureRequest(dataset, split, geometry, readouts)
            for split in (card.train_split, card.test_split)
        )

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit the head on the training split; one row of pixel counts per scored image."""
        first, second = self.requests(dataset)
        train, test = source.load(first), source.load(second)
        classes = dataset.card.num_classes
        head = fit_classes(
            grids_of(train, first.readouts, context.device),
            targets_of(dataset, first.split, train.rows),
            len(train.ids),
            self._how(),
            num_classes=classes,
            warmup=round(self.warmup * self.iterations),
            seed=context.seed,
            device=context.device,
        )
        truth = targets_of(dataset, second.split, test.rows)
        counts: list[Int64[np.ndarray, "c c"]] = []
        outputs = outputs_of(head, grids_of(test, second.readouts, context.device), len(test.ids))
        for row, logits in enumerate(outputs):
            mask = truth(row)
            counts.append(confusion(classes_at(logits, mask.shape), mask, classes))
        return Samples(test.ids, overlap(counts))

    def _how(self) -> Fit:
        return Fit(self.iterations, self.batch_size, self.learning_rate, self.weight_decay, self.pixels)
