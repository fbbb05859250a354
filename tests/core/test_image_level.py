from dataclasses import replace

import pytest

from ssleval.core import Dataset, DatasetCard, Geometry, Readout, Split
from ssleval.core.image_level import (
    ImageGeometry,
    VectorPerImage,
    accuracy_kind,
    train_and_test,
)
from ssleval.core.task import Task, refuse_dataset
from ssleval.errors import NotApplicableError
from ssleval.tasks.corruptions import Corruptions
from ssleval.tasks.fewshot import Fewshot
from ssleval.tasks.knn import Knn
from ssleval.tasks.linear import Linear
from ssleval.tasks.logreg import Logreg


def closed(split: str) -> Split:
    raise AssertionError(f"{split} was opened")


DATA = Dataset(DatasetCard("d", lengths={"train": 3, "test": 2}), closed)


def changed(**card: object) -> Dataset:
    return replace(DATA, card=replace(DATA.card, **card))  # pyright: ignore[reportArgumentType]


def test_the_training_split_comes_first() -> None:
    geometry = Geometry(32, "square")
    requests = train_and_test(DATA, geometry, (Readout("mean"),))
    assert all(one.geometry == geometry and one.readouts == (Readout("mean"),) for one in requests)
    assert [one.split for one in requests] == ["train", "test"]


def test_the_accuracy_is_the_one_asked_for_or_the_datasets() -> None:
    card = replace(DATA.card, metric="mean_per_class")
    assert [accuracy_kind(metric, card) for metric in ("card", "top1")] == ["mean_per_class", "top1"]
    with pytest.raises(NotApplicableError, match="d is scored by mAP"):
        accuracy_kind("card", replace(card, metric="map"))


def test_geometry_and_vector_follow_their_fields() -> None:
    assert ImageGeometry().geometry == Geometry(256, "short", 224, "bicubic")
    assert ImageGeometry(resize=64, crop=48, interpolation="lanczos").geometry == Geometry(
        64, "short", 48, "lanczos"
    )
    assert ImageGeometry(preprocessing="card").geometry is None
    assert VectorPerImage(readout="gem").vector == Readout("gem")


@pytest.mark.parametrize("task", [Knn(), Linear(), Logreg(), Fewshot(), Corruptions()])
def test_data_without_a_training_split_are_refused_by_tasks_that_fit(task: Task) -> None:
    dataset = changed(lengths={"test": 2}, classes=2)
    with pytest.raises(NotApplicableError, match="fits on a training split; d has test"):
        refuse_dataset("t", task.needs, dataset.card)
