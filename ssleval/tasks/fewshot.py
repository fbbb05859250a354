"""Few-shot classification: a handful of training images per class, drawn several times.

The draws of DINOv2 and DINOv3: n images per class (all of a class that has fewer), or a fraction of each
class and at least one, by a permutation seeded with the number of the try. On each draw: the k-NN vote of
the task knn (T = 0.07, k in {10, 20, 100, 200} up to n, and n; for fractions all of them), and the logistic
regression of the task logreg, its C chosen on a tenth of each class of the draw (at least one image), then
refitted on the whole draw; where every class has one image, C is ``c_one_shot``. The score is the mean over
tries, ``std`` the standard deviation over them (n - 1); intervals are over scored images, given the draws.

Source: Oquab et al. 2023, arXiv:2304.07193 (eval/knn.py); DINOv3 (eval/data.py, eval/log_regression.py).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Shaped

from ssleval.core import Dataset, FeatureTable, Metric, Precision, Samples
from ssleval.core.image_level import VectorPerImage, accuracy_kind
from ssleval.core.settings import Count, Counts, Distinct, OpenFraction, Positive, Positives, Several
from ssleval.core.stated import stated_of
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.knn import knn_predict
from ssleval.heads.probes import fit_few
from ssleval.heads.selection import few_per_class
from ssleval.metrics.calibration import calibration
from ssleval.metrics.classification import both_accuracies
from ssleval.metrics.stats import deviation_contributions, mean_of


@tasks.register("fewshot")
@dataclass(frozen=True)
class Fewshot(VectorPerImage, Task):
    """k-NN and logistic regression on few training images per class."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    published_precision: ClassVar[Precision] = "fp16"
    """DINOv2's evaluations run under autocast to fp16 (eval/setup.py)."""
    shots: Positives = (5.0,)
    """Images per class, or below 1 the fraction of each class; the first leads."""
    tries: Several = 5
    """Draws, with seeds 0, 1, 2, ..."""
    classifiers: Annotated[tuple[Literal["logreg", "knn"], ...], Distinct] = ("logreg", "knn")
    ks: Counts = (10, 20, 100, 200)
    """Numbers of neighbours, as far as there are as many shots; for fractions, all of them."""
    temperature: Positive = 0.07
    smallest: Positive = 1e-6
    largest: Positive = 1e5
    count: Count = 45
    """How many values of C logistic regression tries, from the smallest to the largest, evenly in log C."""
    c_one_shot: Positive = 1.0
    held_out: OpenFraction = 0.1
    metric: Literal["card", "top1", "mean_per_class"] = "card"
    """Card: the convention of the dataset."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(shots >= 1 and shots != int(shots) for shots in self.shots):
            raise ConfigError(f"fewshot: shots={self.shots}; expected whole numbers from 1, fractions below")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """For every number of shots and classifier the mean over tries, deviations, other means, errors."""
        names = [name for shots in self.shots for name in self._names(shots)]
        fitted = (name for name in names if name.endswith("-logreg"))
        means, others = zip(
            *(both_accuracies(self.metric, f"correct@{name}", f"@{name}") for name in names), strict=True
        )
        spreads = [Metric(f"std@{name}", mean_of(f"std@{name}"), higher_is_better=False) for name in names]
        errors = (metric for name in fitted for metric in calibration(f"@{name}", "right"))
        return *means, *spreads, *others, *errors

    def resolved(self, dataset: Dataset) -> "Fewshot":
        """Return the task with the metric of the dataset filled in."""
        return replace(self, metric=accuracy_kind(self.metric, dataset.card))

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the tries and the scored images."""
        return {**super().amounts(dataset), "tries": (2, self.tries)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Fit on every draw; per scored image, the share of tries that were right."""
        train, test = inputs.tables()
        truth = inputs.labels(test)
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": truth}
        groups = truth if self.metric == "mean_per_class" else np.zeros(len(truth), dtype=int)
        for shots in self.shots:
            tries = [self._predicted(shots, seed, train, test, inputs) for seed in range(self.tries)]
            for name, classifier in self._names(shots).items():
                answers = [answer[classifier] for answer in tries]
                correct = np.stack([answer["class"] == truth for answer in answers], axis=1)
                columns[f"correct@{name}"] = correct.mean(axis=1)
                columns[f"std@{name}"] = deviation_contributions(correct, groups)
                if classifier == "logreg":
                    columns[f"right@{name}"] = correct
                    columns[f"confidence@{name}"] = np.stack(
                        [answer["confidence"] for answer in answers], axis=1
                    )
                    columns[f"nll@{name}"] = np.mean([answer["nll"] for answer in answers], axis=0)
        return Samples(test.ids, columns)

    def _predicted(
        self, shots: float, seed: int, train: FeatureTable, test: FeatureTable, inputs: Inputs
    ) -> dict[str, Shaped[np.ndarray, " m"]]:
        """Return the classes that every classifier fitted on one draw gives, and what logreg has `stated`."""
        labels, classes = inputs.labels(train), inputs.card.num_classes
        rows = few_per_class(labels, shots, seed)
        few, queries = (train[self.vector][rows], labels[rows]), test[self.vector]
        predicted: dict[str, Shaped[np.ndarray, " m"]] = {}
        if "logreg" in self.classifiers:
            strengths = np.geomspace(self.smallest, self.largest, self.count).tolist()
            context = replace(inputs.context, seed=seed)
            model = fit_few(*few, strengths, self.c_one_shot, self.held_out, classes, context)
            predicted["logreg"] = stated_of(model.scores(queries), inputs.labels(test))
        if "knn" in self.classifiers:
            vote = partial(knn_predict, ks=self._ks(shots), temperature=self.temperature, top=1)
            votes = vote(*few, queries, num_classes=classes, device=inputs.context.device)
            predicted |= {
                f"knn{k}": ranked[:, 0].astype([("class", np.int32)]) for k, ranked in votes.items()
            }
        return predicted

    def _ks(self, shots: float) -> tuple[int, ...]:
        return self.ks if shots < 1 else tuple(sorted({k for k in self.ks if k <= shots} | {int(shots)}))

    def _names(self, shots: float) -> dict[str, str]:
        """Return every classifier by the name that its scores have."""
        shown = f"{shots:g}shot" if shots >= 1 else f"{100 * shots:g}%"
        places = {"logreg": ["logreg"], "knn": [f"knn{k}" for k in self._ks(shots)]}
        return {f"{shown}-{name}": name for kind in self.classifiers for name in places[kind]}
