"""Clustering: do the classes form clusters that k-means finds, without any label?

One vector per image of the scored split, the model's own descriptor, as it is. Mini-batch k-means (batches of
500, k-means++), with as many clusters as the images have classes, is fitted `fits` times. Clusters are held
to the classes: mutual information over the mean of both entropies (NMI), which leads, adjusted Rand index,
and accuracy when each cluster stands for one class, by the best assignment; and silhouettes, without classes.
Scores are means over the fits, their intervals over images and fits. MIEB's figures are of one fit each.
`algorithm=lloyd` moves centres by all images until none changes its cluster. `scaling` gives vectors length
1, or dimensions mean 0 and variance 1.

Source: Xiao et al. 2025, arXiv:2504.10471 (MIEB); mteb 1.14.15, ``ImageClusteringEvaluator``.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Shaped

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.image_level import VectorPerImage
from ssleval.core.settings import Count, Natural, Several
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.clusters import Scaling, fit_predict, scaled
from ssleval.metrics.clustering import matched_accuracy, mutual_information, rand_index, silhouettes
from ssleval.metrics.stats import deviation_contributions, mean_of, mean_over_fits_of

_AGREEMENTS = {"nmi": mutual_information, "ari": rand_index, "accuracy": matched_accuracy}
_UNITS = {"nmi": "fraction", "ari": "index", "accuracy": "fraction", "silhouette": "index"}
"""By score; an index may be negative."""


@tasks.register("clustering")
@dataclass(frozen=True)
class Clustering(VectorPerImage, Task):
    """Agreement of k-means clusters with classes."""

    needs: ClassVar[Needs] = Needs(("label",))
    algorithm: Literal["minibatch", "lloyd"] = "minibatch"
    batch_size: Count = 500
    """Images that move the centres at a time, of ``minibatch``."""
    iterations: Natural = 0
    """Passes over the images, at most; 0: 100 of ``minibatch``, 300 of ``lloyd``."""
    fits: Count = 10
    """Starts, drawn by the seed; scores are means over them."""
    clusters: Natural = 0
    """How many; 0: as many as the scored images have classes."""
    scaling: Scaling = "none"
    silhouettes_among: Several = 5_000
    """Silhouettes are between so many images, drawn by the seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters == 1:
            raise ConfigError("clustering: clusters=1; expected 2 or more, or 0 for the number of classes")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """NMI first; then how far the NMI of single fits lies from their mean."""
        means = (Metric(name, mean_over_fits_of(name), unit=unit) for name, unit in _UNITS.items())
        spread = Metric("std@nmi", mean_of("std@nmi"), higher_is_better=False)
        return (*means, *([spread] if self.fits > 1 else []))

    def resolved(self, dataset: Dataset) -> "Clustering":  # noqa: ARG002
        """Return the task with the bound of passes filled in."""
        return replace(self, iterations=self.iterations or {"minibatch": 100, "lloyd": 300}[self.algorithm])

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the scored split, one vector per image."""
        return (FeatureRequest(dataset, dataset.card.test_split, self.geometry, (self.vector,)),)

    def amounts(self, dataset: Dataset) -> dict[str, tuple[int, int]]:
        """Return the fits and the scored images."""
        return {**super().amounts(dataset), "fits": (1, self.fits)}

    def evaluate(self, inputs: Inputs) -> Samples:
        """Cluster the images; one row per image, one column of a score per fit."""
        (table,), seed = inputs.tables(), inputs.context.seed
        labels, vectors = inputs.labels(table), scaled(table[self.vector], self.scaling)
        seeds = np.random.SeedSequence(seed).generate_state(self.fits).tolist()
        batch = self.batch_size if self.algorithm == "minibatch" else 0
        count = self.clusters or len(np.unique(labels))
        found = fit_predict(vectors, count, seeds, batch_size=batch, iterations=self.iterations)
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {"label": labels, "cluster": found}
        for name, agreement in _AGREEMENTS.items():
            columns[name] = np.stack([agreement(labels, column) for column in found.T], axis=1)
        columns["silhouette"] = silhouettes(vectors, found, limit=self.silhouettes_among, seed=seed)
        if self.fits > 1:
            columns["std@nmi"] = deviation_contributions(columns["nmi"], np.zeros(len(labels), int))
        return Samples(table.ids, columns)
