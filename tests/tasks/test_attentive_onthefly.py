"""``features=onthefly`` of attentive: the model runs on every batch, and nothing is stored."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, Geometry, RandomView, Samples, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource, FitImages, Live, fitted_on
from ssleval.features.geometry import random_view
from ssleval.run.jobs import Job
from ssleval.run.measure import Plan
from ssleval.run.rehearse import rehearse
from ssleval.run.settings import build_task
from ssleval.tasks.attentive import Attentive
from tests.tasks.feature_tables import evaluated, same_in_ranks

WIDTH, PATCH = 64, 8
QUICK = Attentive(
    features="onthefly",
    resize=32,
    crop=32,
    iterations=12,
    batch_size=16,
    stages=4,
    learning_rates=(3.0, 10.0, 30.0),
)
"""The protocol at a size that tests can afford."""


class Means(Backbone):
    """Patches are fixed mixtures of the mean colour around them, bent by a sine; image by image the same."""

    def __init__(self) -> None:
        super().__init__(BackboneCard("means", "test", "means", WIDTH, PATCH, image_size=32), num_blocks=1)
        self.register_buffer("mixture", torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)))

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        grids = torch.nn.functional.avg_pool2d(images, PATCH).permute(0, 2, 3, 1)
        grid = torch.stack([(one[..., None] * self.mixture).sum(2).sin() for one in grids])  # pyright: ignore[reportArgumentType, reportOperatorIssue]
        return Features(grid.mean((1, 2)), tuple(Tokens(grid, grid[:, 0, 0]) for _ in blocks))


def image_of(name: str, row: int) -> Image.Image:
    """Noise, of a colour by the class in one corner."""
    random = np.random.default_rng([len(name), row])
    pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    pixels[:20, :20] = np.eye(3, dtype=np.uint8)[row % 3] * 50 + random.integers(0, 100, 3, dtype=np.uint8)
    return Image.fromarray(pixels)


COUNTS = {"train": 60, "test": 120}


def opened(name: str) -> Split:
    rows = np.arange(COUNTS[name])
    return Split([f"{name}/{row}" for row in rows], lambda row: image_of(name, row), rows % 3, name)


DATA = Dataset(DatasetCard("drawn", class_names=("a", "b", "c"), lengths=COUNTS), opened)
Measure = Callable[..., Samples]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    cache = tmp_path_factory.mktemp("cache")

    def measured(task: Attentive, dataset: Dataset = DATA, **context: Any) -> Samples:
        source = FeatureSource(Means(), Context(cache=cache, progress=False, device="cpu", **context))
        return evaluated(task, source, dataset, source.context)

    return measured


@pytest.fixture(scope="module")
def plain(run: Measure) -> Samples:
    return run(QUICK)


def same(one: Samples, other: Samples) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one.columns)


@pytest.mark.parametrize(
    "change",
    [{}, {"views": 3}, {"views": 2, "views_seed": 4}, {"class_token": True}, {"preprocessing": "card"}],
    ids=str,
)
@pytest.mark.parametrize("protocol", ["ep", "capi"])
def test_what_is_not_drawn_anew_gives_what_stored_tokens_give(
    run: Measure, protocol: Any, change: dict[str, Any]
) -> None:
    task = replace(QUICK, protocol=protocol, **{"views": 0, **change})
    if protocol == "capi":
        task = replace(task, weight_decays=(0.0, 0.1), learning_rates=(0.01, 0.03))
    assert same(run(task), run(replace(task, features="stored")))


def test_the_classes_of_a_patch_are_learnt_from_crops(run: Measure) -> None:
    task = replace(QUICK, iterations=60, stages=1, learning_rates=(10.0, 30.0))
    assert task.resolved(DATA).metrics[0].score(run(task)) > 0.6


@pytest.mark.parametrize(
    "change",
    [
        {"views": 0},
        {"views": 2},
        {"views_seed": 9},
        {"crop": 24},
        {"resize": 48},
        {"iterations": 13},
        {"batch_size": 5},
        {"stages": 6},
        {"queries": 4},
        {"learning_rates": (0.3,)},
        {"class_token": True},
    ],
    ids=str,
)
def test_every_setting_changes_the_answer(run: Measure, plain: Samples, change: dict[str, Any]) -> None:
    assert not same(plain, run(replace(QUICK, **change)))


def test_what_is_held_out_is_not_learnt_from(run: Measure) -> None:
    task = replace(QUICK, protocol="capi", learning_rates=(0.03,), weight_decays=(0.0,), stages=1)
    assert not same(run(task), run(replace(task, held_out=0.5)))


def test_the_seed_decides_and_batches_of_the_model_do_not(run: Measure, plain: Samples) -> None:
    assert same(plain, run(QUICK, num_workers=0, batch_size=3))
    assert not same(plain, run(QUICK, seed=1))


@pytest.mark.parametrize("context", [{}, {"batch_size": 5, "seed": 3}], ids=str)
def test_processes_share_the_images(
    run: Measure, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    same_in_ranks(lambda: run(QUICK, **context), monkeypatch)


def fit_images(**changes: Any) -> FitImages:
    train, test = opened("train"), opened("test")
    made: dict[str, Any] = {
        "train": train, "rows": np.arange(3, 10), "views": (RandomView(0, 32, seed=2),), "new": True,
        "judged": [(test, np.arange(5))], "geometry": Geometry(32, "square"), "batch_size": 4, "ends": (2, 4),
        "seed": 0, "size": 3,
    }  # fmt: skip
    return FitImages(**{**made, **changes})


def test_every_pass_shows_every_image_once_in_a_view_of_its_own() -> None:
    images = fit_images(judged=[], ends=(7,))
    chunks = [images[place] for place in range(len(images))]
    places = np.concatenate([chunk.places for chunk in chunks])
    shown = torch.cat([chunk.images for chunk in chunks if chunk.images is not None])
    assert sorted(places[:7]) == sorted(places[21:28]) == list(range(7))
    for position, place in enumerate(places.tolist()):
        row = 3 + place
        view = RandomView(position // 7, 32, seed=2)
        assert np.array_equal(shown[position], random_view(view, image_of("train", row), f"train/{row}"))


def test_a_worker_that_begins_anywhere_shows_the_same() -> None:
    images = fit_images()
    whole = [images[place] for place in range(len(images))]
    kinds = [len(chunk.places) for chunk in whole]
    assert kinds == [3, 1, 3, 1, 3, 2] * 2
    files = _Files()
    for place in (7, 1, 11):
        found = pickle.loads(pickle.dumps(fit_images(train=files, judged=[(files, np.arange(5))])))[place]
        assert np.array_equal(found.places, whole[place].places)


class _Files(Split):
    """A split that can be pickled."""

    def __init__(self) -> None:
        super().__init__([f"train/{row}" for row in range(60)], _grey, np.arange(60), "files")


def _grey(row: int) -> Image.Image:
    return Image.new("RGB", (40, 48), (row, row, row))


def test_by_the_bytes_of_tokens_and_the_views_the_origin_is_chosen() -> None:
    card = Means().card

    def chosen(images: int, **settings: Any) -> tuple[object, object]:
        data = replace(DATA, card=replace(DATA.card, lengths={"train": images, "test": images}))
        task = Attentive(resize=32, crop=32, **settings).resolved(data).for_model(data, card)
        assert task.for_model(data, card) == task
        return task.features, task.views

    most = 64_000_000_000 // (16 * WIDTH * 2) // 2
    assert chosen(most) == ("stored", 0)
    assert chosen(most + 1) == ("onthefly", "new")
    assert chosen(most, views=1) == ("onthefly", 1)
    assert chosen(most * 2 // 3, views=1) == ("stored", 1)
    assert chosen(60, views="new") == ("onthefly", "new")
    assert chosen(most + 1, features="stored") == ("stored", 0)
    assert chosen(60, features="onthefly", views=0) == ("onthefly", 0)


def test_results_of_stored_tokens_record_what_they_always_did() -> None:
    stored, drawn = (
        replace(QUICK, features=features).resolved(DATA).for_model(DATA, Means().card).recorded()
        for features in ("stored", "onthefly")
    )
    assert "features" not in stored
    assert stored["views"] == 0
    assert (drawn["features"], drawn["views"]) == ("onthefly", "new")


def test_views_without_end_are_not_stored() -> None:
    with pytest.raises(ConfigError, match=r"views=new are not stored; --set attentive.features=onthefly"):
        Attentive(features="stored", views="new")
    with pytest.raises(ConfigError, match=r"attentive.views=fresh: expected a number or auto or new"):
        build_task("attentive", {"views": "fresh"})
    assert build_task("attentive", {"views": "4"}) == Attentive(views=4)


def test_an_image_that_cannot_be_decoded_is_named(run: Measure) -> None:
    def broken(row: int) -> Image.Image:
        if row == 7:
            raise DataError("train/7: cut off")
        return image_of("train", row)

    def holey(name: str) -> Split:
        return replace(opened(name), image=broken) if name == "train" else opened(name)

    with pytest.raises(DataError, match="train/7: cut off"):
        run(QUICK, replace(DATA, open=holey))


def test_an_interruption_says_what_is_lost() -> None:
    live = Live(Means().eval(), Context("cpu", progress=False, num_workers=0))

    def fit(read: Any) -> None:
        images = fit_images()
        read(images[0].places)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        fitted_on(live, "crops of drawn", fit_images(), QUICK.tokens, fit)
    assert stop.value.__notes__ == ["crops of drawn: 3 images of a fit that keeps nothing; it begins anew"]


def test_its_price_counts_every_batch_of_both_fits_and_every_stage(tmp_path: Path) -> None:
    task = replace(QUICK, iterations=40, stages=4).resolved(DATA).for_model(DATA, Means().card)
    assert isinstance(task, Attentive)
    source = FeatureSource(Means(), Context("cpu", cache=tmp_path, progress=False, num_workers=0))
    priced = rehearse(Plan(Job("attentive", task, "drawn", DATA), task.requests(DATA), (), {}, ""), source)
    held = 6
    assert priced.images == pytest.approx(2 * 40 * 16 + 4 * (held + COUNTS["test"]), rel=0.35)
