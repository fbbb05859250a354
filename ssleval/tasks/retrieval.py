"""Retrieval: which images of a gallery show what a query shows, by descriptors alone.

Every image is resized so that its long side has ``size`` pixels (Lanczos), each side rounded to a multiple of
the patch size; its descriptor, scaled to length 1, is summed over ``scales`` and scaled to length 1 again. A
query ranks the gallery by inner product, exactly; junk is taken out of the ranking. On sets that grade their
answers (revisited Oxford and Paris, `scenes:retrieval`) average precision is by trapezoids. At level
``medium`` easy and hard answers are right; ``easy`` and ``hard`` make junk of the others. ``mp_LEVEL@k`` is
the precision of the first k, or up to the last right answer where that comes sooner. On other groups average
precision is the mean precision at right answers; ``map_macro`` averages group by group, and ``recall@k``
counts queries with an answer among the first k. Queries without an answer count nowhere. Queries that ask for
one thing (that share a right answer, or are each other's) are one cluster: intervals are over such things.

Source: Radenovic et al. 2018, arXiv:1803.11285, sec. 3; Caron et al. 2021, arXiv:2104.14294, sec. 4.2.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar

from ssleval.core import Dataset, FeatureRequest, Metric, Samples
from ssleval.core.answers import answers_of, groups_of, with_clusters
from ssleval.core.image_level import VectorOfScales, queries_and_gallery, tables_by_split
from ssleval.core.rows import samples_of
from ssleval.core.settings import Count, Different
from ssleval.core.targets import Level
from ssleval.core.task import Inputs, Needs, Task, tasks
from ssleval.errors import ConfigError
from ssleval.heads.ranking import ranked, unit_sum
from ssleval.metrics.retrieval import graded_scores, plain_scores
from ssleval.metrics.stats import mean_of, mean_per_class_of


@tasks.register("retrieval")
@dataclass(frozen=True)
class Retrieval(VectorOfScales, Task):
    """Mean average precision of queries over a gallery."""

    seeded: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs(("groups",))
    levels: Annotated[tuple[Level, ...], Different] = ("medium", "hard", "easy")
    """Of sets that grade their answers, as far as any query has such; the first leads."""
    ks: Annotated[tuple[Count, ...], Different] = (1, 5, 10)
    """Of recall@k, and of mp@k where answers are graded."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Average precision first, then what the first k places hold."""
        if not self.levels:
            recalls = [Metric(f"recall@{k}", mean_of(f"recall@{k}")) for k in self.ks]
            macro = Metric("map_macro", mean_per_class_of("ap", "group"))
            return (Metric("map", mean_of("ap")), macro, *recalls)
        maps = [Metric(f"map_{level}", mean_of(f"ap_{level}")) for level in self.levels]
        names = [f"mp_{level}@{k}" for level in self.levels for k in self.ks]
        return (*maps, *(Metric(name, mean_of(name)) for name in names))

    def resolved(self, dataset: Dataset) -> "Retrieval":
        """Return the task with the levels at which any query has an answer; a limited set may lack some."""
        name, levels = dataset.card.name, ",".join(self.levels) or "none"
        if not dataset.card.graded:
            if self.levels not in {(), Retrieval.levels}:
                raise ConfigError(
                    f"retrieval: levels={levels} has no effect on {name}, whose answers are not graded; "
                    "leave it out"
                )
            return replace(self, levels=())
        groups = list(groups_of(dataset))
        kept = tuple(level for level in self.levels if any(len(query.at(level).right) for query in groups))
        if not kept:
            raise ConfigError(
                f"retrieval: no query of {name} has an answer at levels={levels}; ask for some of "
                "medium, hard and easy, or for more queries"
            )
        return replace(self, levels=kept)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return queries and gallery at every scale."""
        return queries_and_gallery(dataset, self.geometries, (self.vector,))

    def evaluate(self, inputs: Inputs) -> Samples:
        """Rank the gallery for every query; one row per query with an answer."""
        card, tables = inputs.card, tables_by_split(inputs)
        vectors = {split: unit_sum([one[self.vector] for one in scales]) for split, scales in tables.items()}
        queries, gallery = tables[card.test_split][0], tables[card.train_split][0]
        answers = dict(enumerate(answers_of(inputs.dataset, queries, gallery)))
        asked = {row: groups for row, groups in answers.items() if len(groups.right)}
        placed = ranked(vectors[card.test_split][[*asked]], vectors[card.train_split], [*asked.values()])
        score = partial(graded_scores, levels=self.levels) if self.levels else plain_scores
        scores = [{**score(groups, self.ks), "group": groups.group} for groups in placed]
        rows = dict(zip((queries.ids[row] for row in asked), scores, strict=True))
        own = [*asked] if card.train_split == card.test_split else []
        return with_clusters(samples_of(rows), [*asked.values()], own)
