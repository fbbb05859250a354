from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
from ssleval.tasks.attention import Attention, enlarged
from tests.tasks.feature_tables import evaluated, same_in_ranks

SMALL = Attention(size=64)
CARD = BackboneCard("looker", "test", "looker", embed_dim=3, patch_size=4, image_size=16)


class Looker(Backbone):
    """Looks at red with one head, at green with another, at everything with the third."""

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=1)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1)
        return Features(patches.mean((1, 2)), tuple(Tokens(patches) for _ in blocks))

    def attention(self, images: Tensor) -> Tensor:
        looks = torch.nn.functional.avg_pool2d(images, 4)[:, :2].pow(4)
        heads = torch.cat([looks, torch.ones_like(looks[:, :1])], dim=1)
        return heads / heads.sum((2, 3), keepdim=True)


class Blind(Looker):
    def attention(self, images: Tensor) -> Tensor:
        return Backbone.attention(self, images)


def mask_of(index: int) -> np.ndarray:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[10 + index : 34 + index, 12:42] = 1
    if index % 2:
        mask[30:60, 60 - index : 90] = 2
    mask[0] = 255
    return mask


def image_of(index: int, noise: float = 25.0) -> Image.Image:
    colours = np.zeros((256, 3))
    colours[0], colours[1], colours[2] = (40, 60, 90), (240, 20, 60), (30, 230, 10)
    drawn = np.random.default_rng(index).normal(size=(64, 96, 3)) * noise
    return Image.fromarray((colours[mask_of(index)] + drawn).clip(0, 255).astype(np.uint8))


def drawn(
    count: int = 5,
    target: Any = "instances",
    masks: Callable[[int], Any] = mask_of,
    images: Callable[[int], Image.Image] = image_of,
) -> Dataset:
    names = ("background", "red", "green") if target == "mask" else ()
    split = Split([f"{index:02d}" for index in range(count)], images, None, "drawn", masks)
    card = DatasetCard("drawn", target, class_names=names, lengths={"test": count})
    return Dataset(card, lambda _: split)


Measure = Callable[..., Samples]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(dataset: Dataset, batch_size: int = 0, **settings: Any) -> Samples:
        context = Context(cache=tmp_path, progress=False, batch_size=batch_size)
        source = FeatureSource(Looker(), context)
        task = replace(SMALL, **settings)
        return evaluated(task, source, dataset, context)

    return measured


def test_the_best_head_of_every_object_counts(run: Measure) -> None:
    samples = run(drawn(), mass=0.9)
    assert list(samples.ids) == ["00", "01", "02", "03", "04"]
    assert samples["objects"].tolist() == [1, 2, 1, 2, 1]
    assert (samples["jaccard"] > 0.7).all()
    image, objects = (metric.score(samples) for metric in SMALL.metrics)
    assert image == pytest.approx(samples["jaccard"].mean())
    assert objects == pytest.approx(samples["jaccard_sum"].sum() / 7)
    assert image != objects


def test_processes_share_the_batches(run: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    same_in_ranks(lambda: run(drawn(7), batch_size=2), monkeypatch)


def test_classes_of_a_mask_are_objects(run: Measure) -> None:
    assert run(drawn(target="mask"))["jaccard"].tolist() == run(drawn())["jaccard"].tolist()


@pytest.mark.parametrize("settings", [{"size": 32}, {"interpolation": "nearest"}, {"mass": 0.5}], ids=str)
def test_every_setting_changes_the_answer(run: Measure, settings: dict[str, Any]) -> None:
    noisy = drawn(images=partial(image_of, noise=150.0))
    before, after = run(noisy), run(noisy, **settings)
    assert before["jaccard"].tolist() != after["jaccard"].tolist()
    assert run(noisy, batch_size=2)["jaccard"].tolist() == before["jaccard"].tolist()


def test_images_without_an_object_do_not_count(run: Measure) -> None:
    def some(index: int) -> np.ndarray:
        return mask_of(index) if index == 3 else np.where(mask_of(index) == 255, 255, 0).astype(np.uint8)

    assert list(run(drawn(masks=some)).ids) == ["03"]
    with pytest.raises(DataError, match="no image has an object"):
        run(drawn(count=2, masks=some))


def test_what_has_no_objects_or_no_attention_is_refused(run: Measure) -> None:
    with pytest.raises(NotApplicableError, match="has target 'depth'"):
        run(drawn(target="depth"))
    everything = drawn(target="mask")
    stuff = Dataset(replace(everything.card, class_names=("sky", "red", "green")), everything.open)
    with pytest.raises(NotApplicableError, match="no class 'background'"):
        run(stuff)
    with pytest.raises(NotApplicableError, match="no class-token attention"):
        FeatureSource(Blind(), Context(progress=False)).check_needs("attention", SMALL.needs)


def test_settings_out_of_range_are_refused(run: Measure) -> None:
    with pytest.raises(ConfigError, match=r"mass=1\.0: expected a number < 1"):
        Attention(mass=1.0)
    with pytest.raises(ConfigError, match="size=3 holds no patch of 4"):
        run(drawn(), size=3)


def test_patches_are_enlarged_as_by_the_nearest_pixel() -> None:
    heads = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    for head, ours in zip(heads, enlarged(heads, (33, 50)), strict=True):
        pixels = Image.fromarray(head.numpy().astype(np.uint8) * 255)
        assert np.array_equal(ours, np.array(pixels.resize((50, 33), Image.Resampling.NEAREST)) > 0)
