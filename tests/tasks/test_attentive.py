from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssleval.core import (
    BackboneCard,
    Context,
    FeatureRequest,
    FeatureTable,
    Geometry,
    RandomView,
    Readout,
    Samples,
)
from ssleval.core.task import refuse_dataset
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.heads.selection import hold_out
from ssleval.run.measure import evaluate
from ssleval.tasks.attentive import Attentive
from tests.tasks.feature_tables import CONTEXT, Tables, dataset, evaluated

WIDTH, SIDE = 64, 2
QUICK = {"iterations": 30, "batch_size": 16, "stages": 2}


def grids(noise: float = 1.0, *, train: int = 60, test: int = 90, classes: int = 3, seed: int = 0) -> Tables:
    """One patch of four shows the class, another place in each image; noise alone where it is infinite."""
    random = np.random.default_rng(seed)
    targets = {"train": random.permutation(np.arange(train) % classes), "test": np.arange(test) % classes}

    def features(readout: Readout, split: str) -> np.ndarray:
        own = np.random.default_rng([seed, len(split), readout.norm, len(readout.kind)])
        labels, count = targets[split], len(targets[split])
        centres = np.random.default_rng(7).standard_normal((classes, WIDTH)) * np.isfinite(noise)
        scale = noise if np.isfinite(noise) else 1.0
        found = scale * own.standard_normal((count, SIDE, SIDE, WIDTH))
        if readout.kind == "cls":
            return found[:, 0, 0].astype(np.float32)
        rows, columns = own.integers(0, SIDE, (2, count))
        found[np.arange(count), rows, columns] += 2 * centres[labels]
        return found.astype(np.float32)

    return Tables(targets, features, WIDTH, jitter=1.0)


def scores(task: Attentive, tables: Tables, seed: int = 0, **card: Any) -> tuple[dict[str, float], Samples]:
    data = dataset(tables, **card)
    task = task.resolved(data)
    samples = evaluated(task, tables, data, replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


@pytest.mark.parametrize(
    ("protocol", "rate"), [("ep", 5.0), ("capi", 0.05), ("vjepa", 1e-3)], ids=["ep", "capi", "vjepa"]
)
def test_classes_that_one_patch_shows_are_told_apart(protocol: Any, rate: float) -> None:
    task = Attentive(protocol=protocol, iterations=50, batch_size=32, stages=1, learning_rates=(rate,))
    if protocol != "ep":
        task = replace(task, weight_decays=(0.0,))
    found, _ = scores(task, grids(0.1, test=60))
    assert min(score for name, score in found.items() if name.startswith(("top1", "mean_per_class"))) > 0.95


def test_without_classes_the_paper_rule_flatters_and_the_held_out_rule_does_not() -> None:
    task = Attentive(**{**QUICK, "stages": 10})  # pyright: ignore[reportArgumentType]
    found = [scores(task, grids(np.inf, test=300, seed=seed))[0] for seed in range(3)]
    heldout, paper = (np.mean([one[name] for one in found]) for name in ("top1@heldout", "top1@paper"))
    assert heldout == pytest.approx(1 / 3, abs=0.06)
    assert paper > heldout + 0.01


def test_the_last_stage_alone_leaves_nothing_to_choose() -> None:
    task = Attentive(iterations=30, batch_size=16, stages=1, learning_rates=(1.0,))
    found, samples = scores(task, grids(3.0))
    assert found["top1@heldout"] == found["top1@paper"]
    assert set(samples["candidate@heldout"]) == {0}


@pytest.mark.parametrize("protocol", ["ep", "capi"])
def test_scores_are_those_of_a_fit_on_all_images_or_as_capi_of_the_first(protocol: Any) -> None:
    """What held-out images say moves the scores of ep; those of capi only by the choice."""
    tables = grids(3.0)
    held = hold_out(tables.targets["train"], 0.1, 0)
    turned = Tables(dict(tables.targets), tables.features, WIDTH)

    def features(readout: Readout, split: str) -> np.ndarray:
        found = tables.features(readout, split)
        return np.where(held[:, None, None, None], -found, found) if split == "train" else found

    turned.features = features
    task = Attentive(protocol=protocol, iterations=20, batch_size=16, stages=1)
    one, other = (scores(task, source)[1]["predicted@paper"] for source in (tables, turned))
    assert np.array_equal(one, other) == (protocol == "capi")


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("ep", {"protocol": "vjepa"}),
    ("ep", {"class_token": True}),
    ("ep", {"norm": False}),
    ("ep", {"queries": 4}),
    ("ep", {"learning_rates": (0.01,)}),
    ("capi", {"learning_rates": (1e-3,)}),
    ("capi", {"weight_decays": (0.9,)}),
    ("ep", {"iterations": 5}),
    ("ep", {"batch_size": 3}),
    ("ep", {"stages": 30}),
    ("ep", {"held_out": 0.5}),
    ("ep", {"views": 2}),
]


