"""Instance recognition: which exhibit of a museum is this, if it is one of them at all?

The long side has ``size`` pixels (Lanczos), both sides whole patches. Vectors of length 1, summed over
``scales`` and scaled to length 1, are whitened to the ``dim`` principal directions of the database (of the
split ``whitening`` where there is one), and scaled to length 1 again. A query's class and confidence come
from its k nearest images, sought exactly: a softmax over all classes of ``logit_scale`` times the largest
cosine of each, 0 where it has no neighbour or a negative one. k and logit_scale have the best GAP on the
split ``val``, of equals the first in order of ``ks``, then ``logit_scales``; with one of each none is chosen.
``gap``: all queries ranked by confidence, equal ones together, precision summed over the right ones and
divided by the number of queries that show a known instance. ``gap_minus`` leaves the others out; ``top1``
(ACC) is the part of the known ones that is right.

Source: Ypsilantis et al. 2021, arXiv:2202.01747, and nikosips/met; Perronnin et al. 2009 (GAP).
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal

import numpy as np

from ssleval.core import Dataset, DatasetCard, FeatureRequest, Metric, Samples
from ssleval.core.answers import open_set_labels
from ssleval.core.image_level import VectorOfScales, tables_by_split
from ssleval.core.settings import Count, Counts, Fraction, Positives
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.heads.knn import nearest_neighbours
from ssleval.heads.open_set import Neighbours
from ssleval.heads.ranking import unit_sum
from ssleval.heads.whitening import learn_pca_whitening
from ssleval.metrics.recognition import GAP, GAP_MINUS, TOP1, gap, outcomes


@tasks.register("instance_recognition")
@dataclass(frozen=True)
class InstanceRecognition(VectorOfScales, Task):
    """GAP of a k-NN classifier that also has to know what it does not know."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("open_set",), training_split=True)
    size: Count = 500
    """Pixels of the long side at scale 1."""
    whitening: Literal["pca", "none"] = "pca"
    dim: Count = 512
    """Directions kept; all where descriptors have fewer channels."""
    shrinkage: Fraction = 1.0
    """1 divides directions by their standard deviation, 0 only turns; between them its power."""
    ks: Counts = (1, 2, 3, 5, 7, 10, 15, 20, 50)
    """Neighbours to choose from."""
    logit_scales: Positives = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
    """Factors of the similarity to choose from: t in the authors' code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = InstanceRecognition.dim, InstanceRecognition.shrinkage
        if self.whitening == "none" and (self.dim, self.shrinkage) != usual:
            raise ConfigError("instance_recognition: dim and shrinkage have no effect with whitening=none")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """GAP with and without the queries that show nothing known, and the accuracy on the others."""
        return GAP, GAP_MINUS, TOP1

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries, database, and images to whiten and to choose on, at every scale."""
        card = dataset.card
        self._refuse(card)
        splits = [card.test_split, *(["val"] if self._chooses else []), card.train_split]
        if self.whitening != "none" and "whitening" in card.lengths:
            splits.append("whitening")
        return tuple(
            FeatureRequest(dataset, *pair, (self.vector,)) for pair in product(splits, self.geometries)
        )

    def evaluate(self, inputs: Inputs) -> Samples:
        """Choose, look up and classify; one row per query, whether it shows a known instance or not."""
        card, tables = inputs.card, tables_by_split(inputs)
        labels = open_set_labels(inputs, tables)
        vectors = {split: unit_sum([one[self.vector] for one in scales]) for split, scales in tables.items()}
        if self.whitening != "none":
            learnt = vectors.pop("whitening", vectors[card.train_split])
            whiten = learn_pca_whitening(learnt, dim=self.dim, shrinkage=self.shrinkage)
            vectors = {split: whiten(rows) for split, rows in vectors.items()}
        database, shown, device = vectors[card.train_split], labels[card.train_split], inputs.context.device

        def look_up(split: str) -> Neighbours:
            near = nearest_neighbours(database, vectors[split], k=max(self.ks), device=device, settled=True)
            return Neighbours(near[0].numpy(), shown[near[1].numpy()], len(np.unique(shown)))

        chosen = self.ks[0], self.logit_scales[0]
        if self._chooses:
            near, pairs = look_up("val"), product(self.ks, self.logit_scales)
            chosen = max(pairs, key=lambda pair: gap(*near.classify(*pair), labels["val"]))
        truth = labels[card.test_split]
        columns = outcomes(*look_up(card.test_split).classify(*chosen), truth)
        columns |= {"k": np.full(len(truth), chosen[0]), "logit_scale": np.full(len(truth), chosen[1])}
        return Samples(tables[card.test_split][0].ids, columns)

    @property
    def _chooses(self) -> bool:
        return len(self.ks) * len(self.logit_scales) > 1

    def _refuse(self, card: DatasetCard) -> None:
        count, remedy = card.lengths[card.train_split], "give one of each with ks and logit_scales"
        if self._chooses and "val" not in card.lengths:
            raise NotApplicableError(
                f"instance_recognition chooses on a split 'val'; {card.name} has none; {remedy}"
            )
        problem = ""
        if card.test_split == "whitening":
            problem = f"images of {card.name}/whitening show no known instance; take another --split"
        elif max(self.ks) > count:
            problem = f"{max(self.ks)} neighbours among {count} images of {card.name}; ask for fewer with ks"
        elif self._chooses and card.test_split == "val":
            problem = f"k and logit_scale would be chosen on 'val', which is scored; {remedy}"
        if problem:
            raise ConfigError(f"instance_recognition: {problem}")
