"""``protocol=paper`` of segmentation: backbone on augmented crops, windows slid over test images."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.datasets.scenes.items import item
from ssleval.datasets.scenes.render import MASK_CLASSES
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.heads.dense.augment import Augmentation
from ssleval.heads.dense.crops import Crops
from ssleval.run.settings import build_task
from ssleval.tasks.segmentation import Segmentation
from tests.tasks.feature_tables import evaluated, same_in_ranks

QUICK = Segmentation(
    protocol="paper", size=24, crop=24, stride=16, iterations=12, batch_size=4, learning_rate=0.05
)
"""The protocol at a size that tests can afford."""


class Means(Backbone):
    """Patches are the mean colour around them; every block adds a little of the next power of it."""

    def __init__(self, patch: int = 5) -> None:
        card = BackboneCard("means", "test", "means", embed_dim=3, patch_size=patch, image_size=4 * patch)
        super().__init__(card, num_blocks=4)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        grid = torch.nn.functional.avg_pool2d(images, self.card.patch_size).permute(0, 2, 3, 1)
        return Features(grid.mean((1, 2)), tuple(Tokens(grid ** (4 - block)) for block in blocks))


class Drawn:
    """Blocks of two colours in noise, one of them class 1; a column is void."""

    def __init__(self, seed: int, noise: float = 25.0) -> None:
        self.seed, self.noise = seed, noise

    def mask(self, index: int) -> np.ndarray:
        coarse = np.random.default_rng([self.seed, index]).integers(0, 2, (3, 4)).astype(np.uint8)
        mask = coarse.repeat(10, 0).repeat(10, 1)
        mask[:, 0] = 255
        return mask

    def image(self, index: int) -> Image.Image:
        random = np.random.default_rng([self.seed, index, 1])
        colours = np.array([[90, 110, 120], [150, 90, 80]])[self.mask(index) % 2]
        noisy = colours + random.normal(size=(30, 40, 3)) * self.noise
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def opened(name: str) -> Split:
    drawn, count = (Drawn(0), 8) if name == "train" else (Drawn(1), 4)
    return Split([f"{name}/{row}" for row in range(count)], drawn.image, None, name, drawn.mask)


DATA = Dataset(DatasetCard("drawn", "mask", ("a", "b"), lengths={"train": 8, "test": 4}), opened)
Measure = Callable[..., Samples]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    cache = tmp_path_factory.mktemp("cache")

    def measured(task: Segmentation, dataset: Dataset = DATA, patch: int = 5, **context: Any) -> Samples:
        source = FeatureSource(Means(patch), Context(cache=cache, progress=False, **context))
        return evaluated(task, source, dataset, source.context)

    return measured


@pytest.fixture(scope="module")
def plain(run: Measure) -> Samples:
    return run(QUICK)


@pytest.mark.parametrize("context", [{}, {"batch_size": 1, "seed": 3}], ids=str)
def test_processes_share_crops_and_images(
    run: Measure, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    same_in_ranks(lambda: run(QUICK, **context), monkeypatch)


def test_classes_that_colours_name_are_found(run: Measure) -> None:
    samples = run(replace(QUICK, iterations=40))
    assert QUICK.metrics[0].score(samples) > 0.6
    assert samples["labelled"].tolist() == [30 * 39] * 4
    assert list(samples.ids) == [f"test/{row}" for row in range(4)]


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": "ms"},
        {"size": 30},
        {"interpolation": "nearest"},
        {"iterations": 13},
        {"batch_size": 5},
        {"learning_rate": 0.02},
        {"weight_decay": 0.9},
        {"warmup": 0.5},
        {"crop": 20},
        {"ratios": (0.8, 1.0)},
        {"cat_max_ratio": 1.0},
        {"flip": 0.0},
        {"distortion": 0.0},
        {"stride": 4},
        {"test_ratios": (1.0, 1.5)},
        {"test_flip": "yes"},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(run: Measure, plain: Samples, change: dict[str, Any]) -> None:
    one, other = plain, run(replace(QUICK, **change))
    assert (one["intersection"] != other["intersection"]).any()


def test_the_seed_decides_and_equal_seeds_agree(run: Measure, plain: Samples) -> None:
    one, same, other = plain, run(QUICK), run(QUICK, seed=1)
    np.testing.assert_array_equal(one["intersection"], same["intersection"])
    assert (one["intersection"] != other["intersection"]).any()


def test_a_worker_draws_the_same_crops() -> None:
    augmentation = Augmentation(24, (0.5, 2.0), 24, 0.75, 0.5, 0.5, "bilinear")
    crops = Crops(opened("train"), np.arange(8).reshape(2, 4), augmentation, (0.5, 0.5, 0.5), 0)
    (images, masks), (same, others) = crops[1], pickle.loads(pickle.dumps(crops))[1]
    assert torch.equal(images, same)
    assert torch.equal(masks, others)


def test_patches_that_do_not_divide_the_crop_are_padded(run: Measure) -> None:
    assert QUICK.metrics[0].score(run(replace(QUICK, iterations=40), patch=7)) > 0.6


def test_it_runs_on_scenes(run: Measure) -> None:
    rows = {split: [item(split, index) for index in range(2)] for split in ("train", "test")}

    def scenes(name: str) -> Split:
        return Split(
            [f"{name}/{row}" for row in range(2)],
            lambda row: Image.fromarray(rows[name][row]["image"]),
            None,
            name,
            lambda row: rows[name][row]["mask"],
        )

    card = DatasetCard("scenes:mask", "mask", MASK_CLASSES, lengths={"train": 2, "test": 2})
    samples = run(replace(QUICK, iterations=3, batch_size=2), Dataset(card, scenes))
    assert samples["intersection"].shape == (2, len(MASK_CLASSES))
    assert 0 < QUICK.metrics[2].score(samples) <= 1


def test_published_values_stand_where_none_are_given() -> None:
    lin, ms = (
        build_task("segmentation", {"protocol": "paper", "inputs": inputs}).resolved(DATA)
        for inputs in ("lin", "ms")
    )
    assert isinstance(lin, Segmentation)
    assert isinstance(ms, Segmentation)
    assert (lin.size, lin.crop, lin.stride, lin.ratios, lin.iterations) == (512, 512, 341, (0.5, 2.0), 40_000)
    assert (lin.test_ratios, lin.test_flip, lin.interpolation) == ((1.0,), "no", "bilinear")
    assert (ms.size, ms.crop, ms.stride, ms.ratios) == (640, 640, 320, (1.0, 3.0))
    assert (ms.test_ratios, ms.test_flip) == ((1.0, 1.32, 1.73, 2.28, 3.0), "yes")
    assert round(lin.warmup * lin.iterations) == 1500
    assert (lin.learning_rate, lin.weight_decay, lin.batch_size) == (1e-3, 1e-4, 16)


def test_what_it_cannot_do_is_refused(run: Measure) -> None:
    with pytest.raises(ConfigError, match="crop=64 has no effect with protocol=fast"):
        Segmentation(crop=64)
    with pytest.raises(ConfigError, match="pixels=9 has no effect with protocol=paper"):
        replace(QUICK, pixels=9)
    with pytest.raises(ConfigError, match="stride=25 for windows of crop=24"):
        replace(QUICK, stride=25)
    with pytest.raises(ConfigError, match="augmentation"):
        replace(QUICK, ratios=(2.0, 1.0))
    with pytest.raises(ConfigError, match="'test' alone"):
        run(QUICK, replace(DATA, card=replace(DATA.card, train_split="test")))
    with pytest.raises(NotApplicableError, match="needs a class for every pixel"):
        run(QUICK, replace(DATA, card=replace(DATA.card, target="label")))
