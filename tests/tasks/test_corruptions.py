from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.errors import ConfigError, DataError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.tasks.corruptions import Corruptions
from tests.tasks.feature_tables import evaluated

SMALL = Corruptions(
    head="knn", k=3, types=("fog", "gaussian_noise"), severities=(1, 5), items=0, resize=20, crop=16
)


class Colours(Backbone):
    """Four blocks of mean colours; the class token is the first patch."""

    def __init__(self) -> None:
        card = BackboneCard("colours", "test", "colours", embed_dim=3, patch_size=4, image_size=12)
        super().__init__(card, num_blocks=4)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        grid = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        tokens = [Tokens(grid * (block + 1), grid[:, 0, 0]) for block in blocks]
        return Features(grid.mean((1, 2)), tuple(tokens))


class Blobs:
    """Noise around the label's colour, which itself varies; what cannot be decoded is in `damaged`."""

    def __init__(self, seed: int, damaged: frozenset[int], spread: float) -> None:
        self.seed, self.damaged, self.spread = seed, damaged, spread

    def __call__(self, index: int) -> Image.Image:
        if index in self.damaged:
            raise DataError(f"{index}: cannot be decoded")
        random = np.random.default_rng([self.seed, index])
        colour = np.random.default_rng(index % 4).uniform(40, 215, 3)
        pixels = colour + self.spread * random.normal(size=3) + 50 * random.normal(size=(24, 30, 3))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def blobs(damaged: frozenset[int] = frozenset(), spread: float = 2.0, **card: Any) -> Dataset:
    counts = {"train": 60, "test": 30}

    def open_split(name: str) -> Split:
        labels = np.arange(counts[name]) % 4
        ids = [f"{name}{i}" for i in range(counts[name])]
        hidden = damaged if name == "test" else frozenset[int]()
        return Split(ids, Blobs(list(counts).index(name), hidden, spread), labels, f"{name}{hidden}{spread}")

    return Dataset(DatasetCard("blobs", class_names=tuple("abcd"), lengths=counts, **card), open_split)


Measure = Callable[..., Samples]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    def run(dataset: Dataset, *, skip_corrupt: bool = False, **settings: Any) -> Samples:
        task = replace(SMALL, **settings)
        context = Context(cache=tmp_path, progress=False, skip_corrupt=skip_corrupt)
        source = FeatureSource(Colours(), context)
        return evaluated(task, source, dataset, context)

    return run


def scores(samples: Samples, task: Corruptions = SMALL) -> dict[str, float]:
    return {metric.name: metric.score(samples) for metric in task.metrics}


def test_a_clean_head_is_applied_to_corrupted_images(measure: Measure) -> None:
    samples = measure(blobs())
    found = scores(samples)
    assert found["top1@clean"] == 1.0
    assert found["top1@corrupted"] == pytest.approx((found["top1@fog"] + found["top1@gaussian_noise"]) / 2)
    assert found["top1@corrupted"] == pytest.approx((found["top1@severity1"] + found["top1@severity5"]) / 2)
    assert found["relative_drop"] == pytest.approx(1 - found["top1@corrupted"])
    assert found["top1@fog"] < 1.0
    assert list(samples.ids) == [f"test{i}" for i in range(30)]
    assert samples["label"].tolist() == [i % 4 for i in range(30)]
    assert set(np.unique(samples["fog"])) <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "linear", "iterations": 30},
        {"types": ("fog", "snow")},
        {"severities": (2, 5)},
        {"k": 41},
        {"temperature": 100.0, "k": 41},
        {"resize": 30},
        {"crop": 12},
        {"interpolation": "nearest"},
    ],
    ids=str,
)
def test_every_setting_changes_what_is_measured(measure: Measure, settings: dict[str, Any]) -> None:
    first = {"k": 41} if "temperature" in settings else {}
    noisy = {"types": ("gaussian_noise", "fog"), **first}
    before = measure(blobs(spread=60.0), **noisy)
    after = measure(blobs(spread=60.0), **{**noisy, **settings})
    assert before["corrupted"].tolist() != after["corrupted"].tolist()


