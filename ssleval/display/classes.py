"""One score class by class, and what classes are taken for, from the samples of a stored result."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array, diags_array

from ssleval.core import DatasetOptions, Metric
from ssleval.core.escape import markdown_cell, markdown_table
from ssleval.core.registry import suggestion
from ssleval.display.report.items import Classes, ItemView, item_view
from ssleval.display.scored import scored_set
from ssleval.errors import NotApplicableError, UnknownNameError
from ssleval.metrics.classification import confusion
from ssleval.metrics.intervals import Estimate, estimates
from ssleval.metrics.stats import divide, known_values, mean_per_class_of
from ssleval.results import Result, read_samples
from ssleval.results.leaderboard import csv_text
from ssleval.results.numbers import shown, with_interval

_MOST_CLASSES = 5_000
"""Rows and columns of a confusion matrix that is written."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of one result. What needs one prediction for each item is None where there is none."""

    label: int
    name: str
    n: int
    """Items of the class, or that show it."""
    value: float | None
    """The score within the class: of a classifier its recall."""
    precision: float | None = None
    """Of the items taken for it, the part that is of it; None if no item is."""
    f1: float | None = None
    taken_for: str = ""
    """Name of the class that most of its other items are taken for."""
    taken: int = 0
    """How many are."""


@dataclass(frozen=True, slots=True)
class ByClass:
    """One score of one result, class by class."""

    metric: str
    unit: str
    classes: tuple[ClassScore, ...]
    """In the order of labels."""
    balanced: Estimate | None
    """Mean recall over classes, which is the balanced accuracy; None if the result is of no classifier."""
    confusion: csr_array | None
    """Items of each class (rows) by the class they were taken for; None without single predictions."""


def by_class(result: Result, metric: str = "", options: DatasetOptions | None = None) -> ByClass:
    """Return a score of a stored result class by class; by default the one that ranks.

    With ``options`` the dataset is opened for the names of classes; else labels are their names.

    Raises:
        UnknownNameError: the result has no such metric.
        NotApplicableError: the metric has no value for single classes.
        DataError: samples cannot be read, or the opened dataset is not the one that was scored.
    """
    metric = metric or result.headline
    if metric not in result.metrics:
        raise UnknownNameError(f"{result.path}: no metric {metric!r}; {suggestion(metric, result.metrics)}")
    samples, score = read_samples(result), result.metrics[metric]
    view = item_view(samples, score)
    if view is None or view.classes is None:
        raise NotApplicableError(f"{result.task} on {result.dataset}: {metric} has no value for one class")
    named = () if options is None else scored_set(result, options, "leave out --names")[0].card.class_names
    balanced = None
    if view.labels is not None:
        correct = next(iter(score.statistic["columns"].values()))
        recalls = Metric("mean_per_class", mean_per_class_of(correct, "label"))
        known = samples.at(known_values(samples[correct])[1])
        balanced = estimates([recalls], known, class_names=named)["mean_per_class"]
    matrix, rows = None, _rows(view.classes, named)
    if _is_by_prediction(view):
        labels, matrix = confusion(view.labels, view.predicted)  # pyright: ignore[reportArgumentType]
        rows = list(_with_predictions([_name(int(label), named) for label in labels], labels, matrix))
    return ByClass(metric, score.unit, tuple(rows), balanced, matrix)


def markdown(found: ByClass) -> str:
    """Return a table, lowest score first, and the balanced accuracy above it."""
    heads = ["class", found.metric, "n"]
    if found.confusion is not None:
        heads += ["precision", "F1", "mostly taken for"]
    rows: list[list[str]] = []
    for row in sorted(found.classes, key=lambda row: (row.value is None, row.value or 0.0)):
        cells = [markdown_cell(row.name), _shown(row.value, found.unit), f"{row.n}"]
        if found.confusion is not None:
            cells += [_shown(row.precision, "fraction"), _shown(row.f1, "fraction")]
            cells += [f"{markdown_cell(row.taken_for)} ({row.taken})" if row.taken else ""]
        rows.append(cells)
    text = markdown_table([*map(markdown_cell, heads)], rows) + "\n"
    if (mean := found.balanced) is not None:
        interval = with_interval(mean.value, (mean.low, mean.high), "fraction")
        note = f" ({mean.note})" if mean.note else ""
        return f"Balanced accuracy (mean recall per class): {interval}{note}\n\n{text}"
    return text


def records(found: ByClass) -> Iterator[dict[str, Any]]:
    """Yield one object a class, for JSON."""
    for row in found.classes:
        yield {"metric": found.metric, "unit": found.unit, **asdict(row)}


def confusion_csv(found: ByClass) -> str:
    """Return the confusion matrix as CSV: a row for every true class, a column for every predicted one.

    Raises:
        NotApplicableError: the samples hold no single prediction for every item.
    """
    if found.confusion is None or len(found.classes) > _MOST_CLASSES:
        why = "no single prediction of a class for every item"
        if found.confusion is not None:
            why = f"{len(found.classes):,} classes, a matrix is written of up to {_MOST_CLASSES:,}"
        raise NotApplicableError(f"{found.metric}: the samples hold {why}")
    names = [row.name for row in found.classes]
    heads = [f"{row.label} {row.name}" if row.name != str(row.label) else row.name for row in found.classes]
    counts = found.confusion.toarray().tolist()
    return csv_text(
        [
            {"true class": name, **dict(zip(heads, row, strict=True))}
            for name, row in zip(names, counts, strict=True)
        ]
    )


def _is_by_prediction(view: ItemView) -> bool:
    """Return whether what is right is what was predicted; of top-5 no single prediction decides."""
    if view.labels is None or view.predicted is None or view.values is None:
        return False
    return np.array_equal(view.values == 1, view.labels == view.predicted)


def _rows(classes: Classes, names: Sequence[str]) -> list[ClassScore]:
    columns = zip(classes.labels.tolist(), classes.counts.tolist(), classes.values.tolist(), strict=True)
    return [ClassScore(label, _name(label, names), int(n), _known(value)) for label, n, value in columns]


def _with_predictions(
    names: Sequence[str], labels: Int[np.ndarray, " c"], matrix: csr_array
) -> Iterator[ClassScore]:
    right = matrix.diagonal().astype(float)
    shown_by, taken = (np.asarray(matrix.sum(axis=axis)) for axis in (1, 0))
    recall, precision, f1 = divide(right, shown_by), divide(right, taken), divide(2 * right, shown_by + taken)
    others = (matrix - diags_array(matrix.diagonal(), dtype=matrix.dtype)).tocsr()
    most: list[int] = np.asarray(others.argmax(axis=1)).tolist()
    for place, name in enumerate(names):
        elsewhere = int(others[place, most[place]])
        yield ClassScore(
            int(labels[place]),
            name,
            int(shown_by[place]),
            _known(recall[place]),
            _known(precision[place]),
            _known(f1[place]),
            names[most[place]] if elsewhere else "",
            elsewhere,
        )


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _shown(value: float | None, unit: str) -> str:
    return "" if value is None else shown(value, unit)
