from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ssleval.core import BackboneCard, Context, DatasetCard, FeatureTable, Readout
from ssleval.core.backbone import Backbone, Features, Similarity
from ssleval.core.batches import table_rows
from ssleval.errors import ContractError, DataError
from ssleval.heads import zeroshot
from ssleval.heads.linear_recipes import BLOCKS, RECIPES
from ssleval.heads.logistic import fit_path
from ssleval.heads.probes import GridFit, class_places, fit_few, fit_linear, text_classifier
from ssleval.heads.selection import hold_out
from ssleval.tasks.linear import Linear
from tests.tasks.feature_tables import blobs, dataset, evaluated


@pytest.mark.parametrize("count", [60, 200])
def test_the_linear_head_is_the_one_the_linear_task_chooses(count: int) -> None:
    tables = blobs(1.2, train=count, test=150)
    data = dataset(tables)
    task = Linear().resolved(data)
    assert RECIPES["dinov2"].length(count) == (task.iterations, task.batch_size)
    quick = replace(task, iterations=40)
    expected = evaluated(quick, tables, data)
    train, test = (tables.load(request) for request in task.requests(data))
    scores = fit_linear(train, 3, iterations=40, held_out=0.1, context=Context())
    assert scores(test).shape == (150, 3)
    assert scores(test).argmax(1).tolist() == expected["predicted@heldout"].tolist()
    assert 0.4 < (scores(test).argmax(1) == test.targets).mean() < 1


def test_large_sets_get_the_published_number_of_steps() -> None:
    assert RECIPES["dinov2"].length(1_281_167) == (12_500, 1024)


def test_seed_and_held_out_fraction_change_the_head() -> None:
    tables = blobs(1.2, train=200, test=150)
    train, test = (tables.load(request) for request in Linear().requests(dataset(tables)))

    def found(held_out: float = 0.1, seed: int = 0) -> np.ndarray:
        return fit_linear(train, 3, 20, held_out, Context(seed=seed))(test)

    first = found()
    assert np.array_equal(first, found())
    assert not np.array_equal(first, found(seed=1))
    assert not np.array_equal(first, found(held_out=0.7))


def test_features_without_labels_cannot_be_fitted() -> None:
    with pytest.raises(ContractError, match="needs the labels"):
        fit_linear(FeatureTable([], None, {}, np.arange(0)), 2, 0, 0.1, Context())


