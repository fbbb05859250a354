"""Segmentation by logistic regression: one class for every patch, the strength chosen on held-out images.

The protocol of CAPI. Images are squashed to 224 x 224, masks likewise, by nearest neighbours. A patch token
of the last block, after the final norm, is an example of the most frequent value in its patch; where that is
to be ignored, it is left out. Channels get mean 0 and deviation 1 over the training images without a random
tenth. C * sum of cross-entropies + 0.5 * ||W||^2 is minimised for 8 values of C from 1e-6 to 1e5; the C with
the largest mean IoU on that tenth is fitted again on all training images. A patch has one class, and mean
IoU is taken at the pixels of the squashed masks, over the classes that occur in masks or are predicted.

Source: Darcet et al. 2025, arXiv:2502.08769, sec. 4; facebookresearch/capi, eval_segmentation.py.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int64

from ssleval.core import Dataset, Metric, Samples
from ssleval.core.image_level import PATCHES, SquareImages
from ssleval.core.settings import Count, OpenFraction, Positive, Several
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.dense.grid import targets_of
from ssleval.heads.dense.patchwise import PatchMasks, Scaling, labelled_patches
from ssleval.heads.logistic import Logistic, fit_path
from ssleval.metrics.segmentation import OVERLAP_METRICS, confusion, overlap


@tasks.register("segmentation_logreg")
@dataclass(frozen=True)
class SegmentationLogreg(SquareImages, Task):
    """A class for every patch token, by logistic regression."""

    needs: ClassVar[Needs] = Needs(("mask",), training_split=True)
    size: Count = 224
    """Both sides in pixels; a multiple of the patch size."""
    standardise: bool = True
    """Whether every channel gets mean 0 and deviation 1; CAPI prints both."""
    smallest: Positive = 1e-6
    largest: Positive = 1e5
    count: Several = 8
    """How many values of C are tried, from the smallest to the largest, evenly in log C."""
    held_out: OpenFraction = 0.1
    """Fraction of the training images that C is chosen on."""
    every: Count = 1
    """Only each so many-th patch of the training images is fitted on."""
    tolerance: Positive = 1e-7
    """A fit ends when a step promises less than this fraction of the objective."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest >= self.largest:
            raise ConfigError(
                f"segmentation_logreg: C from {self.smallest:g} to {self.largest:g}; smallest < largest"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels."""
        return OVERLAP_METRICS

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the images of both splits."""
        train = dataset.card.lengths[dataset.card.train_split]
        return {**super().amounts(dataset), "train": (min(64, train), train)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Choose C and fit; one row of pixel counts per scored image."""
        (train, test), classes = inputs.tables(), inputs.card.num_classes
        known, scored = (
            PatchMasks(targets_of(inputs.dataset, request.split, table.rows), self.size)
            for request, table in zip(inputs.requests, (train, test), strict=True)
        )
        held, fitted = self._parts(len(train.ids), inputs.context.seed)
        tokens = train[PATCHES]
        scaling = Scaling.of(tokens, fitted) if self.standardise else Scaling(0.0, 1.0)

        def score(model: Logistic) -> float:
            counts = _counts(model, scaling, tokens[held], known, held, classes)
            return self.metrics[0].score(Samples([""] * len(held), counts))

        fits = partial(fit_path, num_classes=classes, tolerance=self.tolerance, device=inputs.context.device)
        strengths = np.geomspace(self.smallest, self.largest, self.count).tolist()
        best = max(fits(*labelled_patches(tokens, known, fitted, scaling, self.every), strengths), key=score)
        rows = np.arange(len(train.ids))
        (model,) = fits(
            *labelled_patches(tokens, known, rows, scaling, self.every), (best.strength,), start=best
        )
        rows = np.arange(len(test.ids))
        return Samples(test.ids, _counts(model, scaling, test[PATCHES], scored, rows, classes))

    def _parts(self, count: int, seed: int) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " n"]]:
        """Return the images that C is chosen on, and the others, both in order."""
        order, held = np.random.default_rng(seed).permutation(count), int(self.held_out * count)
        if not held:
            raise ConfigError(
                f"segmentation_logreg: held_out={self.held_out:g} of {count} images is none; C needs some"
            )
        return np.sort(order[:held]), np.sort(order[held:])


def _counts(
    model: Logistic,
    scaling: Scaling,
    tokens: Float[np.ndarray, "m h w d"],
    masks: PatchMasks,
    rows: Int64[np.ndarray, " m"],
    num_classes: int,
) -> dict[str, Int64[np.ndarray, "m ..."]]:
    """Return the pixel counts of squashed masks against the classes of patches, by image."""
    counts: list[Int64[np.ndarray, "c c"]] = []
    for grid, row in zip(tokens, rows.tolist(), strict=True):
        height, width, channels = grid.shape
        found = model.scores(scaling(grid.reshape(-1, channels))).argmax(axis=1).reshape(height, width)
        pixels = found.repeat(masks.size // height, axis=0).repeat(masks.size // width, axis=1)
        counts.append(confusion(pixels, masks.square(row), num_classes))
    return overlap(counts)
