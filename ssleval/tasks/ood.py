"""Out-of-distribution detection: are images of another set told from those the model's classifier is for?

Three scores of the model's own descriptor, fitted on the training split alone, are larger outside. ``knn``:
one less the cosine of the 50th nearest training image. ``mahalanobis``: the squared distance to the nearest
class mean, in the metric of the covariance within classes, which all share. ``max_logit``: the largest
logit, negated, of L2-regularised logistic regression, C chosen on held-out training images. Scored images
are the test split and those of the set ``out``. AUROC by ``knn`` leads; ``fpr95`` is the share of test
images that are flagged where 95 % of the images from outside are. Sets that share a class name or a file are
refused.

Source: Yang et al. 2022, arXiv:2210.07242 (OpenOOD); Sun et al. 2022, arXiv:2204.06507; Lee et al. 2018,
arXiv:1807.03888 (last layer, no perturbation of inputs); Hendrycks et al. 2022, arXiv:1911.11132.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from ssleval.core import Dataset, FeatureRequest, FeatureTable, Metric, Samples
from ssleval.core.image_level import VectorPerImage
from ssleval.core.settings import Count, Distinct, OpenFraction, Positives
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.core.text import some
from ssleval.datasets.files.identical import identical_files
from ssleval.errors import ConfigError, ContractError, DataError
from ssleval.heads.knn import nearest_neighbours
from ssleval.heads.logistic import fit_best
from ssleval.heads.selection import hold_out
from ssleval.metrics.separation import auroc_of, fpr95_of


@tasks.register("ood")
@dataclass(frozen=True)
class Ood(VectorPerImage, Task):
    """Images of another set, told from those of the test split."""

    needs: ClassVar[Needs] = Needs(("label",), training_split=True)
    out: str = "digits"
    """The set that images from outside are of, its scored split: any dataset, ``images:PATH`` too."""
    methods: Annotated[tuple[Literal["knn", "mahalanobis", "max_logit"], ...], Distinct] = (
        "knn",
        "mahalanobis",
        "max_logit",
    )
    """The first leads."""
    k: Count = 50
    """Which neighbour of ``knn``."""
    held_out: OpenFraction = 0.1
    """Fraction of every training class that C is chosen on."""
    strengths: Positives = tuple(10.0**power for power in range(-4, 5))
    """Values of C, increasing."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """AUROC of every method, then false alarms."""
        areas = (Metric(f"auroc@{name}", auroc_of(f"score@{name}", "out")) for name in self.methods)
        alarms = (fpr95_of(f"score@{name}", "out") for name in self.methods)
        rates = zip(self.methods, alarms, strict=True)
        return *areas, *(Metric(f"fpr95@{name}", alarm, higher_is_better=False) for name, alarm in rates)

    def resolved(self, dataset: Dataset) -> "Ood":
        """Return the task; sets with a class in common are refused, and more neighbours than there are."""
        if self.k > (count := dataset.card.lengths[dataset.card.train_split]):
            raise ConfigError(f"ood: k={self.k} of {count} training images; --set ood.k=...")
        if dataset.beside is not None:
            self._refuse(dataset, dataset.beside(self.out))
        return self

    def _refuse(self, dataset: Dataset, outside: Dataset) -> None:
        card, other = dataset.card, outside.card
        if outside.pictures == dataset.pictures != "" or other.name == card.name:
            raise ConfigError(f"ood: {other.name} shows the images of {card.name}; --set ood.out=ANOTHER")
        if other.domains:
            raise ConfigError(
                f"ood: {other.name} has several domains; name the folder of one, images:PATH/DOMAIN"
            )
        known = {name.casefold() for name in card.class_names}
        if shared := [name for name in other.class_names if name.casefold() in known]:
            raise ConfigError(
                f"ood: {other.name} has classes of {card.name}: {some(shared)}; they are known to the "
                "classifier: leave their images out, or choose another set"
            )

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the test split, and the set from outside."""
        outside = self._outside(dataset)
        asked = FeatureRequest(outside, outside.card.test_split, self.geometry, (self.vector,))
        return *super().requests(dataset), asked

    def evaluate(self, inputs: Inputs) -> Samples:
        """Score the test images and those from outside; one row per image."""
        for request in inputs.requests[:2]:
            _refuse_shared(request, inputs.requests[2], inputs.context.cache)
        train, test, outside = inputs.tables()
        queries = np.concatenate([test[self.vector], outside[self.vector]])
        ids = [f"in/{name}" for name in test.ids] + [f"out/{name}" for name in outside.ids]
        columns = {f"score@{name}": _METHODS[name](self, train, queries, inputs) for name in self.methods}
        for name, scores in columns.items():
            if not np.isfinite(scores).all():
                raise ContractError(f"ood: {name} is not finite; are the features?")
        return Samples(ids, {"out": np.arange(len(ids)) >= len(test.ids), **columns})

    def _outside(self, dataset: Dataset) -> Dataset:
        if dataset.beside is None:
            raise ConfigError(f"ood: {dataset.card.name} was not opened by name, so that no other set can be")
        return dataset.beside(self.out)

    def distances(self, train: FeatureTable, queries: Float[np.ndarray, "m d"], inputs: Inputs) -> np.ndarray:
        """Return one less the cosine of the k-th nearest training vector."""
        bank, device = train[self.vector], inputs.context.device
        cosines, _ = nearest_neighbours(bank, queries, k=self.k, device=device, settled=True)
        return 1 - cosines[:, -1].numpy().astype(np.float64)

    def from_means(
        self, train: FeatureTable, queries: Float[np.ndarray, "m d"], inputs: Inputs
    ) -> np.ndarray:
        """Return the squared Mahalanobis distance to the nearest class mean.

        Directions without variance within classes count nowhere, as in scikit-learn's pseudo-inverse.
        """
        vectors, labels = train[self.vector].astype(np.float64), inputs.labels(train)
        classes, place = np.unique(labels, return_inverse=True)
        means = np.stack([vectors[place == one].mean(axis=0) for one in range(len(classes))])
        within = vectors - means[place]
        values, axes = np.linalg.eigh(within.T @ within / len(within))
        kept = values > np.abs(values).max() * len(values) * np.finfo(np.float64).eps
        if not kept.any():
            raise DataError("ood: no class has two different training images, so there is no covariance")
        scaled = axes[:, kept] / np.sqrt(values[kept])
        return cdist(queries.astype(np.float64) @ scaled, means @ scaled, "sqeuclidean").min(axis=1)

    def uncertainty(
        self, train: FeatureTable, queries: Float[np.ndarray, "m d"], inputs: Inputs
    ) -> np.ndarray:
        """Return the largest logit, negated; the logits of an image have the mean 0."""
        labels, context = inputs.labels(train), inputs.context
        model = fit_best(
            train[self.vector],
            labels,
            hold_out(labels, self.held_out, context.seed),
            self.strengths,
            num_classes=inputs.card.num_classes,
            device=context.device,
        )
        logits = model.scores(queries)
        # Of two classes the first logit is 0 as it is fitted, which would be the largest of every sure image.
        return (logits.mean(axis=1) - logits.max(axis=1)).astype(np.float64)


_METHODS: dict[str, Callable[..., np.ndarray]] = {
    "knn": Ood.distances,
    "mahalanobis": Ood.from_means,
    "max_logit": Ood.uncertainty,
}


def _refuse_shared(known: FeatureRequest, outside: FeatureRequest, cache: Path) -> None:
    """Refuse a file that both splits have, byte for byte; where they have no files, nothing can be told."""
    mine, other = (request.dataset.split(request.split) for request in (known, outside))
    if shared := [mine.ids[row] for row, _ in identical_files(mine, other, cache)]:
        raise DataError(
            f"ood: {outside.dataset.card.name} holds files of {known.dataset.card.name}/{known.split}, byte "
            f"for byte: {some(shared)}; remove them from one of the sets"
        )
