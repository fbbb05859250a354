from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import FeatureTable
from ssleval.errors import ContractError
from ssleval.heads.probes import LinearRecipe, fit_linear
from ssleval.tasks.linear import Linear
from tests.tasks.feature_tables import blobs, dataset, evaluated


@pytest.mark.parametrize("count", [60, 200])
def test_the_linear_head_is_the_one_the_linear_task_chooses(count: int) -> None:
    tables = blobs(1.2, train=count, test=150)
    data = dataset(tables)
    task = Linear().resolved(data)
    recipe = LinearRecipe()
    training = recipe.training(count)
    assert (training.iterations, training.batch_size) == (task.iterations, task.batch_size)
    quick = replace(task, iterations=40)
    expected = evaluated(quick, tables, data)
    train, test = (tables.load(request) for request in task.requests(data))
    scores = fit_linear(train, replace(recipe, iterations=40), num_classes=3, seed=0, device="cpu")
    assert scores(test).shape == (150, 3)
    assert scores(test).argmax(1).tolist() == expected["predicted@heldout"].tolist()
    assert 0.4 < (scores(test).argmax(1) == test.targets).mean() < 1


def test_large_sets_get_the_published_number_of_steps() -> None:
    training = LinearRecipe().training(1_281_167)
    assert (training.iterations, training.batch_size) == (12_500, 1024)


def test_seed_and_held_out_fraction_change_the_head() -> None:
    tables = blobs(1.2, train=200, test=150)
    train, test = (tables.load(request) for request in Linear().requests(dataset(tables)))

    def found(recipe: LinearRecipe, seed: int = 0) -> np.ndarray:
        return fit_linear(train, recipe, num_classes=3, seed=seed, device="cpu")(test)

    first = found(LinearRecipe(20))
    assert np.array_equal(first, found(LinearRecipe(20)))
    assert not np.array_equal(first, found(LinearRecipe(20), seed=1))
    assert not np.array_equal(first, found(LinearRecipe(20, held_out=0.7)))


def test_features_without_labels_cannot_be_fitted() -> None:
    with pytest.raises(ContractError, match="needs the labels"):
        fit_linear(
            FeatureTable([], None, {}, np.arange(0)), LinearRecipe(), num_classes=2, seed=0, device="cpu"
        )
