"""Outcomes of classification, item by item, and accuracy over items or over classes."""

from itertools import chain

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse import coo_array, csr_array

from ssleval.core import Metric
from ssleval.errors import ContractError
from ssleval.metrics.calibration import calibration
from ssleval.metrics.stats import mean_of, mean_per_class_of


def top_k_correct(
    predicted: Int[np.ndarray, "n c"], target: Int[np.ndarray, " n"], k: int
) -> Bool[np.ndarray, " n"]:
    """Return whether the target is among the first ``k`` classes of ``predicted``, best first.

    If there are fewer than ``k`` columns, all of them count.

    Raises:
        ContractError: ``k`` is not positive.
    """
    if k < 1:
        raise ContractError(f"top-{k}: k must be at least 1")
    return (predicted[:, :k] == target[:, None]).any(axis=1)


def classified(
    scores: Float[np.ndarray, "n c"], targets: Shaped[np.ndarray, "n ..."]
) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    """Return the columns that the metrics of labels ``[n]`` or of multi-labels ``[n c]`` are made of."""
    if targets.ndim > 1:
        return {"scores": scores, "targets": targets}
    predicted = scores.argmax(axis=1)
    return {"label": targets, "predicted": predicted, "correct": predicted == targets}


def accuracy(kind: str, correct: str, suffix: str = "") -> Metric:
    """Return the metric of a column of right and wrong.

    ``mean_per_class`` averages over the classes in the column ``label``; any other kind is ``top1``.
    """
    if kind == "mean_per_class":
        return Metric(f"{kind}{suffix}", mean_per_class_of(correct, "label"))
    return Metric(f"top1{suffix}", mean_of(correct))


def both_accuracies(kind: str, correct: str, suffix: str = "") -> tuple[Metric, Metric]:
    """Return accuracy over items and over classes (balanced accuracy); the one of ``kind`` leads."""
    other = "top1" if kind == "mean_per_class" else "mean_per_class"
    return accuracy(kind, correct, suffix), accuracy(other, correct, suffix)


def both_by_rules(kind: str) -> tuple[Metric, ...]:
    """Return the accuracy of ``kind`` by both rules of `chosen_by_rules`, the other, and `calibration`."""
    rules = [both_accuracies(kind, f"correct@{rule}", f"@{rule}") for rule in ("heldout", "paper")]
    return *chain.from_iterable(zip(*rules, strict=True)), *calibration("@heldout")


def accuracies(
    kind: str, correct: Bool[np.ndarray, "n heads"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " heads"]:
    """Return the accuracy of every column, of the kinds of `accuracy`."""
    if kind == "mean_per_class":
        return np.mean([correct[labels == label].mean(axis=0) for label in np.unique(labels)], axis=0)
    return correct.mean(axis=0)


def confusion(
    label: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " c"], csr_array]:
    """Return the classes that some item shows or is taken for, and how often each is taken for each.

    Rows are true classes, columns predicted ones. Only cells with items are held, since of ten thousand
    classes all cells are 800 MB.
    """
    classes, places = np.unique(np.concatenate([label, predicted]), return_inverse=True)
    cells, size = (places[: len(label)], places[len(label) :]), len(classes)
    return classes, coo_array((np.ones(len(label), np.int64), cells), (size, size)).tocsr()


def chosen_by_rules(
    kind: str,
    tried: tuple[Shaped[np.ndarray, "k candidates"], Int[np.ndarray, " k"]],
    final: tuple[Shaped[np.ndarray, "n candidates"], Int[np.ndarray, " n"]],
    candidate: str,
) -> dict[str, Shaped[np.ndarray, " n"]]:
    """Return the columns of two candidates, each chosen by its own rule; of equal ones the first.

    ``tried`` are what was `stated` of held-out training images and their labels, which choose ``heldout``;
    ``final`` those of the scored images, which choose ``paper``. ``candidate`` names the columns with their
    numbers. Only the candidate of ``heldout`` gets confidences: the other one knows the scored images.
    """
    outputs, truth = final
    predicted = outputs["class"]
    correct = predicted == truth[:, None]
    held_out = tried[0]["class"] == tried[1][:, None], tried[1]
    columns: dict[str, Shaped[np.ndarray, " n"]] = {"label": truth}
    for rule, outcomes in (("heldout", held_out), ("paper", (correct, truth))):
        place = int(accuracies(kind, *outcomes).argmax())
        columns |= {f"predicted@{rule}": predicted[:, place], f"correct@{rule}": correct[:, place]}
        columns[f"{candidate}@{rule}"] = np.full(len(truth), place, dtype=np.int32)
        if rule == "heldout":
            columns |= {f"{name}@{rule}": outputs[name][:, place] for name in ("confidence", "nll")}
    return columns
