from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Dataset, Geometry, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.tasks.segmentation import Segmentation
from tests.tasks.dense_tables import dense_dataset, masks, one_hot, tables
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated

TARGETS = {"train": masks(24), "test": masks(10, seed=1)}
QUICK = Segmentation(iterations=40, batch_size=8, learning_rate=0.05, pixels=32)


def data(targets: dict[str, list[np.ndarray]] | None = None, **card: object) -> Dataset:
    described = {"target": "mask", "class_names": ("a", "b", "c"), **card}
    return dense_dataset(targets or TARGETS, **described)


def scores(task: Segmentation, source: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, source, data(), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


@pytest.mark.parametrize("inputs", ["lin", "ms"])
def test_classes_that_tokens_name_are_found(inputs: str) -> None:
    # Not all pixels: between two patches the upsampled logits of both are mixed.
    found, samples = scores(replace(QUICK, inputs=inputs), tables(TARGETS, one_hot))  # pyright: ignore[reportArgumentType]
    assert found["mean_iou"] > 0.75
    assert samples["intersection"].shape == (10, 3)
    assert samples["labelled"].tolist() == [16 * 15] * 10


def test_without_classes_in_the_tokens_it_is_chance() -> None:
    found, _ = scores(QUICK, tables(TARGETS, lambda labels: one_hot(labels * 0), noise=1.0))
    assert found["mean_iou"] < 0.3
    assert found["pixel_accuracy"] == pytest.approx(1 / 3, abs=0.08)


def test_a_target_of_another_resolution_is_the_resolution_scored() -> None:
    targets = {"train": TARGETS["train"], "test": masks(10, scale=12, seed=1)}
    samples = evaluated(QUICK, tables(targets, one_hot), data(targets))
    assert samples["labelled"].tolist() == [48 * 47] * 10
    assert QUICK.metrics[0].score(samples) > 0.75


@pytest.mark.parametrize(
    "change",
    [
        {"iterations": 41},
        {"batch_size": 7},
        {"learning_rate": 0.04},
        {"weight_decay": 0.5},
        {"warmup": 0.5},
        {"pixels": 33},
        {"inputs": "ms"},
    ],
    ids=str,
)
def test_every_setting_of_the_fit_changes_the_answer(change: dict[str, object]) -> None:
    source = tables(TARGETS, one_hot, noise=1.0)
    one, other = scores(QUICK, source)[1], scores(replace(QUICK, **change), source)[1]  # pyright: ignore[reportArgumentType]
    assert (one["intersection"] != other["intersection"]).any()


def test_size_and_interpolation_are_the_geometry() -> None:
    (train, test) = Segmentation().resolved(data()).requests(data())
    assert train.geometry == test.geometry == Geometry(448, "square", None, "bicubic")
    (changed, _) = replace(QUICK, size=224, interpolation="bilinear").requests(data())
    assert changed.geometry == Geometry(224, "square", None, "bilinear")


def test_blocks_are_the_last_or_the_last_four() -> None:
    (request, _) = QUICK.resolved(data()).requests(data())
    assert [str(one) for one in request.readouts] == ["patches[-1]"]
    (request, _) = replace(QUICK, inputs="ms").resolved(data()).requests(data())
    assert [str(one) for one in request.readouts] == [f"patches[{block}]" for block in (-4, -3, -2, -1)]


def test_the_seed_decides_and_equal_seeds_agree() -> None:
    source = tables(TARGETS, one_hot, noise=1.0)
    one, same, other = (scores(QUICK, source, seed)[1]["intersection"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_images_left_out_as_corrupt_keep_their_own_masks() -> None:
    class Gaps(Tables):
        def load(self, request: object) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
            table = super().load(request)  # pyright: ignore[reportArgumentType]
            arrays = {readout: array[1:] for readout, array in table.arrays.items()}
            labels = None if table.targets is None else table.targets[1:]
            return replace(table, ids=table.ids[1:], targets=labels, arrays=arrays, rows=table.rows[1:])

    whole = tables(TARGETS, one_hot)
    found, samples = scores(QUICK, Gaps(whole.targets, whole.features))
    assert len(samples) == 9
    assert found["mean_iou"] > 0.75


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(NotApplicableError, match="needs a class for every pixel"):
        evaluated(QUICK, tables(TARGETS, one_hot), data(target="label"))
    with pytest.raises(ConfigError, match="'test' alone"):
        evaluated(QUICK, tables(TARGETS, one_hot), data(train_split="test"))
    with pytest.raises(ConfigError, match=r"segmentation\.pixels=-1: expected a whole number >= 0"):
        replace(QUICK, pixels=-1)
    with pytest.raises(ConfigError, match=r"segmentation\.warmup=1\.0: expected a number < 1"):
        replace(QUICK, warmup=1.0)
