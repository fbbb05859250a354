"""The values of the leading metric for each test item and each class, in a few bytes per item."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ssleval.core import Samples
from ssleval.errors import DataError
from ssleval.metrics.multilabel import average_precisions
from ssleval.metrics.stats import divide
from ssleval.results import Score


@dataclass(frozen=True, slots=True)
class Classes:
    """The metric within each class."""

    labels: Int[np.ndarray, " c"]
    counts: Int[np.ndarray, " c"]
    """Number of items of the class, or of items in which it occurs."""
    values: Float[np.ndarray, " c"]
    """NaN if the class has no value."""


@dataclass(frozen=True, slots=True)
class ItemView:
    """One metric, item by item."""

    values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"] | None
    """None if the metric has no value for single items, as mean average precision."""
    labels: Int[np.ndarray, " n"] | None = None
    predicted: Int[np.ndarray, " n"] | None = None
    classes: Classes | None = None


def item_view(samples: Samples, score: Score) -> ItemView | None:
    """Return the values of a score for each item; None for a statistic that has no such view.

    Raises:
        DataError: the samples lack a column of the statistic.
    """
    view = _VIEWS.get(str(score.statistic.get("name")))
    if view is None:
        return None
    columns: Mapping[str, str] = score.statistic.get("columns", {})
    for column in columns.values():
        if column not in samples.columns:
            raise DataError(f"samples without the column {column!r} that the score is a statistic of")
    return view(samples, **columns)


def columns_of_view(score: Score) -> set[str]:
    """Return the columns that `item_view` reads: those of the statistic, labels and predictions."""
    columns: Mapping[str, str] = score.statistic.get("columns", {})
    return {*columns.values(), "label", *(_predicted(column) for column in columns.values())}


def _predicted(column: str) -> str:
    # The column `predicted@20` belongs to `top1@20`, and `predicted` to `top1`.
    _, at, parameter = column.partition("@")
    return f"predicted{at}{parameter}"


def encode(values: Shaped[np.ndarray, " n"]) -> list[str]:
    """Return ``[type, base64]`` of an array: bits for booleans, else the smallest type that fits."""
    if values.dtype == bool:
        kind, array = "bits", np.packbits(values, bitorder="little")
    else:
        kind = "f4" if values.dtype.kind == "f" else _smallest(values)
        array = values.astype(f"<{kind}")
    return [kind, base64.b64encode(array.tobytes()).decode("ascii")]


def _smallest(values: Int[np.ndarray, " n"]) -> str:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return "u1" if low >= 0 and high < 2**8 else "u2" if low >= 0 and high < 2**16 else "i4"


def _of_mean(samples: Samples, column: str, label: str = "label") -> ItemView:
    values, labels = samples[column], samples.columns.get(label)
    values = values if values.dtype == bool else values.astype(np.float64)
    if not _is_labels(labels):
        return ItemView(values)
    predicted: Any = samples.columns.get(_predicted(column))
    return ItemView(values, labels, predicted if _is_labels(predicted) else None, _by_label(values, labels))


def _of_mean_per_class(samples: Samples, correct: str, label: str) -> ItemView:
    return _of_mean(samples, correct, label)


def _of_ratio(samples: Samples, numerator: str, denominator: str) -> ItemView:
    return ItemView(divide(samples[numerator].astype(np.float64), samples[denominator].astype(np.float64)))


def _of_mean_ratio(samples: Samples, numerator: str, denominator: str) -> ItemView:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    present = below > 0
    ratios = np.where(present, divide(above, below), 0.0)
    per_item = divide(ratios.sum(axis=1), present.sum(axis=1))
    per_class = divide(above.sum(axis=0), below.sum(axis=0))
    classes = Classes(np.arange(len(per_class)), present.sum(axis=0), per_class)
    return ItemView(per_item, classes=classes)


def _of_parts(samples: Samples, numerator: str, denominator: str) -> ItemView:
    return ItemView(_of_mean_ratio(samples, numerator, denominator).values)


def _of_average_precision(samples: Samples, scores: str, targets: str) -> ItemView:
    truth = samples[targets]
    (values,) = average_precisions(samples[scores].astype(np.float64), truth, np.ones((1, len(samples))))
    return ItemView(None, classes=Classes(np.arange(len(values)), (truth > 0).sum(axis=0), values))


_VIEWS: Mapping[str, Callable[..., ItemView]] = {
    "mean_of": _of_mean,
    "mean_per_class_of": _of_mean_per_class,
    "ratio_of": _of_ratio,
    "mean_ratio_of": _of_mean_ratio,
    "mean_over_parts_of": _of_parts,
    "mean_average_precision_of": _of_average_precision,
}


def _is_labels(column: Shaped[np.ndarray, "n ..."] | None) -> bool:
    return column is not None and column.ndim == 1 and column.dtype.kind in "iu"


def _by_label(values: Shaped[np.ndarray, " n"], labels: Any) -> Classes:
    classes, class_of, counts = _places(np.asarray(labels, np.int64).tobytes())
    if values.dtype != bool:
        known = ~np.isnan(values)
        values, counts = np.where(known, values, 0.0), np.bincount(class_of[known], minlength=len(classes))
    sums = np.bincount(class_of, weights=values, minlength=len(classes))
    return Classes(classes, counts, divide(sums, counts))


@lru_cache(maxsize=4)
def _places(labels: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # The models of one board have the same labels, and sorting them costs more than all the rest.
    return np.unique(np.frombuffer(labels, np.int64), return_inverse=True, return_counts=True)
