from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssleval.core import FeatureRequest, FeatureTable, Geometry, RandomView, Readout, Samples
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.heads.linear_recipes import RECIPES
from ssleval.tasks.linear import Linear
from tests.tasks.feature_tables import CONTEXT, Tables, blobs, dataset, evaluated

QUICK = Linear(iterations=60, batch_size=16)


def scores(task: Linear, tables: Tables, seed: int = 0) -> tuple[dict[str, float], Samples]:
    data = dataset(tables)
    task = task.resolved(data)
    samples = evaluated(task, tables, data, replace(CONTEXT, seed=seed))
    return {metric.name: metric.score(samples) for metric in task.metrics}, samples


@pytest.mark.parametrize("inputs", ["blocks", "pooled"])
@pytest.mark.parametrize("recipe", ["dinov2", "dino", "mae"])
def test_separable_classes_are_separated(recipe: str, inputs: str) -> None:
    task = Linear(recipe=recipe, inputs=inputs, iterations=400, batch_size=60, learning_rates=(5.0,))  # pyright: ignore[reportArgumentType]
    found, _ = scores(task, blobs(0.1))
    assert {score for name, score in found.items() if name.startswith(("top1", "mean_per_class"))} == {1.0}


def test_without_classes_the_paper_rule_flatters_and_the_held_out_rule_does_not() -> None:
    found = [scores(QUICK, blobs(np.inf, test=300, seed=seed))[0] for seed in range(3)]
    heldout, paper = (np.mean([one[name] for one in found]) for name in ("top1@heldout", "top1@paper"))
    assert heldout == pytest.approx(1 / 3, abs=0.06)
    assert paper > heldout + 0.01


def test_the_grid_is_four_inputs_by_thirteen_rates() -> None:
    _, samples = scores(QUICK, blobs(np.inf, test=300))
    assert 0 <= samples["head@paper"][0] < 52
    assert QUICK.resolved(dataset(blobs())).learning_rates[:3] == (1e-5, 2e-5, 5e-5)
    (request, _) = QUICK.requests(dataset(blobs()))
    assert [str(one) for one in request.readouts] == ["cls[-4]", "cls[-3]", "cls[-2]", "cls[-1]", "mean[-1]"]


def given(blocks: int, *, class_token: bool = True) -> Callable[[Readout], bool]:
    """Return what a model of so many blocks says it has."""

    def gives(readout: Readout) -> bool:
        return readout.block >= -blocks and (class_token or readout.kind != "cls")

    return gives


@pytest.mark.parametrize(
    ("recipe", "gives", "inputs", "heads"),
    [
        ("dinov2", given(12), "blocks", 4),
        ("dinov2", given(3), "blocks3", 4),
        ("dinov2", given(2), "blocks2", 4),
        ("dinov2", given(1), "blocks1", 2),
        ("dinov2", given(1, class_token=False), "pooled", 1),
        ("dino", given(2), "blocks2", 1),
        ("mae", given(1), "blocks", 1),
        ("mae", given(12, class_token=False), "pooled", 1),
    ],
)
def test_the_grid_takes_the_blocks_that_a_model_has(
    recipe: str, gives: Callable[[Readout], bool], inputs: str, heads: int
) -> None:
    task = Linear(recipe=recipe).suited(gives)  # pyright: ignore[reportArgumentType]
    assert task.inputs == inputs
    (train, _) = task.requests(dataset(blobs()))
    assert all(map(gives, train.readouts))
    columns = RECIPES[recipe].columns([8] * len(train.readouts))
    assert len(set(columns)) == len(columns) == heads


def test_two_blocks_are_one_or_both_without_and_with_the_mean_patch() -> None:
    assert RECIPES["dinov2"].columns([5, 5, 5]) == ((5, 10), (5, 15), (0, 10), (0, 15))
    assert RECIPES["dinov2"].columns([5, 5]) == ((0, 5), (0, 10))


