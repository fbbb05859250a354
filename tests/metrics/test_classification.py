import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from ssleval.core import Samples
from ssleval.errors import ContractError
from ssleval.metrics.classification import accuracies, accuracy, classified, top_k_correct
from ssleval.metrics.recorded import describe


@pytest.mark.parametrize("k", [1, 2, 5])
def test_agrees_with_torchmetrics(k: int) -> None:
    scores = torch.rand(200, 9, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 9, (200,), generator=torch.Generator().manual_seed(1))
    want = multiclass_accuracy(scores, target, num_classes=9, top_k=k, average="micro")
    got = top_k_correct(scores.argsort(1, descending=True).numpy(), target.numpy(), k)
    assert got.mean() == pytest.approx(want.item())


def test_k_changes_the_answer() -> None:
    predicted = np.array([[2, 0, 1]])
    outcomes = [top_k_correct(predicted, np.array([0]), k).tolist() for k in (1, 2, 3)]
    assert outcomes == [[False], [True], [True]]


def test_k_of_zero_is_refused() -> None:
    with pytest.raises(ContractError, match="top-0"):
        top_k_correct(np.array([[0]]), np.array([0]), 0)


def test_accuracy_of_many_heads_is_the_metrics() -> None:
    random = np.random.default_rng(0)
    correct, labels = random.random((50, 4)) < 0.6, np.sort(random.integers(0, 3, 50) ** 2)
    for kind, recorded in (("top1", "mean_of"), ("mean_per_class", "mean_per_class_of")):
        metric = accuracy(kind, "right", "@x")
        assert (metric.name, describe(metric.statistic)["name"]) == (f"{kind}@x", recorded)
        expected = [metric.score(Samples([""] * 50, {"right": one, "label": labels})) for one in correct.T]
        assert accuracies(kind, correct, labels) == pytest.approx(expected)


def test_what_is_scored_follows_from_the_kind_of_label() -> None:
    scores = np.array([[0.25, 0.5], [1.0, 0.0]])
    one = classified(scores, np.array([1, 1]))
    assert {name: column.tolist() for name, column in one.items()} == {
        "label": [1, 1], "predicted": [1, 0], "correct": [True, False],
    }  # fmt: skip
    several = np.array([[1, 0], [1, 1]])
    assert classified(scores, several) == {"scores": scores, "targets": several}
