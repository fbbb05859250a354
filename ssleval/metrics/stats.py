"""Statistics of samples: means and ratios of sums.

A `Statistic` returns a score for each row of item weights. To leave items out is to give them the weight 0,
so that a thousand such scores are a few matrix products.
"""

from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Real, Shaped

from ssleval.core import Samples, Statistic, statistics

Weights: TypeAlias = Float[np.ndarray, "r n"]
"""A row of item weights for each of r scores."""
Scores: TypeAlias = Float[np.ndarray, " r"]


# Statistics ---------------------------------------------------------------------------------------


@statistics.register("mean_of")
def mean_of(column: str) -> Statistic:
    """Return the statistic that averages a column ``[n]``; NaN rows are left out."""
    return partial(_mean, column=column)


@statistics.register("mean_over_fits_of")
def mean_over_fits_of(scores: str) -> Statistic:
    """Return the statistic that averages ``scores [n s]`` over items and over s fits, which were drawn too.

    Its interval is over both. An item with a NaN is left out.
    """
    return partial(_mean_over_fits, scores=scores)


@statistics.register("ratio_of")
def ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides the sum of one column ``[n]`` by that of another."""
    return partial(_ratio, numerator=numerator, denominator=denominator)


@statistics.register("mean_ratio_of")
def mean_ratio_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic that divides sums over items class by class, then averages the classes.

    Columns are ``[n c]``; with intersections and unions it is the mean IoU of a split. A class whose
    denominator is 0 over the items drawn is left out.
    """
    return partial(_mean_ratio, numerator=numerator, denominator=denominator)


@statistics.register("mean_over_parts_of")
def mean_over_parts_of(numerator: str, denominator: str) -> Statistic:
    """Return the statistic of `mean_ratio_of` for parts that are no classes, such as domains."""
    return partial(_mean_over_parts, numerator=numerator, denominator=denominator)


@statistics.register("mean_per_class_of")
def mean_per_class_of(correct: str, label: str) -> Statistic:
    """Return the statistic that averages ``correct [n]`` within each ``label [n]``, then over labels.

    A class without items in the draw is left out. DINOv2's metric (torchmetrics 0.10.3, ``average="macro"``)
    counts it 0; recent torchmetrics do so where the class is predicted.
    """
    return partial(_mean_per_class, correct=correct, label=label)


def _mean(samples: Samples, weights: Weights, *, column: str) -> Scores:
    values = samples[column].astype(np.float64)
    if samples[column].dtype.kind in "biu":
        return divide(weights @ values, weights.sum(axis=1))
    known = ~np.isnan(values)
    return divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def _mean_over_fits(samples: Samples, weights: Weights, *, scores: str) -> Scores:
    values, known = known_values(samples[scores].mean(axis=1))
    return divide(weights @ values, weights @ known.astype(np.float64))


def _ratio(samples: Samples, weights: Weights, *, numerator: str, denominator: str) -> Scores:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return divide(weights @ above, weights @ below)


def _mean_ratio(samples: Samples, weights: Weights, *, numerator: str, denominator: str) -> Scores:
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return _mean_over_classes(weights @ above, weights @ below)


def _mean_over_parts(samples: Samples, weights: Weights, *, numerator: str, denominator: str) -> Scores:
    return _mean_ratio(samples, weights, numerator=numerator, denominator=denominator)


def _mean_per_class(samples: Samples, weights: Weights, *, correct: str, label: str) -> Scores:
    # Summing runs of sorted labels needs no [n c] one-hot matrix, which for ImageNet would take 400 MB.
    order = np.argsort(samples[label], kind="stable")
    _, starts = np.unique(samples[label][order], return_index=True)
    drawn = weights[:, order]
    right = np.add.reduceat(drawn * samples[correct][order].astype(np.float64), starts, axis=1)
    return _mean_over_classes(right, np.add.reduceat(drawn, starts, axis=1))


def _mean_over_classes(above: Float[np.ndarray, "r c"], below: Float[np.ndarray, "r c"]) -> Scores:
    present = below > 0
    return divide(np.where(present, divide(above, below), 0.0).sum(axis=1), present.sum(axis=1))


def divide(
    above: Float[np.ndarray, "*s"], below: Real[np.ndarray, "*s"], otherwise: float = np.nan
) -> Float[np.ndarray, "*s"]:
    """Return ``above / below``, and ``otherwise`` where ``below`` is 0."""
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below != 0)


def known_values(
    column: Shaped[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return a column with 0 in place of NaN, and which rows have a value."""
    values = column.astype(np.float64)
    known = ~np.isnan(values)
    return np.where(known, values, 0.0), known
