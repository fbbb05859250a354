"""Statistics of samples: means and ratios of sums.

A `Statistic` returns a score for each row of item weights. To leave items out is to give them the weight 0,
so that a thousand such scores are a few matrix products.
"""

from collections.abc import Callable
from functools import partial, update_wrapper
from inspect import Signature, signature
from typing import Concatenate, ParamSpec, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from ssleval.core import Samples, Statistic, statistics

Weights: TypeAlias = Float[np.ndarray, "r n"]
"""A row of item weights for each of r scores."""
Scores: TypeAlias = Float[np.ndarray, " r"]
P = ParamSpec("P")


def statistic(compute: Callable[Concatenate[Samples, Weights, P], Scores]) -> Callable[P, Statistic]:
    """Turn a function of samples, weights and names of columns into one of names that returns the statistic.

    The result is registered under the name of the function.
    """
    columns = [*signature(compute).parameters.values()][2:]

    def of_columns(*names: P.args, **named: P.kwargs) -> Statistic:
        given = dict(zip((column.name for column in columns), names, strict=False))
        return partial(compute, **given, **named)

    update_wrapper(of_columns, compute)
    # A pickle finds what computes here.
    vars(of_columns).update(compute=compute, __signature__=Signature(columns))
    compute.__qualname__ += ".compute"
    return statistics.register(of_columns.__name__)(of_columns)


@statistic
def mean_of(samples: Samples, weights: Weights, column: str) -> Scores:
    """Return the statistic that averages a column ``[n]``; NaN rows are left out."""
    values = samples[column].astype(np.float64)
    if samples[column].dtype.kind in "biu":
        return divide(weights @ values, weights.sum(axis=1))
    known = ~np.isnan(values)
    return divide(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


@statistic
def mean_over_fits_of(samples: Samples, weights: Weights, scores: str) -> Scores:
    """Return the statistic that averages ``scores [n s]`` over items and over s fits, which were drawn too.

    Its interval is over both. An item with a NaN is left out.
    """
    values, known = known_values(samples[scores].mean(axis=1))
    return divide(weights @ values, weights @ known.astype(np.float64))


@statistic
def ratio_of(samples: Samples, weights: Weights, numerator: str, denominator: str) -> Scores:
    """Return the statistic that divides the sum of one column ``[n]`` by that of another."""
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return divide(weights @ above, weights @ below)


@statistic
def mean_ratio_of(samples: Samples, weights: Weights, numerator: str, denominator: str) -> Scores:
    """Return the statistic that divides sums over items class by class, then averages the classes.

    Columns are ``[n c]``; with intersections and unions it is the mean IoU of a split. A class whose
    denominator is 0 over the items drawn is left out.
    """
    above, below = (samples[name].astype(np.float64) for name in (numerator, denominator))
    return _mean_over_classes(weights @ above, weights @ below)


@statistic
def mean_over_parts_of(samples: Samples, weights: Weights, numerator: str, denominator: str) -> Scores:
    """Return the statistic of `mean_ratio_of` for parts that are no classes, such as domains."""
    return mean_ratio_of(numerator, denominator)(samples, weights)


@statistic
def mean_per_class_of(samples: Samples, weights: Weights, correct: str, label: str) -> Scores:
    """Return the statistic that averages ``correct [n]`` within each ``label [n]``, then over labels.

    A class without items in the draw is left out. DINOv2's metric (torchmetrics 0.10.3, ``average="macro"``)
    counts it 0; recent torchmetrics do so where the class is predicted.
    """
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


def mean_of_known(by_class: Float[np.ndarray, "r c"]) -> Scores:
    """Return the mean over the classes that have a value; NaN where none has."""
    known = ~np.isnan(by_class)
    return divide(np.where(known, by_class, 0.0).sum(axis=1), known.sum(axis=1))


def deviation_contributions(
    correct: Bool[np.ndarray, "n tries"] | Float[np.ndarray, "n tries"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return contributions whose mean is the standard deviation of the score over tries (``ddof=1``).

    The score of a try is the mean of ``correct``, or of contributions to a score, within each group, averaged
    over groups: one group for accuracy, classes for mean per-class accuracy. A contribution is the deviation
    plus the image's first-order influence on it, so their mean has the interval of the delta method.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shares = len(correct) / (len(sizes) * sizes[group])
    weighed = shares[:, None] * correct
    scores = weighed.mean(axis=0)
    deviation = float(scores.std(ddof=1))
    if deviation == 0:
        return np.zeros(len(correct))
    slopes = (scores - scores.mean()) / ((correct.shape[1] - 1) * deviation)
    return deviation + (weighed - scores) @ slopes
