"""Copy detection: which image of a database is this one an edited copy of?

Images are squashed to 320x320 pixels (bicubic). The descriptor is the last block's class token beside the
generalised mean (power 4) of its patch tokens, both after the final norm; whitened, then scaled to length 1.
The whitening is learnt on the split ``whitening`` where the set has one, else on images of the database
that are nobody's original. A query ranks the database by inner product, exactly. ``map``: average precision
by trapezoids among the first ``depth``, an original that comes later being missed; ``map_KIND``: of one kind
of edit. ``micro_ap``: average precision of all pairs of a query and an image in one ranking; those of queries
without an original, which count nowhere else, are all wrong. The copies of one original are one cluster.

Source: Douze et al. 2009 (Copydays); Caron et al. 2021, arXiv:2104.14294, sec. 4.2.2, and dino's
eval_copy_detection.py; Douze et al. 2021, arXiv:2106.09672 (micro-AP).
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np

from ssleval.core import Dataset, FeatureRequest, Geometry, Interpolation, Metric, Readout, Samples
from ssleval.core.answers import answers_of, distractors, group_names, with_clusters
from ssleval.core.image_level import queries_and_gallery, tables_by_split
from ssleval.core.settings import Count, Distinct, Natural, ProperFraction
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.knn import most_similar
from ssleval.heads.ranking import ranked, unit
from ssleval.heads.whitening import WhiteningKind, learn_whitening
from ssleval.metrics.micro_ap import claims_of, micro_average_precision_of
from ssleval.metrics.retrieval import precision_within
from ssleval.metrics.stats import mean_of


@tasks.register("copy_detection")
@dataclass(frozen=True)
class CopyDetection(Task):
    """Average precision of originals of edited copies, query by query and over all pairs."""

    version: ClassVar[int] = 2
    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("groups",))
    readouts: Annotated[tuple[Literal["cls", "gem", "mean", "pooled"], ...], Distinct] = ("cls", "gem")
    """Parts of the descriptor, side by side; a model without class token has ``pooled``."""
    size: Count = 320
    interpolation: Interpolation = "bicubic"
    whitening: WhiteningKind = "dino"
    """dino: of features as they are; pca: of features without their mean; none: only scaled to length 1."""
    floor: ProperFraction = 1e-5
    """Smallest variance of a direction, as a part of the largest one."""
    depth: Natural = 20
    """Places of a ranking in which an original counts as found; 0: all of them."""
    claims: Natural = 0
    """Nearest images of each query that enter ``micro_ap``; 0: all of the database."""
    kinds: tuple[str, ...] = ()
    """Kinds of edit, filled in from the set: those that it tells apart and has a copy of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.whitening == "none" and self.floor != CopyDetection.floor:
            raise ConfigError(f"copy_detection: floor={self.floor} has no effect with whitening=none")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean average precision, micro-AP, and the former for every kind of edit."""
        kinds = (Metric(f"map_{kind}", mean_of(f"ap_{kind}")) for kind in self.kinds)
        micro = micro_average_precision_of("similarity", "right", "answers")
        return (Metric("map", mean_of("ap")), Metric("micro_ap", micro), *kinds)

    def resolved(self, dataset: Dataset) -> "CopyDetection":
        """Return the task with the kinds of edit that the set has, of which a limited one may lack some."""
        kinds = group_names(dataset)
        if self.kinds not in {(), kinds}:
            raise ConfigError(
                f"copy_detection: kinds={','.join(self.kinds)}, but {dataset.card.name} has "
                f"{','.join(kinds) or 'none'}; leave kinds out, they are filled in from the set"
            )
        return replace(self, kinds=kinds)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries, database, and images to learn the whitening on where the set has them."""
        geometry = Geometry(self.size, "square", None, self.interpolation)
        readouts = tuple(Readout(part) for part in self.readouts)
        ranked = queries_and_gallery(dataset, (geometry,), readouts)
        if self.whitening == "none" or "whitening" not in dataset.card.lengths:
            return ranked
        return (*ranked, FeatureRequest(dataset, "whitening", geometry, readouts))

    def evaluate(self, inputs: Inputs) -> Samples:
        """Rank the database for every query; one row per query, with an original or without."""
        card, tables = inputs.card, tables_by_split(inputs)
        readouts = inputs.requests[0].readouts
        vectors = {
            split: np.concatenate([table[part].astype(np.float64) for part in readouts], axis=1)
            for split, (table,) in tables.items()
        }
        copies, images = vectors[card.test_split], vectors[card.train_split]
        (queries,), (gallery,) = tables[card.test_split], tables[card.train_split]
        answers = answers_of(inputs.dataset, queries, gallery)
        if self.whitening != "none":
            outside = "whitening" in vectors
            learnt = vectors["whitening"] if outside else images[distractors(answers, len(images))]
            whiten = learn_whitening(learnt, centred=self.whitening == "pca", floor=self.floor)
            copies, images = whiten(copies), whiten(images)
        copies, images = unit(copies), unit(images)
        aps = np.array([precision_within(groups, self.depth) for groups in ranked(copies, images, answers)])
        nearest, similarity = most_similar(copies, images, self.claims or len(images))
        columns = {"ap": aps, **claims_of(nearest, similarity, answers)}
        kind = np.array([groups.group for groups in answers])
        for name in self.kinds:
            columns[f"ap_{name}"] = np.where(kind == card.class_names.index(name), aps, np.nan)
        return with_clusters(Samples(queries.ids, columns), answers)
