from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Dataset, Geometry, Samples
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.tasks.segmentation_knn import SegmentationKnn
from tests.tasks.dense_tables import dense_dataset, masks, one_hot, tables
from tests.tasks.feature_tables import CONTEXT, Tables, evaluated

TARGETS = {"train": masks(24), "test": masks(10, seed=1)}
QUICK = SegmentationKnn(k=5, memory_size=24 * 8)


def data(**card: object) -> Dataset:
    return dense_dataset(TARGETS, **{"target": "mask", "class_names": ("a", "b", "c"), **card})


def scores(task: SegmentationKnn, source: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    samples = evaluated(task, source, data(), replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


def test_classes_that_tokens_name_are_found() -> None:
    # Not all pixels: between two patches the upsampled labels of both are mixed.
    found, samples = scores(QUICK, tables(TARGETS, one_hot))
    assert found["mean_iou"] > 0.75
    assert samples["intersection"].shape == (10, 3)
    assert samples["labelled"].tolist() == [16 * 15] * 10


def test_without_classes_in_the_tokens_it_is_chance() -> None:
    found, _ = scores(QUICK, tables(TARGETS, lambda labels: one_hot(labels * 0), noise=1.0))
    assert found["mean_iou"] < 0.3
    assert found["pixel_accuracy"] == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.parametrize("change", [{"k": 6}, {"beta": 0.5}, {"memory_size": 24 * 7}], ids=str)
def test_every_setting_changes_the_answer(change: dict[str, float]) -> None:
    source = tables(TARGETS, one_hot, noise=1.0)
    one, other = scores(QUICK, source)[1], scores(replace(QUICK, **change), source)[1]
    assert (one["intersection"] != other["intersection"]).any()


def test_classes_in_each_others_place_are_renamed_only_where_that_is_the_protocol() -> None:
    swapped = tables({**TARGETS, "test": [_swapped(mask) for mask in TARGETS["test"]]}, one_hot)
    own, best = (scores(replace(QUICK, match=match), swapped)[0] for match in ("identity", "hungarian"))
    fair = scores(QUICK, tables(TARGETS, one_hot))[0]
    assert own["mean_iou"] < 0.5
    assert best == {"mean_iou": pytest.approx(fair["mean_iou"], abs=0.03)}
    assert scores(replace(QUICK, match="hungarian"), swapped)[1]["confusion"].shape == (10, 3, 3)


def _swapped(mask: np.ndarray) -> np.ndarray:
    return np.array([1, 0, 2, *[255] * 253], np.uint8)[mask]


def test_the_seed_draws_the_bank_and_equal_seeds_agree() -> None:
    source = tables(TARGETS, one_hot, noise=1.0)
    one, same, other = (scores(QUICK, source, seed)[1]["intersection"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    whole = replace(QUICK, memory_size=24 * 16)
    one, other = (scores(whole, source, seed)[1]["intersection"] for seed in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_images_at_once_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tables(TARGETS, one_hot, noise=1.0)
    together = scores(QUICK, source)[1]["intersection"]
    monkeypatch.setattr("ssleval.tasks.segmentation_knn.IMAGES_AT_ONCE", 3)
    np.testing.assert_array_equal(scores(QUICK, source)[1]["intersection"], together)


def test_requests_are_patches_of_squares() -> None:
    (train, test) = SegmentationKnn(size=224, interpolation="bilinear").requests(data())
    assert train.geometry == test.geometry == Geometry(224, "square", None, "bilinear")
    assert (train.split, test.split) == ("train", "test")
    assert [str(one) for one in train.readouts] == ["patches[-1]"]


def test_what_it_cannot_do_is_refused() -> None:
    source = tables(TARGETS, one_hot)
    with pytest.raises(NotApplicableError, match="needs a class for every pixel"):
        evaluated(QUICK, source, data(target="label"))
    with pytest.raises(ConfigError, match="'test' alone"):
        evaluated(QUICK, source, data(train_split="test"))
    with pytest.raises(ConfigError, match=r"segmentation_knn\.beta=0\.0: expected a number > 0"):
        replace(QUICK, beta=0.0)
    with pytest.raises(ConfigError, match="k = 400 of 192"):
        scores(replace(QUICK, k=400), source)
