"""Logistic regression: one regularised linear classifier per dataset, solved to convergence.

The protocol of DINOv2's ``eval/log_regression.py``: L2-regularised multinomial regression on the model's
own descriptor, not normalised. C * sum of cross-entropies + 0.5 * ||W||^2 is minimised, the intercept not
penalised, for 45 values of C from 1e-6 to 1e5, on the training split without a stratified 10 %. The C that
scores highest on those 10 %, of equals the smallest, is fitted again on the whole training split. With two
classes the problem is the sigmoid one. Images with several labels: one problem per label, scored by mAP.
Images at 224 pixels after a bicubic resize of the short side to 256; the official code resizes to 224.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.1.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from ssleval.core import Dataset, Metric, Precision, Samples
from ssleval.core.image_level import VectorPerImage
from ssleval.core.settings import OpenFraction, Positive, Several
from ssleval.core.stated import stated_columns
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.logistic import fit_best
from ssleval.heads.selection import hold_out
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import both_accuracies, classified
from ssleval.metrics.multilabel import MEAN_PRECISIONS


@tasks.register("logreg")
@dataclass(frozen=True)
class Logreg(VectorPerImage, Task):
    """L2-regularised logistic regression, C chosen on held-out training images."""

    needs: ClassVar[Needs] = Needs(("label", "multilabel"), training_split=True)
    published_precision: ClassVar[Precision] = "fp16"
    """DINOv2's evaluations run under autocast to fp16 (eval/setup.py)."""
    smallest: Positive = 1e-6
    largest: Positive = 1e5
    count: Several = 45
    """How many values of C are tried, from the smallest to the largest, evenly in log C."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that C is chosen on."""
    tolerance: Positive = 1e-7
    """A fit ends when a step promises less than this fraction of the objective."""
    metric: Literal["card", "top1", "mean_per_class", "map", "map_11"] = "card"
    """Card: the convention of the dataset. ``map_11``: mAP by VOC 2007's 11 points."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest >= self.largest:
            raise ConfigError(f"logreg: C from {self.smallest:g} to {self.largest:g}; smallest < largest")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The score of the dataset's convention; beside an accuracy the other one, and `calibration`."""
        if self.metric in MEAN_PRECISIONS:
            return (MEAN_PRECISIONS[self.metric],)
        return *both_accuracies(self.metric, "correct"), *calibration()

    def resolved(self, dataset: Dataset) -> "Logreg":
        """Return the task with the metric of the dataset filled in."""
        card = dataset.card
        metric = card.metric if self.metric == "card" else self.metric
        if (metric in MEAN_PRECISIONS) != (card.target == "multilabel"):
            raise ConfigError(f"logreg: {card.name} has target {card.target!r}, which {metric} cannot score")
        return replace(self, metric=metric)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the images of both splits."""
        # A solver takes more steps on more images, so that a large part of a small set is tried.
        count = dataset.card.lengths[dataset.card.train_split]
        least = max(256, min(count // 4, 40_000 // max(1, dataset.card.num_classes)))
        return {**super().amounts(dataset), "train": (least, count)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Choose C, fit and classify; one row per scored image."""
        train, test = inputs.tables()
        labels, truth = inputs.labels(train), inputs.labels(test)
        model = fit_best(
            train[self.vector],
            labels,
            hold_out(labels, self.held_out, inputs.context.seed),
            np.geomspace(self.smallest, self.largest, self.count).tolist(),
            lambda scores, held: self.metrics[0].score(Samples([""] * len(held), classified(scores, held))),
            num_classes=inputs.card.num_classes,
            tolerance=self.tolerance,
            device=inputs.context.device,
        )
        scores = model.scores(test[self.vector])
        columns = classified(scores, truth)
        if truth.ndim == 1:
            columns |= stated_columns(scores, truth)
        return Samples(test.ids, {**columns, "strength": np.full(len(truth), model.strength)})