def test_what_was_asked_for_is_not_changed_to_suit_a_model() -> None:
    assert Linear(inputs="blocks3").suited(given(2)) == Linear(inputs="blocks3")
    with pytest.raises(ConfigError, match="no effect with recipe=mae"):
        Linear(recipe="mae", inputs="blocks2")


@pytest.mark.parametrize(
    ("informed", "head"), [("cls[-1]", range(1)), ("mean[-1]", range(1, 2)), ("cls[-4]", range(2, 3))]
)
def test_the_head_that_sees_the_informed_readout_is_chosen(informed: str, head: range) -> None:
    classes, noise = blobs(0.1), blobs(np.inf)

    def features(readout: Readout, split: str) -> np.ndarray:
        return (classes if str(readout) == informed else noise).features(readout, split)

    mixed = Tables(classes.targets, features)
    task = Linear(iterations=100, batch_size=16, learning_rates=(1.0,))
    found, samples = scores(task, mixed)
    assert found["top1@heldout"] > 0.9
    assert int(samples["head@heldout"][0]) in head


@pytest.mark.parametrize(("width", "chosen"), [(384, "cls[-4]"), (768, "mean[-1]")])
def test_dino_takes_four_blocks_of_a_small_model_and_the_mean_patch_of_a_base_one(
    width: int, chosen: str
) -> None:
    classes, noise = blobs(0.3, width=width), blobs(np.inf, width=width)

    def features(readout: Readout, split: str) -> np.ndarray:
        return (classes if str(readout) == chosen else noise).features(readout, split)

    task = Linear(recipe="dino", iterations=300, batch_size=16, learning_rates=(1.0,))
    found, _ = scores(task, Tables(classes.targets, features, width=width))
    assert found["top1@heldout"] > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "mae"},
        {"recipe": "dino"},
        {"inputs": "pooled"},
        {"inputs": "blocks1"},
        {"learning_rates": (0.1,)},
        {"iterations": 5},
        {"batch_size": 3},
        {"held_out": 0.5},
        {"views": 2},
    ],
    ids=str,
)
def test_every_setting_changes_what_is_predicted(change: dict[str, object]) -> None:
    base = Linear(iterations=30, batch_size=16, learning_rates=(1.0, 0.5, 0.2, 0.1, 0.01))
    tables = blobs(2.0, test=300)
    _, one = scores(base, tables)
    _, other = scores(replace(base, **change), tables)  # pyright: ignore[reportArgumentType]
    assert any(
        not np.array_equal(one[column], other[column]) for column in ("predicted@heldout", "predicted@paper")
    )


def test_the_seed_of_the_views_changes_what_is_predicted() -> None:
    base, tables = Linear(iterations=30, batch_size=16, learning_rates=(1.0,), views=2), blobs(2.0, test=300)
    again = [
        scores(replace(base, views_seed=seed), tables)[1]["predicted@heldout"].tobytes() for seed in (0, 0, 1)
    ]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize(
    ("recipe", "interpolation"), [("dinov2", "bicubic"), ("dino", "bilinear"), ("mae", "bicubic")]
)
def test_views_are_random_crops_of_the_training_split(recipe: str, interpolation: str) -> None:
    task = Linear(recipe=recipe, views=3, views_seed=5, crop=192)  # pyright: ignore[reportArgumentType]
    requests = task.requests(dataset(blobs()))
    assert [(one.split, one.geometry) for one in requests] == [
        ("train", Geometry(256, "short", 192, "bicubic")),
        ("test", Geometry(256, "short", 192, "bicubic")),
        *(("train", RandomView(index, 192, interpolation, 5)) for index in range(3)),  # pyright: ignore[reportArgumentType]
    ]


def test_heads_are_fitted_on_the_views_of_their_own_images() -> None:
    tables = blobs(0.1)

    class Unseen(Tables):
        """Training images as they are say nothing, their views do."""

        def load(self, request: FeatureRequest) -> FeatureTable:
            found = super().load(request)
            if request.split == "train" and not isinstance(request.geometry, RandomView):
                arrays = {readout: array[::-1] for readout, array in found.arrays.items()}
                return replace(found, arrays=arrays)
            return found

    hidden = Unseen(tables.targets, tables.features)
    task = Linear(iterations=200, batch_size=60, learning_rates=(5.0,))
    assert scores(task, hidden)[0]["top1@paper"] < 0.9
    assert scores(replace(task, views=2), hidden)[0]["top1@paper"] == 1.0


