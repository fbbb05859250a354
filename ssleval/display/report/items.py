"""What the leading metric says of each test item and of each class, in a few bytes an item."""

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
from ssleval.metrics.paired import right_or_wrong
from ssleval.results import Score


@dataclass(frozen=True, slots=True)
class Classes:
    """The metric within each class."""

    labels: Int[np.ndarray, " c"]
    counts: Int[np.ndarray, " c"]
    """Items of the class, or items in which it occurs."""
    values: Float[np.ndarray, " c"]
    """NaN where the class has no value."""


@dataclass(frozen=True, slots=True)
class ItemView:
    """One metric, item by item."""

    values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"] | None
    """None where the metric has no value for one item, as with a mean average precision."""
    labels: Int[np.ndarray, " n"] | None
    predicted: Int[np.ndarray, " n"] | None
    classes: Classes | None

    @property
    def is_right_or_wrong(self) -> bool:
        """Whether every item has the value 0 or 1."""
        return self.values is not None and bool(right_or_wrong(self.values))


def item_view(samples: Samples, score: Score) -> ItemView | None:
    """Return what a score says of each of its items; None for a statistic that has no such view.

    Raises:
        DataError: the samples lack a column that the score is a statistic of.
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
    """Return the columns that a score is a statistic of, and those that `item_view` shows with it."""
    columns: Mapping[str, str] = score.statistic.get("columns", {})
    return {*columns.values(), "label", *(_predicted(column) for column in columns.values())}


def _predicted(column: str) -> str:
    # `top1@20` stands beside `predicted@20`, `top1` beside `predicted`.
    _, at, parameter = column.partition("@")
    return f"predicted{at}{parameter}"


def encode_labels(labels: Int[np.ndarray, " n"]) -> list[str]:
    """Return what `encode` does, the same object for labels that it has just seen."""
    return _encoded(labels.tobytes(), labels.dtype.str)


@lru_cache(maxsize=4)
def _encoded(labels: bytes, kind: str) -> list[str]:
    return encode(np.frombuffer(labels, kind))


def encode(values: Shaped[np.ndarray, " n"]) -> list[str]:
    """Return ``[type, base64]`` of an array: bits for booleans, else the smallest type that holds it."""
    if values.dtype == bool:
        return ["bits", _base64(np.packbits(values, bitorder="little"))]
    if values.dtype.kind == "f":
        return ["f4", _base64(values.astype("<f4"))]
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    kind = "u1" if low >= 0 and high < 2**8 else "u2" if low >= 0 and high < 2**16 else "i4"
    return [kind, _base64(values.astype(f"<{kind}"))]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _of_mean(samples: Samples, column: str) -> ItemView:
    return _labelled(samples, samples[column], samples.columns.get("label"), column)


def _of_mean_per_class(samples: Samples, correct: str, label: str) -> ItemView:
    return _labelled(samples, samples[correct], samples[label], correct)


def _of_ratio(samples: Samples, numerator: str, denominator: str) -> ItemView:
    return ItemView(_divide(samples[numerator], samples[denominator]), None, None, None)


def _of_mean_ratio(samples: Samples, numerator: str, denominator: str) -> ItemView:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    present = below > 0
    ratios = np.where(present, _divide(above, below), 0.0)
    per_item = _divide(ratios.sum(axis=1), present.sum(axis=1))
    whole = _divide(above.sum(axis=0), below.sum(axis=0))
    return ItemView(per_item, None, None, Classes(np.arange(len(whole)), present.sum(axis=0), whole))


def _of_average_precision(samples: Samples, scores: str, targets: str) -> ItemView:
    has = samples[targets].astype(bool)
    (found,) = average_precisions(samples[scores].astype(np.float64), has, np.ones((1, len(samples))))
    return ItemView(None, None, None, Classes(np.arange(len(found)), has.sum(axis=0), found))


_VIEWS: Mapping[str, Callable[..., ItemView]] = {
    "mean_of": _of_mean,
    "mean_per_class_of": _of_mean_per_class,
    "ratio_of": _of_ratio,
    "mean_ratio_of": _of_mean_ratio,
    "mean_average_precision_of": _of_average_precision,
}


def _labelled(
    samples: Samples,
    values: Shaped[np.ndarray, " n"],
    labels: Shaped[np.ndarray, "n ..."] | None,
    column: str,
) -> ItemView:
    values = values if values.dtype == bool else values.astype(np.float64)
    if not _is_labels(labels):
        return ItemView(values, None, None, None)
    predicted: Any = samples.columns.get(_predicted(column))
    return ItemView(values, labels, predicted if _is_labels(predicted) else None, _by_label(values, labels))


def _is_labels(column: Shaped[np.ndarray, "n ..."] | None) -> bool:
    return column is not None and column.ndim == 1 and column.dtype.kind in "iu"


def _by_label(values: Shaped[np.ndarray, " n"], labels: Any) -> Classes:
    found, place, counts = _places(np.asarray(labels, np.int64).tobytes())
    if values.dtype != bool:
        known = ~np.isnan(values)
        values, counts = np.where(known, values, 0.0), np.bincount(place[known], minlength=len(found))
    sums = np.bincount(place, weights=values, minlength=len(found))
    return Classes(found, counts, _divide(sums, counts))


@lru_cache(maxsize=4)
def _places(
    labels: bytes,
) -> tuple[Int[np.ndarray, " c"], Int[np.ndarray, " n"], Int[np.ndarray, " c"]]:
    # The models of one board have the same labels; sorting them is dearer than all the rest.
    return np.unique(np.frombuffer(labels, np.int64), return_inverse=True, return_counts=True)


def _divide(above: np.ndarray, below: np.ndarray) -> Float[np.ndarray, "..."]:
    above, below = above.astype(np.float64), below.astype(np.float64)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
