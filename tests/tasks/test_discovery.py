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
from ssleval.core.targets import Objects
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.features import FeatureSource
from ssleval.tasks.discovery import Discovery
from tests.tasks.feature_tables import evaluated, same_in_ranks

CARD = BackboneCard("hues", "test", "hues", embed_dim=3, patch_size=4, image_size=16, mean=(0.5, 0.5, 0.5))


class Hues(Backbone):
    """Keys are mean colours of patches, less grey; tokens of the last block are their squares."""

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=1)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        patches = torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1) ** 2
        return Features(patches.mean((1, 2)), tuple(Tokens(patches) for _ in blocks))

    def keys(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 4).permute(0, 2, 3, 1) - 0.5


class Blind(Hues):
    def keys(self, images: Tensor) -> Tensor:
        return Backbone.keys(self, images)


def mask_of(index: int) -> np.ndarray:
    mask = np.zeros((50, 71), np.uint8)
    mask[8 + index : 24 + index, 12:40] = 1
    mask[0, :5] = 255
    return mask


def image_of(index: int, noise: float = 20.0) -> Image.Image:
    colours = np.full((256, 3), (30, 40, 90))
    colours[1] = (240, 200, 30)
    drawn = np.random.default_rng(index).normal(size=(50, 71, 3)) * noise
    return Image.fromarray((colours[mask_of(index)] + drawn).clip(0, 255).astype(np.uint8))


def box_of(index: int) -> np.ndarray:
    return np.array([[60, 0, 71, 9], [12, 8 + index, 40, 24 + index]], np.float64)


TARGETS: dict[str, Callable[[int], Any]] = {"instances": mask_of, "mask": mask_of, "boxes": box_of}


def drawn(target: Any = "instances", count: int = 5, **given: Any) -> Dataset:
    names = ("background", "thing") if target == "mask" else ()
    images = given.get("images", image_of)
    split = Split(
        [f"{i:02d}" for i in range(count)], images, None, "drawn", given.get("of") or TARGETS[target]
    )
    return Dataset(DatasetCard("drawn", target, class_names=names, lengths={"test": count}), lambda _: split)


Measure = Callable[..., tuple[dict[str, float], Samples]]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(dataset: Dataset, **settings: Any) -> tuple[dict[str, float], Samples]:
        context = Context(cache=tmp_path, progress=False)
        task = replace(Discovery(), **settings).resolved(dataset)
        samples = evaluated(task, FeatureSource(Hues(), context), dataset, context)
        return {metric.name: metric.score(samples) for metric in task.metrics}, samples

    return measured


@pytest.mark.parametrize("method", ["tokencut", "lost"])
def test_the_object_is_found_by_box_and_by_mask(run: Measure, method: str) -> None:
    for target in ("instances", "boxes"):
        found, samples = run(drawn(target), method=method)
        assert found["corloc"] == 1
        assert found["overlap"] > 0.75
        assert len(samples) == 5
    found, _ = run(drawn("mask"), method=method)
    assert list(found) == ["max_f", "iou", "accuracy"]
    assert found["iou"] > 0.75
    assert found["accuracy"] > 0.94
    assert run(drawn("instances"), method=method, score="masks")[0] == found


def test_boxes_lie_on_whole_patches_and_end_with_the_image(run: Measure) -> None:
    def bright(_: int) -> Image.Image:
        pixels = np.full((50, 71, 3), (30, 40, 90), np.uint8)
        pixels[37:, 53:] = (240, 200, 30)
        return Image.fromarray(pixels)

    def truth(_: int) -> np.ndarray:
        return np.array([[52, 36, 71, 50]], np.float64)

    found, _ = run(drawn("boxes", 1, images=bright, of=truth), method="lost")
    assert found["overlap"] == 1
    # Seen at half its size, corners are those of patches of twice the size.
    found, _ = run(drawn("boxes", 1, images=bright, of=truth), method="lost", size=36)
    assert 0.6 < found["overlap"] < 1


