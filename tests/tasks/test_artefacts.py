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
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource
from ssleval.tasks import artefacts
from ssleval.tasks.artefacts import Artefacts
from tests.tasks.feature_tables import evaluated, same_in_ranks

SMALL = Artefacts(resize=32, crop=32, cut=20.0, largest=0.05)
CARD = BackboneCard("sinks", "test", "sinks", embed_dim=20, patch_size=8, image_size=24)
GRID = 4


class Sinks(Backbone):
    """Tokens are colour and place; in its second block the brightest patch of an image becomes a sink.

    A sink is 10 times as long and has lost what was in it. The final norm gives all tokens length 1.
    """

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=2)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        colours = torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1)
        count, rows, columns, _ = colours.shape
        places = torch.eye(16)[: rows * columns].view(1, rows, columns, 16).expand(count, -1, -1, -1)
        first = torch.cat([colours, places, torch.ones_like(colours[..., :1])], dim=3)
        second = first.clone()
        brightest = colours.sum(3).flatten(1).argmax(1)
        for image, place in enumerate(brightest.tolist()):
            second[image, place // columns, place % columns] = (
                torch.nn.functional.one_hot(torch.tensor(19), 20)
                * 10
                * first[image].norm(dim=2).quantile(0.5)
            )
        tokens = [[first, second][block] for block in blocks]
        unit = [one / one.norm(dim=3, keepdim=True) if norm else one for one in tokens]
        return Features(second.mean((1, 2)), tuple(Tokens(one) for one in unit))


def image_of(index: int) -> Image.Image:
    drawn = np.random.default_rng(index).integers(0, 256, (GRID, GRID, 3)).astype(np.uint8)
    return Image.fromarray(np.kron(drawn, np.ones((8, 8, 1), np.uint8)))


def drawn(count: int = 12) -> Dataset:
    split = Split([f"{index:02d}" for index in range(count)], image_of, None, "drawn")
    return Dataset(DatasetCard("drawn", "none", lengths={"test": count}), lambda _: split)


Measure = Callable[..., tuple[dict[str, float], Samples]]


@pytest.fixture
def run(tmp_path: Path) -> Measure:
    def measured(count: int = 12, seed: int = 0, **settings: Any) -> tuple[dict[str, float], Samples]:
        context = Context(cache=tmp_path, progress=False, seed=seed)
        task = replace(SMALL, **settings)
        samples = evaluated(task, FeatureSource(Sinks(), context), drawn(count), context)
        return {metric.name: metric.score(samples) for metric in task.metrics}, samples

    return measured


def test_sinks_are_counted_before_the_norm_and_gone_after_it(run: Measure) -> None:
    found, samples = run(cut=8.0)
    assert found["outliers@3medians"] == 1 / 16
    assert found["outliers@8"] == 1 / 16
    assert found["outliers_normed"] == 0
    assert run(cut=60.0)[0]["outliers@60"] == 0
    assert run(medians=11.0)[0]["outliers@11medians"] == 0
    # By block, before and after: median, largest, share of outliers.
    by_block = samples["by_block"]
    assert by_block.shape == (12, 2, 2, 3)
    assert (by_block[:, 0, 0, 2] == 0).all()
    assert (by_block[:, 1, 0, 2] == 1 / 16).all()
    assert by_block[:, :, 1, :2] == pytest.approx(1, abs=1e-5)
    assert by_block[:, 1, 0, 1] == pytest.approx(10 * by_block[:, 0, 0, 0], rel=1e-5)


def test_norms_say_where_sinks_are(run: Measure) -> None:
    _, samples = run()
    for index, norms in enumerate(samples["norms"]):
        brightness = np.asarray(image_of(index), int)[::8, ::8].sum(axis=2)
        assert norms.argmax() == brightness.argmax()


def test_sinks_know_neither_their_place_nor_their_pixels(run: Measure) -> None:
    found, samples = run(largest=1 / 16, count=80)
    assert found["position@others"] == 1
    assert found["position@largest"] < 0.3
    assert found["distance@others"] == 0
    assert found["distance@largest"] > 1
    assert found["pixels@others"] < 15
    assert found["pixels@largest"] > 3 * found["pixels@others"]
    assert samples["count@largest"].tolist() == [1] * 80


@pytest.mark.parametrize(
    ("settings", "score"),
    [
        ({"largest": 0.3}, "pixels@largest"),
        ({"strength": 10.0}, "pixels@others"),
        ({"read_among": 4}, "pixels@others"),
        ({"resize": 40}, "pixels@others"),
        ({"crop": 24}, "pixels@others"),
        ({"resize": 40, "interpolation": "nearest"}, "pixels@others"),
        ({"preprocessing": "card"}, "pixels@others"),
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(run: Measure, settings: dict[str, Any], score: str) -> None:
    base = {"resize": 40} if "interpolation" in settings else {}
    assert run(**base)[0][score] != pytest.approx(run(**settings)[0][score], rel=1e-6)


def test_the_seed_draws_what_is_read_and_all_else_is_the_same(run: Measure) -> None:
    first, again, other = (run(seed=seed, read_among=5)[1] for seed in (0, 0, 1))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first.columns)
    assert (first["count@others"] > 0).sum() == 5
    assert ((first["count@others"] > 0) != (other["count@others"] > 0)).any()
    assert first["norms"].tolist() == other["norms"].tolist()


def test_one_image_is_refused_for_nothing_could_be_fitted_to_another(run: Measure) -> None:
    with pytest.raises(DataError, match="needs two images"):
        run(1)
    found, _ = run(2)
    assert all(np.isfinite(value) for value in found.values())


def test_processes_share_the_batches(run: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "IMAGES_AT_ONCE", 2)
    same_in_ranks(lambda: run(7)[1], monkeypatch)


def test_settings_out_of_range_are_refused() -> None:
    for change in ({"cut": 0.0}, {"medians": 0.0}, {"largest": 1.0}, {"strength": 0.0}, {"read_among": 1}):
        with pytest.raises(ConfigError, match=rf"^artefacts\.{next(iter(change))}="):
            Artefacts(**change)  # pyright: ignore[reportArgumentType]
