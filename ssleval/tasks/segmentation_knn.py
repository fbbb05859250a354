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
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ssleval.core import Dataset, Metric, Precision, Samples
from ssleval.core.image_level import PATCHES, SquareImages
from ssleval.core.settings import Count, Positive
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.heads.dense.grid import targets_of
from ssleval.heads.dense.retrieval import Bank, fill_bank, soft_votes
from ssleval.heads.dense.segmentation import classes_at
from ssleval.heads.knn import nearest_neighbours
from ssleval.metrics.segmentation import OVERLAP_METRICS, confusions, matched_mean_iou_of, overlap

IMAGES_AT_ONCE = 16


@tasks.register("segmentation_knn")
@dataclass(frozen=True)
class SegmentationKnn(SquareImages, Task):
    """Labels of patches, read off a bank of labelled ones."""

    needs: ClassVar[Needs] = Needs(("mask",), training_split=True)
    published_precision: ClassVar[Precision] = "fp16"
    """open-hummingbird-eval runs the model under autocast to fp16."""
    memory_size: Count = 102_400
    """Patches in the bank, at most: 1,024 x 10^2 (10^3 and 10^4 are published too)."""
    k: Count = 30
    beta: Positive = 0.02
    """Temperature of the neighbours' weights."""
    match: Literal["identity", "hungarian"] = "identity"
    """Whether a class must be called by its own name, or predicted ones are renamed one to one."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean IoU, mean accuracy of classes, and accuracy of pixels; of renamed classes mean IoU alone."""
        if self.match == "hungarian":
            return (Metric("mean_iou", matched_mean_iou_of("confusion")),)
        return OVERLAP_METRICS

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the images of both splits."""
        # So many images fill a bank, whose size is what a search costs.
        return {**super().amounts(dataset), "train": (128, dataset.card.lengths[dataset.card.train_split])}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fill the bank and ask it; one row of pixel counts per scored image."""
        (train, test), card, context = inputs.tables(), inputs.card, inputs.context
        known = targets_of(inputs.dataset, card.train_split, train.rows)
        settings = {"memory_size": self.memory_size, "num_classes": card.num_classes, "seed": context.seed}
        votes = self._votes(fill_bank(train[PATCHES], known, **settings), test[PATCHES], context.device)
        classes = (partial(classes_at, labels) for labels in votes)
        masks = targets_of(inputs.dataset, card.test_split, test.rows)
        counts = confusions(classes, masks, card.num_classes)
        if self.match == "hungarian":
            return Samples(test.ids, {"confusion": np.stack(counts)})
        return Samples(test.ids, overlap(counts))

    def _votes(
        self, bank: Bank, tokens: Float[np.ndarray, "n h w d"], device: str
    ) -> Iterator[Float[Tensor, "c h w"]]:
        """Yield the soft labels of every patch of the scored images, in order."""
        for start in range(0, len(tokens), IMAGES_AT_ONCE):
            grids = np.asarray(tokens[start : start + IMAGES_AT_ONCE])
            queries = grids.reshape(-1, grids.shape[3])
            neighbours = nearest_neighbours(bank.keys, queries, k=self.k, device=device)
            votes = soft_votes(*neighbours, bank, self.beta)
            yield from votes.view(*grids.shape[:3], -1).permute(0, 3, 1, 2)
