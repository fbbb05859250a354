"""Retrieval: which images of a gallery show what a query shows, by descriptors alone.

Every image is resized so that its long side has ``size`` pixels (Lanczos), each side rounded to a multiple of
the patch size; its descriptor, scaled to length 1, is summed over ``scales`` and scaled to length 1 again. A
query ranks the gallery by inner product, exactly. On sets that grade their answers (revisited Oxford and
Paris, `scenes:retrieval`) average precision is by trapezoids, ``medium`` counts easy and hard answers,
``easy`` and ``hard`` make junk of the others, and junk is taken out of rankings. On other groups it is the
mean precision at right answers; ``map_macro`` averages group by group, and ``recall@k`` counts queries with
an answer among the first k. Queries without an answer count nowhere.

Source: Radenovic et al. 2018, arXiv:1803.11285, sec. 3; Caron et al. 2021, arXiv:2104.14294, sec. 4.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

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
from ssleval.core.image_level import (
    all_positive,
    answers_of,
    groups_of,
    long_sides,
    queries_and_gallery,
    same_rows,
)
from ssleval.core.targets import Groups
from ssleval.core.task import Source, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.ranking import ranks, unit_sum
from ssleval.metrics.retrieval import (
    average_precision,
    precision_at,
    ranks_without,
    trapezoid_average_precision,
)
from ssleval.metrics.stats import mean_of, mean_per_class_of

Level: TypeAlias = Literal["easy", "medium", "hard"]


@tasks.register("retrieval")
@dataclass(frozen=True)
class Retrieval(Task):
    """Mean average precision of queries over a gallery."""

    seeded = False

    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    size: int = 224
    """Pixels of the long side at scale 1."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of ``size``; DINO's three are 1, 0.7071 and 0.5."""
    interpolation: Interpolation = "lanczos"
    levels: tuple[Level, ...] = ("medium", "hard", "easy")
    """Of sets that grade their answers, as far as any query has such; the first leads."""
    ks: tuple[int, ...] = (1, 5, 10)
    """Of recall@k, and of mp@k where answers are graded."""

    def __post_init__(self) -> None:
        """Refuse settings that no dataset could honour."""
        if self.size < 1 or not all_positive(self.scales):
            raise ConfigError(f"retrieval: size={self.size}, scales={self.scales}; expected positive numbers")
        if min(self.ks, default=1) < 1 or len(set(self.ks)) < len(self.ks):
            raise ConfigError(f"retrieval: ks={self.ks}; expected different numbers from 1")
        if len(set(self.levels)) < len(self.levels):
            raise ConfigError(f"retrieval: levels={self.levels}; each at most once")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Average precision first, then what the first k places hold."""
        if not self.levels:
            means = [Metric(f"recall@{k}", mean_of(f"recall@{k}")) for k in self.ks]
            macro = Metric("map_macro", mean_per_class_of("ap", "group"))
            return (Metric("map", mean_of("ap")), macro, *means)
        maps = [Metric(f"map_{level}", mean_of(f"ap_{level}")) for level in self.levels]
        names = [f"mp_{level}@{k}" for level in self.levels for k in self.ks]
        return (*maps, *(Metric(name, mean_of(name)) for name in names))

    def resolved(self, dataset: Dataset) -> "Retrieval":
        """Return the task with the levels at which any query has an answer; a limited set may lack some.

        Raises:
            ConfigError: none is left, or levels are asked of answers that are not graded.
        """
        card = dataset.card
        if not card.graded:
            if self.levels not in {(), Retrieval.levels}:
                raise ConfigError(
                    f"retrieval: levels={','.join(self.levels)} has no effect on {card.name}, whose answers "
                    "are not graded; leave it out"
                )
            return replace(self, levels=())
        kept = tuple(
            level for level in self.levels if any(_answers(one, level) for one in groups_of(dataset))
        )
        if not kept:
            levels = ",".join(self.levels) or "none"
            raise ConfigError(
                f"retrieval: no query of {card.name} has an answer at levels={levels}; ask for some of "
                "medium, hard and easy, or for more queries"
            )
        return replace(self, levels=kept)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries and gallery at every scale.

        Raises:
            NotApplicableError: nothing says which images belong together.
        """
        geometries = long_sides(self.size, self.scales, self.interpolation)
        return queries_and_gallery("retrieval", dataset, geometries, (Readout(self.readout),))

    def evaluate(self, source: Source, dataset: Dataset, context: Context) -> Samples:  # noqa: ARG002
        """Rank the gallery for every query; one row per query with an answer."""
        card, readout = dataset.card, Readout(self.readout)
        tables = {
            split: [source.load(one) for one in self.requests(dataset) if one.split == split]
            for split in (card.train_split, card.test_split)
        }
        vectors = {split: _descriptors(found, readout) for split, found in tables.items()}
        queries, gallery = tables[card.test_split][0], tables[card.train_split][0]
        answers = answers_of(dataset, queries, gallery)
        kept = [row for row, one in enumerate(answers) if len(one.right)]
        asked = [answers[row] for row in kept]
        found = ranks(
            vectors[card.test_split][kept],
            vectors[card.train_split],
            [np.concatenate([one.right, one.junk]) for one in asked],
        )
        rows = [self._row(one, places) for one, places in zip(asked, found, strict=True)]
        columns: dict[str, Shaped[np.ndarray, "n ..."]] = {
            name: np.array([row[name] for row in rows]) for name in rows[0]
        }
        columns["group"] = np.array([one.group for one in asked])
        return Samples([queries.ids[row] for row in kept], columns)

    def _row(self, asked: Groups, places: Int[np.ndarray, " w"]) -> dict[str, float]:
        """Return the scores of one query from the ranks of its easy, hard and junk images, in that order."""
        easy, hard, junk = np.split(places, np.cumsum([len(asked.easy), len(asked.hard)]))
        both = np.concatenate([easy, hard])
        if not self.levels:
            right = ranks_without(both, junk)
            recalls = {f"recall@{k}": float(right[0] < k) for k in self.ks}
            return {"ap": average_precision(right), **recalls}
        sides = {
            "easy": (easy, np.concatenate([junk, hard])),
            "medium": (both, junk),
            "hard": (hard, np.concatenate([junk, easy])),
        }
        row: dict[str, float] = {}
        for level in self.levels:
            right = ranks_without(*sides[level])
            row[f"ap_{level}"] = trapezoid_average_precision(right, len(right))
            row |= {f"mp_{level}@{k}": precision_at(right, k) for k in self.ks}
        return row


def _answers(asked: Groups, level: Level) -> int:
    """Return how many images answer a query at a level."""
    return len({"easy": asked.easy, "medium": asked.right, "hard": asked.hard}[level])


def _descriptors(tables: Sequence[FeatureTable], readout: Readout) -> Float32[np.ndarray, "n p"]:
    """Return one vector of length 1 per image, the sum of those at all scales."""
    same_rows(tables)
    return unit_sum([table[readout] for table in tables])
