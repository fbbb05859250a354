"""Instance recognition: which exhibit of a museum is this, if it is one of them at all?

The long side has ``size`` pixels (Lanczos), both sides whole patches. Vectors of length 1, summed over
``scales`` and scaled to length 1, are whitened to the ``dim`` principal directions of the database (of the
split ``whitening`` where there is one). A query's class and confidence come from its k nearest images, sought
exactly: a softmax over all classes of ``logit_scale`` times the largest cosine of each, 0 where it has no
neighbour or a negative one. k and logit_scale have the best GAP on the split ``val``, of equals the first in
order of ``ks``, then ``logit_scales``; with one of each none is chosen. ``gap``: all queries ranked by
confidence, equal ones together, precision summed over the right ones and divided by the number of queries
that show a known instance. ``gap_minus`` leaves the others out; ``top1`` (ACC) is the part of the known ones
that is right. The Met takes 9e12 operations, and 4 bytes for every channel of the database, as it is and
whitened: 1.2 GB for a ViT-S.

Source: Ypsilantis et al. 2021, arXiv:2202.01747, and nikosips/met; Perronnin et al. 2009 (GAP).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Shaped

from ssleval.core import (
    Context,
    Dataset,
    FeatureRequest,
    FeatureTable,
    Interpolation,
    Metric,
    Readout,
    Samples,
)
from ssleval.core.image_level import all_positive, labels_of, long_sides, same_rows
from ssleval.core.task import Source, Task, refuse_one_split, tasks
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.heads.knn import nearest_neighbours
from ssleval.heads.open_set import classify
from ssleval.heads.ranking import unit_sum
from ssleval.heads.whitening import learn_pca_whitening
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.stats import mean_of

_GAP = Metric("gap", micro_average_precision_of("confidence", "right", "known"))


class _Neighbours(NamedTuple):
    """The nearest images of the database to every query, nearest first."""

    similarity: Float32[np.ndarray, "m k"]
    labels: Int[np.ndarray, "m k"]
    num_classes: int

    @classmethod
    def of(
        cls,
        queries: Float32[np.ndarray, "m d"],
        database: Float32[np.ndarray, "n d"],
        shown: Int[np.ndarray, " n"],
        count: int,
        device: str,
    ) -> "_Neighbours":
        """Look queries up in a database that shows these instances."""
        similarity, index = nearest_neighbours(database, queries, k=count, device=device, settled=True)
        return cls(similarity.numpy(), shown[index.numpy()], len(np.unique(shown)))

    def columns(
        self, truth: Int[np.ndarray, " m"], k: int, logit_scale: float
    ) -> dict[str, Shaped[np.ndarray, "m ..."]]:
        """Return the samples of a classifier on the first k of them; a truth below 0 is no known instance."""
        predicted, confidence = classify(
            self.similarity[:, :k], self.labels[:, :k], logit_scale=logit_scale, num_classes=self.num_classes
        )
        known = truth >= 0
        right = known & (predicted == truth)
        return {
            "predicted": predicted,
            "confidence": confidence[:, None],
            "confidence_known": np.where(known, confidence, np.nan)[:, None],
            "right": right[:, None],
            "known": known,
            "top1": np.where(known, right.astype(np.float64), np.nan),
        }


@tasks.register("instance_recognition")
@dataclass(frozen=True)
class InstanceRecognition(Task):
    """GAP of a k-NN classifier that also has to know what it does not know."""

    seeded = False

    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    size: int = 500
    """Pixels of the long side at scale 1."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of ``size``; the paper's three are 1, 0.7071 and 0.5."""
    interpolation: Interpolation = "lanczos"
    whitening: Literal["pca", "none"] = "pca"
    dim: int = 512
    """Directions kept; all where descriptors have fewer channels."""
    shrinkage: float = 1.0
    """1 divides directions by their standard deviation, 0 only turns; between them its power."""
    ks: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20, 50)
    """Neighbours to choose from."""
    logit_scales: tuple[float, ...] = (0.01, 0.1, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 500.0)
    """Factors of the similarity to choose from: t in the authors' code."""

    def __post_init__(self) -> None:
        """Refuse settings that no dataset could honour."""
        if self.size < 1 or not all_positive(self.scales):
            raise ConfigError(
                f"instance_recognition: size={self.size}, scales={self.scales}; expected positive numbers"
            )
        if self.dim < 1 or not 0 <= self.shrinkage <= 1:
            raise ConfigError(
                f"instance_recognition: dim={self.dim}, shrinkage={self.shrinkage}; expected a dim from 1 "
                "and a part of 1"
            )
        usual = (InstanceRecognition.dim, InstanceRecognition.shrinkage)
        if self.whitening == "none" and (self.dim, self.shrinkage) != usual:
            raise ConfigError("instance_recognition: dim and shrinkage have no effect with whitening=none")
        if min(self.ks, default=0) < 1 or not all_positive(self.logit_scales):
            raise ConfigError(
                f"instance_recognition: ks={self.ks}, logit_scales={self.logit_scales}; expected positive "
                "numbers, at least one of each"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """GAP with and without the queries that show nothing known, and the accuracy on the others."""
        without = micro_average_precision_of("confidence_known", "right", "known")
        return (_GAP, Metric("gap_minus", without), Metric("top1", mean_of("top1")))

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries, database, and images to whiten and to choose on, at every scale.

        Raises:
            NotApplicableError: labels are of another kind, or there is nothing to choose on.
            ConfigError: it would choose on what is scored, or there are fewer images than neighbours.
        """
        card = dataset.card
        if card.target != "open_set":
            raise NotApplicableError(
                f"instance_recognition needs instances and queries that show none of them; {card.name} has "
                f"target {card.target!r}; met, met_mini and scenes:exhibits have them"
            )
        refuse_one_split("instance_recognition", card)
        if card.test_split == "whitening":
            raise ConfigError(
                f"instance_recognition: images of {card.name}/whitening show no known instance; "
                "take another --split"
            )
        if max(self.ks) > card.lengths[card.train_split]:
            raise ConfigError(
                f"instance_recognition: {max(self.ks)} neighbours among the {card.lengths[card.train_split]} "
                f"images of {card.name}/{card.train_split}; ask for fewer with ks"
            )
        if self._chooses:
            _check_val(dataset)
        splits = [*self._query_splits(dataset), card.train_split]
        if self.whitening != "none" and "whitening" in card.lengths:
            splits.append("whitening")
        geometries = long_sides(self.size, self.scales, self.interpolation)
        readouts = (Readout(self.readout),)
        return tuple(FeatureRequest(dataset, *pair, readouts) for pair in product(splits, geometries))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:
        """Choose, look up and classify; one row per query, whether it shows a known instance or not."""
        card = dataset.card
        tables = self._tables(source, dataset)
        vectors = self._vectors(tables, card.train_split)
        shown = labels_of(tables[card.train_split][0], dataset)
        if len(np.unique(shown)) < 2:
            raise DataError(
                f"{card.name}/{card.train_split} shows one instance alone; it needs two to tell apart"
            )
        asked = {split: _asked(tables[split][0], dataset, split) for split in self._query_splits(dataset)}
        found = {
            split: _Neighbours.of(
                vectors[split], vectors[card.train_split], shown, max(self.ks), context.device
            )
            for split in asked
        }
        k, logit_scale = self.ks[0], self.logit_scales[0]
        if self._chooses:
            k, logit_scale = self._best(found["val"], asked["val"])
        truth = asked[card.test_split]
        chosen = {"k": np.full(len(truth), k), "logit_scale": np.full(len(truth), logit_scale)}
        columns = found[card.test_split].columns(truth, k, logit_scale)
        return Samples(tables[card.test_split][0].ids, {**columns, **chosen})

    def _tables(self, source: Source, dataset: Dataset) -> dict[str, list[FeatureTable]]:
        """Return the features of every split, one table a scale."""
        tables: dict[str, list[FeatureTable]] = {}
        for request in self.requests(dataset):
            tables.setdefault(request.split, []).append(source.load(request))
        for found in tables.values():
            same_rows(found)
        return tables

    def _vectors(
        self, tables: Mapping[str, Sequence[FeatureTable]], database: str
    ) -> dict[str, Float32[np.ndarray, "_ _"]]:
        readout = Readout(self.readout)
        vectors = {split: unit_sum([one[readout] for one in found]) for split, found in tables.items()}
        if self.whitening == "none":
            return vectors
        learnt = vectors.pop("whitening", vectors[database])
        whiten = learn_pca_whitening(learnt, dim=self.dim, shrinkage=self.shrinkage)
        return {split: whiten(rows) for split, rows in vectors.items()}

    def _query_splits(self, dataset: Dataset) -> tuple[str, ...]:
        return (dataset.card.test_split, *(("val",) if self._chooses else ()))

    @property
    def _chooses(self) -> bool:
        return len(self.ks) * len(self.logit_scales) > 1

    def _best(self, found: _Neighbours, truth: Int[np.ndarray, " m"]) -> tuple[int, float]:
        """Return k and logit_scale with the largest GAP; of equals the first, in the order they are given."""

        def gap(pair: tuple[int, float]) -> float:
            return _GAP.score(Samples([""] * len(truth), found.columns(truth, *pair)))

        return max(product(self.ks, self.logit_scales), key=gap)


def _check_val(dataset: Dataset) -> None:
    card, remedy = dataset.card, "give one of each with ks and logit_scales"
    if "val" not in card.lengths:
        raise NotApplicableError(
            f"instance_recognition chooses k and logit_scale on a split 'val'; {card.name} has none; {remedy}"
        )
    if card.test_split == "val":
        raise ConfigError(
            f"instance_recognition: k and logit_scale would be chosen on 'val', which is scored; {remedy}"
        )


def _asked(table: FeatureTable, dataset: Dataset, split: str) -> Int[np.ndarray, " m"]:
    """Return the instance of every query, below 0 for none.

    Raises:
        DataError: no query shows any.
    """
    truth = labels_of(table, dataset)
    if not (truth >= 0).any():
        raise DataError(
            f"{dataset.card.name}/{split}: none of the {len(truth)} queries shows a known instance; take "
            "more of them (--limit)"
        )
    return truth