@pytest.mark.parametrize(("protocol", "change"), CHANGES, ids=str)
def test_every_setting_changes_what_is_predicted(protocol: Any, change: dict[str, Any]) -> None:
    rates = (1.0, 0.1) if protocol == "ep" else (0.1, 0.03)
    base = Attentive(protocol=protocol, learning_rates=rates, **QUICK)  # pyright: ignore[reportArgumentType]
    if protocol == "capi":
        base = replace(base, weight_decays=(0.0,))
    if change.get("protocol") == "vjepa":
        change = {**change, "learning_rates": (1e-3,), "weight_decays": (0.0,), "iterations": 4}
    tables = grids(4.0, test=300)
    one, other = (scores(task, tables)[1] for task in (base, replace(base, **change)))
    assert any(
        not np.array_equal(one[name], other[name]) for name in ("predicted@heldout", "predicted@paper")
    )


def test_the_seed_of_the_views_changes_what_is_predicted() -> None:
    base, tables = Attentive(views=2, learning_rates=(1.0,), **QUICK), grids(4.0, test=300)  # pyright: ignore[reportArgumentType]
    again = [
        scores(replace(base, views_seed=seed), tables)[1]["predicted@paper"].tobytes() for seed in (0, 0, 1)
    ]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize("protocol", ["ep", "capi", "vjepa"])
def test_two_runs_agree_to_the_bit_and_the_seed_decides(protocol: Any) -> None:
    task = Attentive(protocol=protocol, learning_rates=(0.01,), iterations=4, batch_size=16, stages=2)
    task = task if protocol == "ep" else replace(task, weight_decays=(0.01,))
    tables = grids(4.0, test=60)
    again = [scores(task, tables, seed)[1] for seed in (0, 0, 1)]
    for name in again[0].columns:
        assert again[0][name].tobytes() == again[1][name].tobytes()
    assert again[0]["predicted@paper"].tobytes() != again[2]["predicted@paper"].tobytes()


def test_requests_are_the_patches_and_whatever_else_is_attended_to() -> None:
    data = dataset(grids())
    (train, test) = Attentive().requests(data)
    assert (train.split, test.split) == ("train", "test")
    assert train.readouts == (Readout("patches"),)
    assert train.geometry == Geometry(256, "short", 224, "bicubic")
    full = Attentive(class_token=True, norm=False, preprocessing="card", resize=100, crop=96)
    assert full.requests(data)[0].readouts == (Readout("cls", norm=False), Readout("patches", norm=False))
    assert full.requests(data)[0].geometry is None
    _, _, view = Attentive(views=1, views_seed=5, crop=192).requests(data)
    assert view.geometry == RandomView(0, 192, "bicubic", 5)


