"""Copy detection: which image of a database is this one an edited copy of?

Images are squashed to 320x320 pixels (bicubic). The descriptor is the last block's class token beside the
generalised mean (power 4) of its patch tokens, both after the final norm; whitened, then scaled to length 1.
The whitening is learnt on the split ``whitening`` where the set has one, else on images of the database
that are nobody's original. A query ranks the database by inner product, exactly. ``map``: average precision
by trapezoids among the first ``depth``, an original that comes later being missed; ``map_KIND``: of one kind
of edit. ``micro_ap``: average precision of all pairs of a query and an image in one ranking; those of queries
without an original, which count nowhere else, are all wrong.

Source: Douze et al. 2009 (Copydays); Caron et al. 2021, arXiv:2104.14294, sec. 4.2.2, and dino's
eval_copy_detection.py; Douze et al. 2021, arXiv:2106.09672 (micro-AP).
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Int

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
from ssleval.core.image_level import answers_of, groups_of, queries_and_gallery
from ssleval.core.targets import Groups
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.knn import most_similar
from ssleval.heads.ranking import ranks, unit
from ssleval.heads.whitening import WhiteningKind, learn_whitening
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.retrieval import ranks_without, trapezoid_average_precision
from ssleval.metrics.stats import mean_of

Part: TypeAlias = Literal["cls", "gem", "mean", "pooled"]


@tasks.register("copy_detection")
@dataclass(frozen=True)
class CopyDetection(Task):
    """Average precision of originals of edited copies, query by query and over all pairs."""

    seeded = False
    version = 2

    readouts: tuple[Part, ...] = ("cls", "gem")
    """Parts of the descriptor, side by side; a model without class token has ``pooled``."""
    size: int = 320
    interpolation: Interpolation = "bicubic"
    whitening: WhiteningKind = "dino"
    """dino: of features as they are; pca: of features without their mean; none: only scaled to length 1."""
    floor: float = 1e-5
    """Smallest variance of a direction, as a part of the largest one."""
    depth: int = 20
    """Places of a ranking in which an original counts as found; 0: all of them."""
    claims: int = 0
    """Nearest images of each query that enter ``micro_ap``; 0: all of the database."""
    kinds: tuple[str, ...] = ()
    """Kinds of edit, filled in from the set: those that it tells apart and has a copy of."""

    def __post_init__(self) -> None:
        """Refuse settings that no dataset could honour."""
        if not self.readouts or len(set(self.readouts)) < len(self.readouts):
            raise ConfigError(f"copy_detection: readouts={self.readouts}; expected different ones")
        if self.size < 1 or min(self.depth, self.claims) < 0 or not 0 <= self.floor < 1:
            raise ConfigError(
                f"copy_detection: size={self.size}, depth={self.depth}, claims={self.claims}, "
                f"floor={self.floor}; expected a size from 1, counts from 0 and a part below 1"
            )
        if self.whitening == "none" and self.floor != CopyDetection.floor:
            raise ConfigError(f"copy_detection: floor={self.floor} has no effect with whitening=none")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean average precision, micro-AP, and the former for every kind of edit."""
        kinds = (Metric(f"map_{kind}", mean_of(f"ap_{kind}")) for kind in self.kinds)
        micro = micro_average_precision_of("similarity", "right", "answers")
        return (Metric("map", mean_of("ap")), Metric("micro_ap", micro), *kinds)

    def resolved(self, dataset: Dataset) -> "CopyDetection":
        """Return the task with the kinds of edit that the set has, of which a limited one may lack some.

        Raises:
            ConfigError: other kinds are asked for.
        """
        found = _kinds_of(dataset)
        if self.kinds not in {(), found}:
            raise ConfigError(
                f"copy_detection: kinds={','.join(self.kinds)}, but {dataset.card.name} has "
                f"{','.join(found) or 'none'}; leave kinds out, they are filled in from the set"
            )
        return replace(self, kinds=found)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries, database, and images to learn the whitening on where the set has them.

        Raises:
            NotApplicableError: nothing says which images belong together.
        """
        geometry = Geometry(self.size, "square", None, self.interpolation)
        readouts = tuple(Readout(part) for part in self.readouts)
        found = queries_and_gallery("copy_detection", dataset, (geometry,), readouts)
        if self.whitening == "none" or "whitening" not in dataset.card.lengths:
            return found
        return (*found, FeatureRequest(dataset, "whitening", geometry, readouts))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:  # noqa: ARG002
        """Rank the database for every query; one row per query, with an original or without."""
        card = dataset.card
        tables = {request.split: source.load(request) for request in self.requests(dataset)}
        queries, gallery = tables[card.test_split], tables[card.train_split]
        asked = answers_of(dataset, queries, gallery)
        outside = self._descriptors(tables["whitening"]) if "whitening" in tables else None
        copies, images = self._whitened(
            self._descriptors(queries), self._descriptors(gallery), outside, asked
        )
        wanted = [np.concatenate([one.right, one.junk]) for one in asked]
        found = ranks(copies, images, wanted)
        aps = np.array([self._precision(one, places) for one, places in zip(asked, found, strict=True)])
        columns = {"ap": aps, **_claims(copies, images, asked, self.claims or len(images))}
        kind = np.array([one.group for one in asked])
        for name in self.kinds:
            columns[f"ap_{name}"] = np.where(kind == card.class_names.index(name), aps, np.nan)
        return Samples(queries.ids, columns)

    def _descriptors(self, table: FeatureTable) -> Float[np.ndarray, "n d"]:
        return np.concatenate(
            [np.asarray(table[Readout(part)], np.float64) for part in self.readouts], axis=1
        )

    def _whitened(
        self,
        copies: Float[np.ndarray, "q d"],
        images: Float[np.ndarray, "n d"],
        outside: Float[np.ndarray, "m d"] | None,
        asked: list[Groups],
    ) -> tuple[Float32[np.ndarray, "q d"], Float32[np.ndarray, "n d"]]:
        if self.whitening == "none":
            return unit(copies), unit(images)
        if outside is None:
            alone = np.ones(len(images), bool)
            for one in asked:
                # In a set of groups a distractor is junk to itself, and yet nobody's original.
                if len(one.right):
                    alone[np.concatenate([one.right, one.junk])] = False
            outside = images[alone]
        whiten = learn_whitening(outside, centred=self.whitening == "pca", floor=self.floor)
        return unit(whiten(copies)), unit(whiten(images))

    def _precision(self, asked: Groups, places: Int[np.ndarray, " w"]) -> float:
        count = len(asked.right)
        right = ranks_without(places[:count], places[count:])
        return trapezoid_average_precision(right[right < self.depth] if self.depth else right, count)


def _kinds_of(dataset: Dataset) -> tuple[str, ...]:
    names = dataset.card.class_names
    if dataset.card.target != "groups" or not names:
        return ()
    seen = {one.group for one in groups_of(dataset) if len(one.right)}
    return tuple(name for number, name in enumerate(names) if number in seen)


def _claims(
    copies: Float32[np.ndarray, "q d"], images: Float32[np.ndarray, "n d"], asked: list[Groups], count: int
) -> dict[str, np.ndarray]:
    """Return the pairs of every query that enter the common ranking, the most similar first."""
    rows, similarity = most_similar(copies, images, count)
    right = np.zeros(rows.shape, bool)
    for place, one in enumerate(asked):
        right[place] = np.isin(rows[place], one.right)
        similarity[place, np.isin(rows[place], one.junk)] = np.nan
    answers = np.array([len(one.right) for one in asked])
    return {"similarity": similarity, "right": right, "answers": answers}
