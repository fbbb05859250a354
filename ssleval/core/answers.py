"""What is right for a query: images of its group, the instance it shows, the captions of an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssleval.core.targets import Groups
from ssleval.core.task import Inputs
from ssleval.core.vocabulary import Dataset, FeatureTable, Samples
from ssleval.errors import ContractError, DataError


def groups_of(dataset: Dataset) -> Iterator[Groups]:
    """Return what answers every query, if anything, as rows of the whole gallery, read one by one."""
    split = dataset.split(dataset.card.test_split)
    if split.target is None:
        raise ContractError(f"{dataset.card.name} opened without the groups its card promises")
    return map(split.target, range(len(split)))


def answers_of(dataset: Dataset, queries: FeatureTable, gallery: FeatureTable) -> list[Groups]:
    """Return what answers each row of ``queries``, if anything, as rows of the ``gallery`` table."""
    card, groups = dataset.card, list(groups_of(dataset))
    place = np.full(card.lengths[card.train_split], -1)
    place[gallery.rows] = np.arange(len(gallery.rows))

    def decoded(rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " k"]:
        places = place[rows]
        return places[places >= 0]

    answers = [
        Groups(decoded(easy), decoded(hard), decoded(junk), group)
        for easy, hard, junk, group in (groups[item] for item in queries.rows.tolist())
    ]
    if not any(len(answer.right) for answer in answers):
        raise DataError(f"{card.name}: no image of {card.test_split!r} has an answer; it needs groups of two")
    return answers


def with_clusters(samples: Samples, answers: Sequence[Groups], own: Sequence[int] = ()) -> Samples:
    """Return samples of queries whose clusters are named: queries that ask for one thing were drawn together.

    They share a right answer, or are each other's, directly or through others. The cluster is the column
    ``group`` where that says the same, else a column ``cluster``; none where every query asks for a thing of
    its own.

    Args:
        samples: one row for every query.
        answers: of every row.
        own: row of every query in the gallery, where they are images of it.
    """
    rows = [groups.right for groups in answers]
    if own:
        rows = [np.append(right, row) for right, row in zip(rows, own, strict=True)]
    queries = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    images = np.unique(np.concatenate([*rows, np.zeros(0, np.int64)]), return_inverse=True)[1] + len(rows)
    size = len(rows) + int(images.max(initial=-1)) + 1
    links = coo_array((np.ones(len(queries)), (queries, images)), (size, size))
    together = connected_components(links, directed=False)[1][: len(rows)]
    count = len(np.unique(together))
    if count == len(samples):
        return samples
    group = samples.columns.get("group", np.zeros(len(samples)))
    if count == len(np.unique(group)) == len({*zip(group.tolist(), together.tolist(), strict=True)}):
        return replace(samples, cluster="group")
    return replace(samples, columns={**samples.columns, "cluster": together}, cluster="cluster")


def open_set_labels(
    inputs: Inputs, tables: Mapping[str, Sequence[FeatureTable]]
) -> dict[str, Int[np.ndarray, " n"]]:
    """Return the instance that every image of database and queries shows, below 0 for none, by split."""
    card = inputs.card
    labels = {split: inputs.labels(scales[0]) for split, scales in tables.items() if split != "whitening"}
    if len(np.unique(labels[card.train_split])) < 2:
        raise DataError(
            f"{card.name}/{card.train_split} shows one instance alone; it needs two to tell apart"
        )
    for split, truth in labels.items():
        if split != card.train_split and not (truth >= 0).any():
            raise DataError(
                f"{card.name}/{split}: none of the {len(truth)} queries shows a known instance; take "
                "more of them (--limit)"
            )
    return labels


def group_names(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the groups that queries with an answer are of, where groups have names."""
    names = dataset.card.class_names
    numbers = {query.group for query in groups_of(dataset) if len(query.right)} if names else set[int]()
    return tuple(name for number, name in enumerate(names) if number in numbers)


def distractors(answers: Sequence[Groups], count: int) -> Bool[np.ndarray, " n"]:
    """Return which of ``count`` rows of the gallery are neither right nor junk for a query with an answer."""
    alone = np.ones(count, bool)
    for groups in answers:
        # In a set of groups a distractor is junk to itself, and yet answers nobody.
        if len(groups.right):
            alone[groups.rows] = False
    return alone


def captions_of(inputs: Inputs, table: FeatureTable, most: int) -> tuple[list[str], Int[np.ndarray, " t"]]:
    """Return the captions of all scored images, and the row of each one's image in ``table``.

    The first ``most`` captions of an image count; all where it is 0.
    """
    split = inputs.test_split
    assert split.target is not None, "a captions dataset gives captions"
    rows = table.rows.tolist()
    captions = [list(split.target(row))[: most or None] for row in rows]
    for row, own in zip(rows, captions, strict=True):
        if not own:
            raise DataError(f"{inputs.card.name}: {split.ids[row]} has no caption")
    return list(chain.from_iterable(captions)), np.repeat(np.arange(len(rows)), list(map(len, captions)))