@pytest.mark.parametrize("settings", [{"iterations": 3}, {"held_out": 0.8}], ids=str)
def test_the_linear_head_is_trained_as_asked(measure: Measure, settings: dict[str, Any]) -> None:
    base: dict[str, Any] = {"head": "linear", "iterations": 12, "types": ("fog", "snow")}
    before, after = measure(blobs(), **base), measure(blobs(), **{**base, **settings})
    assert before["corrupted"].tolist() != after["corrupted"].tolist()


def test_the_linear_head_says_how_sure_it_is_of_clean_and_of_corrupted_images(measure: Measure) -> None:
    task = replace(SMALL, head="linear", iterations=200)
    samples = measure(blobs(spread=30.0), head="linear", iterations=200)
    found = scores(samples, task)
    assert samples["confidence@corrupted"].shape == (30, 4)
    assert samples["confidence@clean"].shape == (30, 1)
    assert found["top1@clean"] == samples["right@clean"].mean()
    assert found["top1@corrupted"] == pytest.approx(samples["right@corrupted"].mean())
    errors = [
        abs(sure[one].mean() - right[one].mean()) * one.mean()
        for sure, right in zip(samples["confidence@corrupted"].T, samples["right@corrupted"].T, strict=True)
        for one in (np.ceil(sure * 15) == number for number in range(1, 16))
        if one.any()
    ]
    assert found["ece@corrupted"] == pytest.approx(sum(errors) / 4)
    assert found["nll@corrupted"] > found["nll@clean"] > 0


def test_fewer_items_are_the_same_items(measure: Measure) -> None:
    everything, some = measure(blobs()), measure(blobs(), items=10)
    assert len(some) == 10
    places = [list(everything.ids).index(name) for name in some.ids]
    assert some["corrupted"].tolist() == everything["corrupted"][places].tolist()


def test_damaged_images_are_left_out_of_every_variant(measure: Measure) -> None:
    whole, left = measure(blobs()), measure(blobs(frozenset({0, 7})), skip_corrupt=True)
    assert list(left.ids) == [name for name in whole.ids if name not in {"test0", "test7"}]
    kept = [i for i in range(30) if i not in {0, 7}]
    assert left["corrupted"].tolist() == whole["corrupted"][kept].tolist()
    with pytest.raises(DataError, match="no image of blobs/test could be decoded"):
        measure(blobs(frozenset(range(30))), skip_corrupt=True)


def test_the_default_is_all_types_at_a_bounded_cost() -> None:
    task = Corruptions()
    (_, test) = task.requests(blobs())
    assert test.dataset.card.lengths["corrupted"] == 30 * 46
    many = blobs()
    many = replace(many, card=replace(many.card, lengths={"train": 10, "test": 50_000}))
    assert task.requests(many)[1].dataset.card.lengths["corrupted"] == 200 * 46
    assert [metric.name for metric in task.metrics][:3] == ["top1@corrupted", "top1@clean", "relative_drop"]
    assert not task.metrics[2].higher_is_better


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ("frost",)},
        {"types": ()},
        {"types": ("fog", "fog")},
        {"severities": (0,)},
        {"severities": ()},
        {"severities": (1, 1)},
        {"items": -1},
        {"held_out": 1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^corruptions[.:]"):
        Corruptions(**wrong)


def test_data_it_has_no_meaning_for_is_refused(measure: Measure) -> None:
    with pytest.raises(NotApplicableError, match="has target 'multilabel'"):
        measure(blobs(target="multilabel"))
    with pytest.raises(ConfigError, match="would fit and score"):
        measure(blobs().evaluated_on("train"))
    with pytest.raises(ConfigError, match="k=61 of 60"):
        measure(blobs(), k=61)
