from dataclasses import replace

import numpy as np
import pytest

from ssleval.core import Context, FeatureTable
from ssleval.errors import ContractError
from ssleval.heads.linear_recipes import RECIPES
from ssleval.heads.probes import fit_linear
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
