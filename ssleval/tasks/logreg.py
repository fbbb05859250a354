"""Logistic regression: one regularised linear classifier per dataset, solved to convergence.

The protocol of DINOv2's ``eval/log_regression.py``: L2-regularised multinomial regression on vectors that
are not normalised, C among 45 values from 1e-6 to 1e5. C is chosen on a stratified 10 % of the training
split, fitted on the rest, then refitted on all of it. Images at 224 pixels after a bicubic resize of the
short side to 256, so that one pass serves every classification task; the official code resizes to 224
(``--set logreg.resize=224``). Images with several labels: one problem per label, scored by mAP.

Source: Oquab et al. 2023, arXiv:2304.07193, sec. 7.1.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from ssleval.core import Context, Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import VectorPerImage, labels_of, train_and_test
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.logistic import fit_best
from ssleval.heads.selection import hold_out
from ssleval.metrics.multilabel import mean_average_precision_of
from ssleval.metrics.stats import mean_of, mean_per_class_of


@tasks.register("logreg")
@dataclass(frozen=True)
class Logreg(VectorPerImage, Task):
    """L2-regularised logistic regression, C chosen on held-out training images."""

    smallest: float = 1e-6
    """C, the weight of the data against the penalty: the range tried..."""
    largest: float = 1e5
    count: int = 45
    """...and how many values, evenly in log C."""
    held_out: float = 0.1
    """Fraction of every training class that C is chosen on."""
    tolerance: float = 1e-7
    """Of the solver, as a fraction of the objective."""
    metric: Literal["card", "top1", "mean_per_class", "map"] = "card"
    """Card: the convention of the dataset."""

    def __post_init__(self) -> None:
        """Refuse settings that no run could honour."""
        if not 0 < self.smallest < self.largest or self.count < 2:
            raise ConfigError(
                f"logreg: {self.count} values of C in {self.smallest:g}..{self.largest:g}; "
                "expected at least 2 in a positive range"
            )
        if not (0 < self.held_out < 1 and self.tolerance > 0):
            raise ConfigError("logreg: held_out must lie between 0 and 1, tolerance above 0")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The one score of the dataset's convention."""
        if self.metric == "map":
            return (Metric("map", mean_average_precision_of("scores", "targets")),)
        if self.metric == "mean_per_class":
            return (Metric("mean_per_class", mean_per_class_of("correct", "label")),)
        return (Metric("top1", mean_of("correct")),)

    def resolved(self, dataset: Dataset) -> "Logreg":
        """Return the task with the metric of the dataset filled in.

        Raises:
            ConfigError: the metric asked for is not one of its kind of label.
        """
        card = dataset.card
        metric = self.metric if self.metric != "card" else card.metric
        if (metric == "map") != (card.target == "multilabel"):
            raise ConfigError(f"logreg: {card.name} has target {card.target!r}, which {metric} cannot score")
        return replace(self, metric=metric)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, one vector per image.

        Raises:
            NotApplicableError: images have no labels.
            ConfigError: the two splits are one.
        """
        return train_and_test(
            "logreg", dataset, self.geometry, (self.vector,), targets=("label", "multilabel")
        )

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Choose C, fit and classify; one row per scored image."""
        task = self.resolved(dataset)
        train, test = (source.load(request) for request in self.requests(dataset))
        labels, truth = (labels_of(table, dataset) for table in (train, test))
        model = fit_best(
            train[self.vector],
            labels,
            hold_out(labels, self.held_out, context.seed),
            np.geomspace(self.smallest, self.largest, self.count).tolist(),
            task._score,
            num_classes=dataset.card.num_classes,
            tolerance=self.tolerance,
            device=context.device,
        )
        scores = model.scores(test[self.vector])
        chosen = np.full(len(test.ids), model.strength)
        if task.metric == "map":
            return Samples(test.ids, {"scores": scores, "targets": truth, "strength": chosen})
        predicted = scores.argmax(axis=1)
        return Samples(
            test.ids,
            {
                "label": truth,
                "predicted": predicted,
                "correct": predicted == truth,
                "strength": chosen,
            },
        )

    def _score(self, scores: Float[np.ndarray, "n c"], targets: Shaped[np.ndarray, "n ..."]) -> float:
        columns = {"scores": scores, "targets": targets, "label": targets}
        if targets.ndim == 1:
            columns["correct"] = scores.argmax(axis=1) == targets
        return self.metrics[0].score(Samples([""] * len(scores), columns))