def table(count: int, seed: int = 0, widths: Sequence[int] = (2,) * 5) -> FeatureTable:
    """Features of three overlapping classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    arrays = {
        readout: (labels[:, None] + random.standard_normal((count, width))).astype(np.float32)
        for readout, width in zip(BLOCKS, widths, strict=False)
    }
    return FeatureTable([str(row) for row in range(count)], labels, arrays, np.arange(count))


def rows_of(table: FeatureTable, rows: np.ndarray) -> FeatureTable:
    arrays = {readout: array[rows] for readout, array in table.arrays.items()}
    return FeatureTable([str(row) for row in rows], None, arrays, rows)


def test_long_tables_are_scored_as_their_parts_are() -> None:
    scores = fit_linear(table(60), 3, 10, 0.2, Context())
    judged = table(4100, seed=1)
    parts = [scores(rows_of(judged, rows)) for rows in np.array_split(np.arange(4100), 5)]
    np.testing.assert_allclose(scores(judged), np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_rows_are_those_of_one_table_then_of_the_next() -> None:
    tables, kept = [table(9, seed, (2, 3)) for seed in (0, 1)], np.array([7, 2, 5, 8])
    whole = [np.concatenate([one[BLOCKS[0]], one[BLOCKS[1]]], axis=1)[kept] for one in tables]
    asked = np.array([5, 0, 7, 3, 0])
    found = table_rows(tables, BLOCKS[:2], kept, "cpu")(asked)
    assert found.dtype == torch.float32
    assert found.tolist() == np.concatenate(whole)[asked].tolist()


@pytest.mark.parametrize(
    ("recipe", "iterations", "warmup", "stair", "stages"),
    [("dinov2", 30, 0, 1, 1), ("dino", 250, 0, 2, 125), ("dino", 50, 0, 1, 50), ("mae", 1805, 200, 1, 1)],
)
def test_epochs_of_the_recipe_become_iterations(
    recipe: str, iterations: int, warmup: int, stair: int, stages: int
) -> None:
    """A stage is an epoch where the recipe changes by epoch, be it of a single iteration."""
    how, data = RECIPES[recipe], table(40)
    fit = GridFit(how, how.readouts, how.rates, iterations, 16, 3, Context())
    assert (fit.training.warmup, fit.training.stair) == (warmup, stair)
    if recipe != "mae":
        held, labels = np.arange(40) % 4 == 0, data.targets
        assert labels is not None
        found = fit.predictions([data], labels, ~held, data, held)
        assert found.shape == (10, stages * len(how.columns([2] * 5)) * len(how.rates))


def test_views_are_further_images() -> None:
    how, data, views = RECIPES["dinov2"], table(40), [table(40, seed) for seed in (1, 2)]
    labels = data.targets
    assert labels is not None
    fit = GridFit(how, BLOCKS, (0.1,), 20, 16, 3, Context())
    joined = FeatureTable(
        [str(row) for row in range(80)],
        None,
        {readout: np.concatenate([view[readout] for view in views]) for readout in BLOCKS},
        np.arange(80),
    )
    (apart,) = fit.heads(views, labels, np.ones(40, bool))
    (together,) = fit.heads([joined], np.concatenate([labels, labels]), np.ones(80, bool))
    for one, other in zip(apart.weights, together.weights, strict=True):
        torch.testing.assert_close(one, other)


def test_strength_is_chosen_on_held_out_images_if_there_are_any() -> None:
    strengths, context = (1e-4, 1e-2, 1.0, 100.0), Context(seed=3)
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = random.standard_normal((3, 8))[labels] + 2 * random.standard_normal((60, 8))
    found = fit_few(features, labels, strengths, 7.0, 0.3, 3, context)
    held = hold_out(labels, 0.3, 3)
    correct = [
        (fit.scores(features[held]).argmax(axis=1) == labels[held]).sum()
        for fit in fit_path(features[~held], labels[~held], strengths, num_classes=3)
    ]
    assert len(set(correct)) > 2
    assert found.strength == strengths[int(np.argmax(correct))]
    alone = fit_few(features[:3], labels[:3], strengths, 7.0, 0.3, 3, context)
    assert alone.strength == 7.0
    # One class of two images is enough.
    assert fit_few(features[:4], labels[:4], strengths, 7.0, 0.3, 3, context).strength in strengths


class Tower(Backbone):
    """Texts are numbers of the axis they lie on."""

    def __init__(self) -> None:
        super().__init__(BackboneCard("m", "test", "m", 3, 4), num_blocks=1)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        raise AssertionError("the model was run")

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(3)[[int(text) for text in texts]]

    def similarity(self) -> Similarity:
        return Similarity(2.0, 1.0)


def test_prompts_classify_by_scaled_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeroshot, "_IMAGES_AT_ONCE", 2)
    pooled = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    given = FeatureTable(list("abcde"), None, {Readout("pooled"): pooled}, np.arange(5))
    found = text_classifier(Tower(), [["2"], ["0", "0"]])(given)
    cosines = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(found, 2 * cosines[:, [2, 0]] + 1, rtol=1e-5)


def test_classes_go_by_name_or_by_number() -> None:
    fitted = DatasetCard("fitted", class_names=("cat", "dog", "2", "boat"))
    assert class_places(DatasetCard("some", class_names=("boat", "cat")), fitted).tolist() == [3, 0]
    assert class_places(DatasetCard("some", class_names=("3", "0", "1")), fitted).tolist() == [3, 0, 1]
    for strange in ("tree", "4"):
        with pytest.raises(DataError, match=f"some: '{strange}' is none of the 4 classes of fitted"):
            class_places(DatasetCard("some", class_names=("cat", strange)), fitted)