@pytest.mark.parametrize(
    ("target", "settings", "score"),
    [
        ("instances", {"method": "lost"}, "overlap"),
        ("instances", {"features": "patches"}, "overlap"),
        ("instances", {"size": 48}, "overlap"),
        ("instances", {"size": 48, "interpolation": "nearest"}, "overlap"),
        ("instances", {"threshold": 0.999}, "overlap"),
        ("instances", {"weight": 0.7}, "overlap"),
        ("instances", {"method": "lost", "candidates": 1}, "overlap"),
        ("instances", {"overlap": 0.99}, "corloc"),
        ("mask", {"beta_squared": 3.0}, "max_f"),
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(
    run: Measure, target: str, settings: dict[str, Any], score: str
) -> None:
    data = drawn(target, 8, images=partial(image_of, noise=110.0))
    base = {name: settings[name] for name in ("method", "size") if name in settings and len(settings) > 1}
    before, after = run(data, **base), run(data, **settings)
    assert before[1][score].tolist() != after[1][score].tolist()
    assert run(data, **settings)[1][score].tolist() == after[1][score].tolist()


def test_processes_share_the_images(run: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    same_in_ranks(lambda: run(drawn(count=7), features="patches")[1], monkeypatch)


def test_objects_count_without_crowds_and_to_the_pixel(run: Measure) -> None:
    def with_crowd(index: int) -> Objects:
        boxes, flags = box_of(index), np.zeros(3, bool)
        whole = np.array([[0.0, 0, 71, 50]])
        moved = np.concatenate([boxes + 0.3, whole])
        return Objects((50, 71), moved, np.zeros(3, int), ~flags, np.array([False, False, True]))

    expected = run(drawn("boxes"), method="lost")[1]
    found = run(drawn("objects", of=with_crowd), method="lost")[1]
    # The image as a whole overlaps with anything; difficult objects count.
    np.testing.assert_array_equal(found["overlap"], expected["overlap"])

    def crowds(index: int) -> Objects:
        return with_crowd(index)._replace(crowd=np.full(3, index > 0))

    only = run(drawn("boxes", of=crowds), method="lost")[1]
    assert list(only.ids) == ["00"]


def test_images_without_an_object_do_not_count(run: Measure) -> None:
    def some(index: int) -> np.ndarray:
        return mask_of(index) * (index == 3)

    assert list(run(drawn(of=some))[1].ids) == ["03"]
    assert list(run(drawn("mask", of=some))[1].ids) == ["03"]


def test_what_cannot_be_scored_is_refused(run: Measure) -> None:
    depth = drawn()
    with pytest.raises(NotApplicableError, match="boxes of objects or masks of objects or a class"):
        run(Dataset(replace(depth.card, target="depth"), depth.open))
    with pytest.raises(NotApplicableError, match="has target 'boxes'"):
        run(drawn("boxes"), score="masks")
    stuff = drawn("mask")
    with pytest.raises(NotApplicableError, match="no class 'background'"):
        run(Dataset(replace(stuff.card, class_names=("sky", "thing")), stuff.open))
    with pytest.raises(NotApplicableError, match=r"no keys .*; --set discovery\.features=patches$"):
        FeatureSource(Blind(), Context(progress=False)).check_needs("discovery", Discovery().needs)
    FeatureSource(Blind(), Context(progress=False)).check_needs("x", Discovery(features="patches").needs)

    def wide(_: int) -> Image.Image:
        return Image.new("RGB", (516, 512))

    with pytest.raises(ConfigError, match="16,512 patches, more than 16,384"):
        run(drawn(images=wide))
    for change in ({"threshold": 1.0}, {"weight": 0.0}, {"candidates": 0}, {"overlap": 1.5}):
        with pytest.raises(ConfigError, match=rf"^discovery\.{next(iter(change))}="):
            Discovery(**change)  # pyright: ignore[reportArgumentType]
