"""What tasks on whole images share: fields of geometries, fields of what is read, and the requests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ssleval.core import Dataset, DatasetCard, FeatureRequest, FeatureTable
from ssleval.core.settings import Count, Positives
from ssleval.core.task import Inputs
from ssleval.core.vocabulary import Geometry, Interpolation, RandomView, Readout
from ssleval.errors import ConfigError, ContractError, NotApplicableError

PATCHES = Readout("patches")


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
class _OneVector:
    readout: Literal["pooled", "cls", "mean", "gem"] = "pooled"
    """The model's own descriptor, or the last block's class token or pooled patches."""

    @property
    def vector(self) -> Readout:
        """The one readout to request."""
        return Readout(self.readout)


@dataclass(frozen=True, kw_only=True)
class VectorPerImage(_OneVector, ImageGeometry):
    """Fields of a task on one vector per image: which vector, at which geometry."""

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the training and the scored split, one vector per image."""
        return train_and_test(dataset, self.geometry, (self.vector,))


@dataclass(frozen=True, kw_only=True)
class VectorOfScales(_OneVector):
    """Fields of a task on one vector per image, which is seen whole, at one scale or at several."""

    size: Count = 224
    """Pixels of the long side at scale 1."""
    scales: Positives = (1.0,)
    """Factors of ``size``; those of the papers are 1, 0.7071 and 0.5."""
    interpolation: Interpolation = "lanczos"

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """One for every scale: the long side ``size`` times it, the aspect kept, both sides whole patches."""
        return tuple(
            Geometry(round(self.size * scale), "long", None, self.interpolation, multiple="patch")
            for scale in self.scales
        )


@dataclass(frozen=True, kw_only=True)
class SquareImages:
    """Fields of a task that sees images squashed to squares, and reads patches of both splits."""

    size: Count = 448
    """Both sides in pixels; a multiple of every usual patch size (14, 16, 28, 32)."""
    interpolation: Interpolation = "bicubic"

    @property
    def geometry(self) -> Geometry:
        """The geometry to request features at."""
        return Geometry(self.size, "square", None, self.interpolation)

    @property
    def readouts(self) -> tuple[Readout, ...]:
        """Patch tokens of the last block, after the model's final norm."""
        return (PATCHES,)

    def requests(self, dataset: Dataset) -> tuple[FeatureRequest, ...]:
        """Return the patch grids of the training and of the scored split."""
        return train_and_test(dataset, self.geometry, self.readouts)


def fitting_set(dataset: Dataset) -> Dataset:
    """Return the set whose training split heads are fitted on: its own where ``dataset`` has one."""
    if dataset.fitted_on is None or dataset.card.train_split in dataset.card.lengths:
        return dataset
    return dataset.fitted_on()


def train_and_test(
    dataset: Dataset, geometry: Geometry | None, readouts: tuple[Readout, ...]
) -> tuple[FeatureRequest, FeatureRequest]:
    """Return requests for the training split and for the scored split."""
    train = FeatureRequest(dataset, dataset.card.train_split, geometry, readouts)
    return train, replace(train, split=dataset.card.test_split)


def fitting_amounts(
    dataset: Dataset, iterations: int, batch_size: int, least: int = 1
) -> dict[str, tuple[int, int]]:
    """Return what `Task.amounts` says of a head that is fitted by iterations, ``least`` of them."""
    card = fitting_set(dataset).card
    return {"iterations": (least, iterations), "train": (batch_size, card.lengths[card.train_split])}


def queries_and_gallery(
    dataset: Dataset, geometries: Sequence[Geometry], readouts: tuple[Readout, ...]
) -> tuple[FeatureRequest, ...]:
    """Return requests for the scored split and for the split it is looked up in, which may be the same."""
    splits = dict.fromkeys((dataset.card.test_split, dataset.card.train_split))
    return tuple(
        FeatureRequest(dataset, split, geometry, readouts) for split in splits for geometry in geometries
    )


def random_views(
    request: FeatureRequest, count: int, size: int, seed: int, interpolation: Interpolation = "bicubic"
) -> tuple[FeatureRequest, ...]:
    """Return requests for ``count`` augmented views of the images of ``request``, ``size`` pixels wide.

    Raises:
        ConfigError: the images are seen at the model's own geometry, which says no size of views.
    """
    if count and request.geometry is None:
        raise ConfigError(f"views={count} need preprocessing=protocol, which gives their size")
    views = (RandomView(index, size, interpolation, seed) for index in range(count))
    return tuple(replace(request, geometry=view) for view in views)


def accuracy_kind(
    metric: Literal["card", "top1", "mean_per_class"], card: DatasetCard
) -> Literal["top1", "mean_per_class"]:
    """Return which accuracy to score, where ``card`` means the convention of the dataset; refuse mAP."""
    kind = card.metric if metric == "card" else metric
    if kind == "map":
        raise NotApplicableError(f"{card.name} is scored by mAP; use the task logreg")
    return kind


def same_rows(tables: Sequence[FeatureTable]) -> None:
    """Refuse tables of one split in which row i is not the same image."""
    if any(not np.array_equal(table.rows, tables[0].rows) for table in tables):
        raise ContractError(
            "views of one split lack different images; run `ssleval cache verify`, then again"
        )


def tables_by_split(inputs: Inputs) -> dict[str, list[FeatureTable]]:
    """Return the features of every split, one table a geometry, in the order of the requests."""
    tables: dict[str, list[FeatureTable]] = {}
    for request, table in zip(inputs.requests, inputs.tables(), strict=True):
        tables.setdefault(request.split, []).append(table)
    for same_split in tables.values():
        same_rows(same_split)
    return tables
