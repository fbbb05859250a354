"""Few-shot classification: a handful of training images per class, drawn several times.

The draws of DINOv2 and DINOv3: n images per class, or a fraction of each class and at least one, by a
permutation seeded with the number of the try. On each draw, the k-NN vote (T = 0.07, k in {10, 20, 100,
200} up to n, and n) and L2 logistic regression, its C chosen on a tenth of each class of the draw (at
least one image), then refitted on the whole draw; with one image per class nothing can be held out and C
is ``c_one_shot``. The score is the mean over tries, ``std`` the standard deviation over them (n - 1). The
interval of a score is over scored images; how much the draw matters is what ``std`` says.

Source: Oquab et al. 2023, arXiv:2304.07193 (eval/knn.py); DINOv3 (eval/data.py, eval/log_regression.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    FeatureTable,
    Metric,
    Samples,
)
from ssleval.core.image_level import VectorPerImage, labels_of, train_and_test
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.knn import knn_predict
from ssleval.heads.logistic import fit_best, fit_path
from ssleval.heads.selection import few_per_class, hold_out
from ssleval.metrics.stats import mean_of, mean_per_class_of
from ssleval.metrics.tries import deviation_contributions


@tasks.register("fewshot")
@dataclass(frozen=True)
class Fewshot(VectorPerImage, Task):
    """k-NN and logistic regression on few training images per class."""

    seeded: ClassVar[bool] = False
    shots: tuple[float, ...] = (5.0,)
    """Images per class, or below 1 the fraction of each class; the first leads."""
    tries: int = 5
    """Draws, with seeds 0, 1, 2, ..."""
    classifiers: tuple[Literal["logreg", "knn"], ...] = ("logreg", "knn")
    ks: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours, as far as there are as many shots; for fractions, all of them."""
    temperature: float = 0.07
    smallest: float = 1e-6
    """C of the logistic regression: the range tried..."""
    largest: float = 1e5
    count: int = 45
    """...and how many values, evenly in log C."""
    c_one_shot: float = 1.0
    held_out: float = 0.1
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    def __post_init__(self) -> None:
        """Refuse settings that no dataset could honour."""
        if not self.shots or any(n <= 0 or (n >= 1 and n != int(n)) for n in self.shots):
            raise ConfigError(
                f"fewshot: shots={self.shots}; expected whole numbers from 1, or fractions below"
            )
        if self.tries < 2 or not self.classifiers or not self.ks or min(self.ks) < 1:
            raise ConfigError("fewshot: expected tries >= 2, a classifier and ks from 1")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """For every number of shots and classifier the mean over tries, then the deviations."""
        name = "mean_per_class" if self.metric == "mean_per_class" else "top1"
        found: list[Metric] = []
        for what in self._names():
            mean = mean_of(f"correct@{what}")
            if name == "mean_per_class":
                mean = mean_per_class_of(f"correct@{what}", "label")
            found.append(Metric(f"{name}@{what}", mean))
        deviations = [
            Metric(f"std@{what}", mean_of(f"std@{what}"), higher_is_better=False) for what in self._names()
        ]
        return (*found, *deviations)

    def resolved(self, dataset: Dataset) -> "Fewshot":
        """Return the task with the metric of the dataset filled in."""
        metric = self.metric if self.metric != "card" else dataset.card.metric
        if metric == "map":
            raise NotApplicableError(f"fewshot: {dataset.card.name} is scored by mAP; use the task logreg")
        return replace(self, metric=metric)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, one vector per image.

        Raises:
            NotApplicableError: images do not have exactly one label.
            ConfigError: the two splits are one.
        """
        return train_and_test("fewshot", dataset, self.geometry, (self.vector,))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Fit on every draw; per scored image, the share of tries that were right."""
        task = self.resolved(dataset)
        train, test = (source.load(request) for request in self.requests(dataset))
        labels, truth = (labels_of(table, dataset) for table in (train, test))
        right: dict[str, list[Bool[np.ndarray, " n"]]] = {name: [] for name in task._names()}
        for shots in self.shots:
            for attempt in range(self.tries):
                rows = few_per_class(labels, shots, attempt)
                drawn = train[self.vector][rows], labels[rows]
                for name, predicted in task._predict(shots, *drawn, test, dataset, attempt, context):
                    right[name].append(predicted == truth)
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": truth}
        for name, tries in right.items():
            correct = np.stack(tries, axis=1)
            columns[f"correct@{name}"] = correct.mean(axis=1)
            groups = truth if task.metric == "mean_per_class" else np.zeros(len(correct), dtype=int)
            columns[f"std@{name}"] = deviation_contributions(correct, groups)
        return Samples(test.ids, columns)

    def _predict(
        self,
        shots: float,
        features: Float[np.ndarray, "n p"],
        labels: Int[np.ndarray, " n"],
        test: FeatureTable,
        dataset: Dataset,
        attempt: int,
        context: Context,
    ) -> Iterator[tuple[str, Int[np.ndarray, " m"]]]:
        queries, classes = test[self.vector], dataset.card.num_classes
        if "logreg" in self.classifiers:
            strengths = np.geomspace(self.smallest, self.largest, self.count).tolist()
            if np.bincount(labels).max() == 1:
                model = next(
                    fit_path(features, labels, (self.c_one_shot,), num_classes=classes, device=context.device)
                )
            else:
                held = hold_out(labels, self.held_out, attempt)
                model = fit_best(
                    features, labels, held, strengths, _accuracy, num_classes=classes, device=context.device
                )
            yield f"{_shown(shots)}-logreg", model.scores(queries).argmax(axis=1)
        if "knn" in self.classifiers:
            votes = knn_predict(
                features,
                labels,
                queries,
                ks=self._ks(shots),
                temperature=self.temperature,
                num_classes=classes,
                top=1,
                device=context.device,
            )
            for k, predicted in votes.items():
                yield f"{_shown(shots)}-knn{k}", predicted[:, 0]

    def _ks(self, shots: float) -> tuple[int, ...]:
        if shots < 1:
            return self.ks
        return tuple(sorted({k for k in self.ks if k <= shots} | {int(shots)}))

    def _names(self) -> list[str]:
        names: list[str] = []
        for shots in self.shots:
            for classifier in self.classifiers:
                ends = [f"knn{k}" for k in self._ks(shots)] if classifier == "knn" else [classifier]
                names += [f"{_shown(shots)}-{end}" for end in ends]
        return names


def _shown(shots: float) -> str:
    return f"{shots:g}shot" if shots >= 1 else f"{100 * shots:g}%"


def _accuracy(scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"]) -> float:
    return float((scores.argmax(axis=1) == labels).mean())