def test_what_is_left_to_the_protocol_is_recorded() -> None:
    found = asdict(Attentive().resolved(dataset(grids())))
    assert found["learning_rates"] == (1.0, 10.0, 100.0)
    assert (found["iterations"], found["batch_size"], found["stages"]) == (1000, 16, 10)
    assert found["metric"] == "top1"
    capi = Attentive(protocol="capi").resolved(dataset(grids()))
    assert len(capi.learning_rates) * len(capi.weight_decays) == 30
    assert capi.resolved(dataset(grids())) == capi
    assert Attentive(iterations=7).resolved(dataset(grids())).stages == 7


def test_settings_that_the_protocol_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="queries has no effect with protocol=capi"):
        Attentive(protocol="capi", queries=16)
    with pytest.raises(ConfigError, match="weight_decays has no effect with protocol=ep"):
        Attentive(weight_decays=(0.1,))
    with pytest.raises(ConfigError, match="9 stages of 5 iterations"):
        Attentive(stages=9, iterations=5)
    with pytest.raises(ConfigError, match="expected different entries"):
        Attentive(learning_rates=(0.1, 0.1))
    with pytest.raises(NotApplicableError, match="64 channels of a token are no multiple of 48 queries"):
        scores(Attentive(queries=48, **QUICK), grids())  # pyright: ignore[reportArgumentType]
    few = BackboneCard("pixels", "test", "x", 3, 16)
    with pytest.raises(NotApplicableError, match=r"3 channels .* 32 queries; --set attentive.queries=3$"):
        Attentive().for_model(dataset(grids()), few)
    with pytest.raises(NotApplicableError, match=r"of 64, .*protocol=ep --set attentive.queries=3$"):
        Attentive(protocol="capi").for_model(dataset(grids()), few)
    assert Attentive(queries=3).for_model(dataset(grids()), few).queries == 3
    with pytest.raises(NotApplicableError, match="attentive needs one label per image"):
        refuse_dataset("attentive", Attentive.needs, dataset(grids(), target="mask").card)
    with pytest.raises(NotApplicableError, match="scored by mAP"):
        Attentive().resolved(dataset(grids(), metric="map"))


def test_the_convention_of_the_dataset_decides_the_metric() -> None:
    task = Attentive(learning_rates=(1.0,), **QUICK)  # pyright: ignore[reportArgumentType]
    found, samples = scores(task, grids(3.0, test=100), metric="mean_per_class")
    correct, label = samples["correct@heldout"], samples["label"]
    by_hand = np.mean([correct[label == one].mean() for one in range(3)])
    assert found["mean_per_class@heldout"] == pytest.approx(by_hand)
    assert found["top1@heldout"] == correct.mean()
    kinds = ("mean_per_class", "top1")
    assert list(found)[:4] == [f"{kind}@{rule}" for kind in kinds for rule in ("heldout", "paper")]


def test_views_that_lack_an_image_are_refused() -> None:
    class Holey(Tables):
        def load(self, request: FeatureRequest) -> FeatureTable:
            found = super().load(request)
            return replace(found, rows=found.rows + isinstance(request.geometry, RandomView))

    tables = grids()
    with pytest.raises(ContractError, match="lack different images"):
        scores(Attentive(views=1, **QUICK), Holey(tables.targets, tables.features, WIDTH))  # pyright: ignore[reportArgumentType]


def test_a_run_from_images_to_a_result_with_an_interval(tmp_path: Path) -> None:
    context = Context("cpu", cache=tmp_path / "cache", progress=False)
    settings = {"attentive": {**QUICK, "preprocessing": "card", "learning_rates": (1.0,)}}
    (result,) = evaluate(
        "dino_scenes", ["attentive"], dataset="digits", context=context, limit=40, settings=settings
    )
    kinds = ("top1", "mean_per_class")
    accuracies = [f"{kind}@{rule}" for kind in kinds for rule in ("heldout", "paper")]
    assert list(result.metrics) == [*accuracies, "ece@heldout", "adaptive_ece@heldout", "nll@heldout"]
    low, high = result.metrics["top1@heldout"].ci95
    assert low < result.metrics["top1@heldout"].value < high
