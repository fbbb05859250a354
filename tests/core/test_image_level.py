from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Dataset, DatasetCard, FeatureTable, Geometry, Readout, Split
from ssleval.core.image_level import ImageGeometry, VectorPerImage, labels_of, train_and_test
from ssleval.core.task import Task
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.tasks.corruptions import Corruptions
from ssleval.tasks.fewshot import Fewshot
from ssleval.tasks.knn import Knn
from ssleval.tasks.linear import Linear
from ssleval.tasks.logreg import Logreg


def closed(split: str) -> Split:
    raise AssertionError(f"{split} was opened")


DATA = Dataset(DatasetCard("d", lengths={"train": 3, "test": 2}), closed)


def asked(dataset: Dataset, **more: object) -> list[str]:
    geometry = Geometry(32, "square")
    requests = train_and_test("t", dataset, geometry, (Readout("mean"),), **more)  # pyright: ignore[reportArgumentType]
    assert all(one.geometry == geometry and one.readouts == (Readout("mean"),) for one in requests)
    return [one.split for one in requests]


def changed(**card: object) -> Dataset:
    return replace(DATA, card=replace(DATA.card, **card))  # pyright: ignore[reportArgumentType]


def test_the_training_split_comes_first() -> None:
    assert asked(DATA) == ["train", "test"]
    assert asked(changed(target="multilabel"), targets=("label", "multilabel")) == ["train", "test"]


def test_what_cannot_be_fitted_and_scored_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="t needs one label per image; d has target 'mask'"):
        asked(changed(target="mask"))
    with pytest.raises(NotApplicableError, match="t needs labels; d has target 'mask'"):
        asked(changed(target="mask"), targets=("label", "multilabel"))
    with pytest.raises(ConfigError, match="one split, 'train'"):
        asked(changed(test_split="train"))


def test_labels_that_are_not_there_are_the_datasets_fault() -> None:
    table = FeatureTable(["a"], None, {}, np.arange(1))
    with pytest.raises(ContractError, match="without the labels"):
        labels_of(table, DATA)
    assert labels_of(replace(table, targets=np.array([4])), DATA).tolist() == [4]


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
        task.resolved(dataset).requests(dataset)
