"""Segmentation without training: patches take the labels of the most similar patches of labelled images.

The dense retrieval of Hummingbird. A bank holds ``memory_size`` patch tokens of the training images, last
block, final norm, equally many of each image, patches of classes rare in their image drawn more often
(seeded). The label of a patch is how its pixels are divided among the classes; ignored pixels are no part
of it. A patch of a scored image takes the labels of its 30 nearest by cosine, exactly searched, weighed by
softmax(cosine / 0.02). Labels are upsampled bilinearly to the mask; the largest wins.
Images are squashed to 448 x 448, without augmentation. Mean IoU as in `segmentation`; with
``match=hungarian`` predicted classes are renamed one to one as suits the score best.

Source: Balazevic et al. 2023, arXiv:2306.01667; github.com/vpariza/open-hummingbird-eval.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.core.task import Source, Task, refuse_one_split, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.dense.grid import targets_of
from ssleval.heads.dense.retrieval import Bank, fill_bank, soft_votes
from ssleval.heads.dense.segmentation import classes_at
from ssleval.heads.knn import nearest_neighbours
from ssleval.metrics.segmentation import confusion, matched_mean_iou_of, overlap
from ssleval.metrics.stats import mean_ratio_of, ratio_of

PATCHES = Readout("patches")
IMAGES_AT_ONCE = 16


@tasks.register("segmentation_knn")
@dataclass(frozen=True)
class SegmentationKnn(Task):
    """Labels of patches, read off a bank of labelled ones."""

    size: int = 448
    """Both sides in pixels; a multiple of every usual patch size (14, 16, 28, 32)."""
    interpolation: Interpolation = "bicubic"
    memory_size: int = 102_400
    """Patches in the bank, at most: 1,024 x 10^2 (10^3 and 10^4 are published too)."""
    k: int = 30
    beta: float = 0.02
    """Temperature of the neighbours' weights."""
    match: Literal["identity", "hungarian"] = "identity"
    """Whether a class must be called by its own name, or predicted ones are renamed one to one."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour."""
        if min(self.k, self.memory_size) < 1 or not self.beta > 0:
            raise ConfigError(
                f"segmentation_knn: k={self.k}, memory_size={self.memory_size}, beta={self.beta}; all must "
                "be positive"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels; of renamed classes mean IoU alone."""
        if self.match == "hungarian":
            return (Metric("mean_iou", matched_mean_iou_of("confusion")),)
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
                f"segmentation_knn needs a mask of classes; {card.name} has target {card.target!r}"
            )
        refuse_one_split("segmentation_knn", card)
        geometry = Geometry(self.size, "square", None, self.interpolation)
        return tuple(
            FeatureRequest(dataset, split, geometry, (PATCHES,))
            for split in (card.train_split, card.test_split)
        )

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fill the bank and ask it; one row of pixel counts per scored image."""
        first, second = self.requests(dataset)
        train, test = source.load(first), source.load(second)
        classes = dataset.card.num_classes
        bank = fill_bank(
            lambda row: np.asarray(train[PATCHES][row]),
            targets_of(dataset, first.split, train.rows),
            len(train.ids),
            memory_size=self.memory_size,
            num_classes=classes,
            seed=context.seed,
        )
        truth = targets_of(dataset, second.split, test.rows)
        counts = [
            confusion(classes_at(votes, truth(row).shape), truth(row), classes)
            for row, votes in enumerate(self._votes(bank, test, context))
        ]
        if self.match == "hungarian":
            return Samples(test.ids, {"confusion": np.stack(counts)})
        return Samples(test.ids, overlap(counts))

    def _votes(self, bank: Bank, test: FeatureTable, context: Context) -> Iterator[Float[Tensor, "c h w"]]:
        """Yield the soft labels of every patch of the scored images, in order."""
        for start in range(0, len(test.ids), IMAGES_AT_ONCE):
            grids = np.asarray(test[PATCHES][start : start + IMAGES_AT_ONCE])
            queries = grids.reshape(-1, grids.shape[3])
            found = nearest_neighbours(bank.keys, queries, k=self.k, device=context.device)
            votes = soft_votes(*found, bank, self.beta)
            yield from votes.view(*grids.shape[:3], -1).permute(0, 3, 1, 2)
