"""What tasks on one vector per image share: the geometry of images, the two splits, groups of answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from ssleval.core import (
    Dataset,
    DatasetCard,
    FeatureRequest,
    FeatureTable,
    Geometry,
    Interpolation,
    RandomView,
    Readout,
)
from ssleval.core.settings import Count, Positives
from ssleval.core.targets import Groups
from ssleval.core.task import Inputs
from ssleval.errors import ContractError, DataError, NotApplicableError


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """Fields of a task that sees whole images: the published evaluation transform, or the model's own."""

    preprocessing: Literal["protocol", "card"] = "protocol"
    """Geometry of the next three fields, or the one the model was published with."""
    resize: Count = 256
    crop: Count = 224
    interpolation: Interpolation = "bicubic"

    @property
    def geometry(self) -> Geometry | None:
        """The geometry to request features at; None is the card's."""
        protocol = Geometry(self.resize, "short", self.crop, self.interpolation)
        return protocol if self.preprocessing == "protocol" else None


@dataclass(frozen=True, kw_only=True)
class VectorPerImage(ImageGeometry):
    """Fields of a task on one vector per image: which vector, at which geometry."""

    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    """The model's own descriptor, or the last block's class token or pooled patches."""

    @property
    def vector(self) -> Readout:
        """The one readout to request."""
        return Readout(self.readout)


@dataclass(frozen=True, kw_only=True)
class VectorOfScales:
    """Fields of a task on one vector per image, which is seen whole, at one scale or at several."""

    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    """The model's own descriptor, or the last block's class token or pooled patches."""
    size: Count = 224
    """Pixels of the long side at scale 1."""
    scales: Positives = (1.0,)
    """Factors of ``size``; those of the papers are 1, 0.7071 and 0.5."""
    interpolation: Interpolation = "lanczos"

    @property
    def vector(self) -> Readout:
        """The one readout to request."""
        return Readout(self.readout)

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """One for every scale: the long side ``size`` times it, the aspect kept, both sides whole patches."""
        return tuple(
            Geometry(round(self.size * scale), "long", None, self.interpolation, multiple="patch")
            for scale in self.scales
        )


def train_and_test(
    dataset: Dataset, geometry: Geometry | None, readouts: tuple[Readout, ...]
) -> tuple[FeatureRequest, FeatureRequest]:
    """Return requests for the training split and for the scored split."""
    card = dataset.card
    return (
        FeatureRequest(dataset, card.train_split, geometry, readouts),
        FeatureRequest(dataset, card.test_split, geometry, readouts),
    )


def accuracy_kind(
    metric: Literal["card", "top1", "mean_per_class"], card: DatasetCard
) -> Literal["top1", "mean_per_class"]:
    """Return which accuracy to score: ``metric``, or the convention of the dataset in place of ``card``.

    Raises:
        NotApplicableError: that convention is mean average precision.
    """
    kind = card.metric if metric == "card" else metric
    if kind == "map":
        raise NotApplicableError(f"{card.name} is scored by mAP; use the task logreg")
    return kind


def random_views(
    request: FeatureRequest, count: int, size: int, seed: int, interpolation: Interpolation = "bicubic"
) -> tuple[FeatureRequest, ...]:
    """Return requests for ``count`` augmented views of the images of ``request``, ``size`` pixels wide."""
    return tuple(
        replace(request, geometry=RandomView(index, size, interpolation, seed)) for index in range(count)
    )


def same_rows(tables: Sequence[FeatureTable]) -> None:
    """Refuse tables of one split that lack different images.

    Raises:
        ContractError: row i is not the same image in all of them.
    """
    if any(not np.array_equal(table.rows, tables[0].rows) for table in tables):
        raise ContractError(
            "views of one split lack different images; run `ssleval cache verify`, then again"
        )


def tables_by_split(inputs: Inputs) -> dict[str, list[FeatureTable]]:
    """Return the features of every split, one table a geometry, in the order of the requests.

    Raises:
        ContractError: tables of one split lack different images.
    """
    tables: dict[str, list[FeatureTable]] = {}
    for request, table in zip(inputs.requests, inputs.tables(), strict=True):
        tables.setdefault(request.split, []).append(table)
    for same_split in tables.values():
        same_rows(same_split)
    return tables


def side_by_side(table: FeatureTable, readouts: Sequence[Readout]) -> Float64[np.ndarray, "n d"]:
    """Return the vectors of several readouts as one vector per image, in float64."""
    return np.concatenate([np.asarray(table[readout], np.float64) for readout in readouts], axis=1)


def queries_and_gallery(
    dataset: Dataset, geometries: Sequence[Geometry], readouts: tuple[Readout, ...]
) -> tuple[FeatureRequest, ...]:
    """Return requests for the scored split and for the split it is looked up in, which may be the same."""
    card = dataset.card
    return tuple(
        FeatureRequest(dataset, split, geometry, readouts)
        for split in dict.fromkeys((card.test_split, card.train_split))
        for geometry in geometries
    )


def groups_of(dataset: Dataset) -> Iterator[Groups]:
    """Yield what answers every query, if anything, as rows of the whole gallery.

    Raises:
        ContractError: the dataset's card promises groups that it does not give.
    """
    split = dataset.split(dataset.card.test_split)
    if split.target is None:
        raise ContractError(f"{dataset.card.name} opened without the groups its card promises")
    yield from (split.target(item) for item in range(len(split)))


def answers_of(dataset: Dataset, queries: FeatureTable, gallery: FeatureTable) -> list[Groups]:
    """Return what answers each row of ``queries``, if anything, as rows of the ``gallery`` table.

    Raises:
        ContractError: the dataset's card promises groups that it does not give.
        DataError: no query has an answer.
    """
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


def open_set_labels(
    inputs: Inputs, tables: Mapping[str, Sequence[FeatureTable]]
) -> dict[str, Int[np.ndarray, " n"]]:
    """Return the instance that every image of database and queries shows, below 0 for none.

    Raises:
        DataError: the database shows one instance alone, or no query of a split shows any.
    """
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
    """Return the captions of all scored images, image after image, and the row of each one's image.

    Args:
        inputs: of a task on captions.
        table: features of the scored split.
        most: so many captions of an image at most, the first ones; 0: all.

    Raises:
        DataError: an image has none.
    """
    split = inputs.test_split
    assert split.target is not None, "a captions dataset gives captions"
    captions: list[str] = []
    owner: list[int] = []
    for place, row in enumerate(table.rows.tolist()):
        own = list(split.target(row))[: most or None]
        if not own:
            raise DataError(f"{inputs.card.name}: {split.ids[row]} has no caption")
        captions += own
        owner += [place] * len(own)
    return captions, np.array(owner, dtype=np.int64)