def test_views_that_lack_an_image_are_refused() -> None:
    class Holey(Tables):
        def load(self, request: FeatureRequest) -> FeatureTable:
            found = super().load(request)
            return replace(found, rows=found.rows + isinstance(request.geometry, RandomView))

    tables = blobs()
    with pytest.raises(ContractError, match="lack different images"):
        scores(replace(QUICK, views=1), Holey(tables.targets, tables.features))


def test_the_seed_decides_and_nothing_else() -> None:
    tables = blobs(2.0, test=300)
    again = [scores(QUICK, tables, seed)[1]["predicted@heldout"] for seed in (0, 0, 1)]
    assert np.array_equal(again[0], again[1])
    assert not np.array_equal(again[0], again[2])


@pytest.mark.parametrize(
    ("recipe", "count", "iterations", "batch_size"),
    [
        ("dinov2", 1_281_167, 12_500, 1024),
        ("dinov2", 1782, 500, 128),
        ("dino", 1_281_167, 125_113, 1024),
        ("mae", 1_281_167, 7_037, 16_384),
        ("mae", 1782, 2_000, 1024),
    ],
)
def test_length_and_batch_follow_from_the_training_set(
    recipe: str, count: int, iterations: int, batch_size: int
) -> None:
    data = dataset(blobs(), lengths={"train": count, "test": 1})
    task = Linear(recipe=recipe).resolved(data)  # pyright: ignore[reportArgumentType]
    assert (task.iterations, task.batch_size) == (iterations, batch_size)
    assert task.resolved(data) == task


def test_the_metric_is_the_one_of_the_card() -> None:
    tables = blobs(1.5)
    tables.targets["test"][:] = np.sort(np.arange(90) % 9 // 7)
    data = dataset(tables, metric="mean_per_class", class_names=("a", "b", "c"))
    task = QUICK.resolved(data)
    samples = evaluated(task, tables, data)
    labels, correct = samples["label"], samples["correct@heldout"]
    expected = np.mean([correct[labels == label].mean() for label in np.unique(labels)])
    names = [f"{kind}@{rule}" for kind in ("mean_per_class", "top1") for rule in ("heldout", "paper")]
    assert [metric.name for metric in task.metrics][:4] == names
    assert task.metrics[0].score(samples) == pytest.approx(expected)


def test_geometry_is_the_protocols_or_the_cards() -> None:
    def geometry(task: Linear) -> object:
        requests: tuple[FeatureRequest, ...] = task.requests(dataset(blobs()))
        return requests[0].geometry

    assert geometry(Linear()) == Geometry(256, "short", 224, "bicubic")
    assert geometry(Linear(resize=300, crop=280, interpolation="lanczos")) == Geometry(
        300, "short", 280, "lanczos"
    )
    assert geometry(Linear(preprocessing="card")) is None


def test_what_has_no_single_label_is_not_applicable() -> None:
    with pytest.raises(NotApplicableError, match="one label"):
        evaluated(Linear(), blobs(), dataset(blobs(), target="multilabel"))
    with pytest.raises(NotApplicableError, match="logreg"):
        Linear().resolved(dataset(blobs(), metric="map"))


def test_impossible_settings_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"iterations": -1},
        {"batch_size": -1},
        {"learning_rates": (0.1, 0.0)},
        {"held_out": 1.0},
        {"views": -1},
    ]
    for setting in wrong:
        with pytest.raises(ConfigError, match=f"^linear.{next(iter(setting))}="):
            Linear(**setting)
    with pytest.raises(ConfigError, match="views=2 need preprocessing=protocol"):
        Linear(views=2, preprocessing="card").requests(dataset(blobs()))
    with pytest.raises(ConfigError, match="one split"):
        evaluated(Linear(), blobs(), dataset(blobs(), test_split="train"))
