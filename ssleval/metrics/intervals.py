"""Confidence intervals of scores over the draw of test items, or of clusters of them.

A fraction gets the interval of Agresti and Coull, with the number of items that a proportion of the same
variance would have in place of their count. It stays in [0, 1] and has a width where all items agree. Any
other score gets Student's interval. The variance and its degrees of freedom are those of `influence.spread`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from ssleval.core import Metric, Samples
from ssleval.core.text import counted
from ssleval.errors import ContractError
from ssleval.metrics.influence import Influence, influence_of, spread, units_of
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import known_values

_FEWEST_UNITS = 10
_FEWEST_CARRIERS = 3
_MOST_NAMES = 5
_ELSEWHERE = {
    "mean_per_class_of": ", left out of the mean (DINOv2's metric counts 0)",
    "mean_average_precision_of": ", left out of the mean (scikit-learn counts 0)",
    "eleven_point_precision_of": ", left out of the mean (scikit-learn counts 0)",
}
"""What others do with a class that no item shows, by statistic."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score and its confidence interval."""

    value: float
    low: float
    high: float
    note: str = ""
    """Why the interval may fail to hold the true score as often as it says; '' if nothing says so."""


def estimates(
    metrics: Sequence[Metric], samples: Samples, level: float = 0.95, class_names: Sequence[str] = ()
) -> dict[str, Estimate]:
    """Return every metric's score with its interval, of coverage ``level`` in (0, 1).

    ``class_names``, in label order, are used in notes. Nothing is drawn at random.

    Raises:
        ContractError: no items, or a level outside (0, 1).

    Source:
        Agresti & Coull 1998; effective sizes: Dean & Pagano 2015, J. Surv. Stat. Methodol. 3(4).
    """
    if len(samples) < 1 or not 0 < level < 1:
        raise ContractError(
            f"interval of {counted(len(samples), 'item')}, level {level}: "
            "needs one item and a level between 0 and 1"
        )
    return {metric.name: _estimate(metric, samples, level, class_names) for metric in metrics}


def _estimate(metric: Metric, samples: Samples, level: float, class_names: Sequence[str]) -> Estimate:
    value = metric.score(samples)
    if not math.isfinite(value):
        return Estimate(value, math.nan, math.nan)
    influence = influence_of(metric, samples, units_of([samples]))
    note = _note(metric, influence, class_names, "cluster" if samples.cluster else "item")
    size = _size_of_proportion(metric, samples)
    if size:
        return Estimate(value, *agresti_coull(value, size, float(ndtri((1 + level) / 2))), note)
    variance, freedom = spread(influence)
    # A part of the bias that the jackknife sees may be chance: it widens the interval instead of moving it.
    variance += influence.bias**2
    quantile = float(stdtrit(freedom, (1 + level) / 2))
    if metric.unit == "fraction" and influence.ceiling is not None:
        return Estimate(value, *_within(value, variance, quantile, influence, influence.ceiling), note)
    half = quantile * variance**0.5 if math.isfinite(variance) else 0.0
    return Estimate(value, value - half, value + half, note)


def agresti_coull(share: float, size: float, quantile: float) -> tuple[float, float]:
    """Return the interval of a proportion, from a number of items that need not be whole.

    Its centre is that of Wilson's interval. ``quantile`` is that of the two-sided level: 1.96 for 95 %.
    """
    adjusted = size + quantile**2
    centre = (share * size + quantile**2 / 2) / adjusted
    half = quantile * (centre * (1 - centre) / adjusted) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def _within(
    value: float, variance: float, quantile: float, influence: Influence, ceiling: float
) -> tuple[float, float]:
    """Return the interval of a score between 0 and ``ceiling``, as of a proportion with the same variance."""
    share = min(1.0, max(0.0, value / ceiling))
    most = share * (1 - share)
    known = variance > 0 and most > 0
    size = most * ceiling**2 / variance if known else influence.effective
    low, high = agresti_coull(share, size, quantile)
    return min(value, low * ceiling), max(value, high * ceiling)


def _size_of_proportion(metric: Metric, samples: Samples) -> float:
    """Return how many known rows a plain mean of right and wrong has; 0 for all else."""
    described = describe(metric.statistic)
    if described["name"] != "mean_of" or samples.cluster:
        return 0.0
    values, known = known_values(samples[described["columns"]["column"]])
    return float(known.sum()) if ((values == 0) | (values == 1)).all() else 0.0


def _note(metric: Metric, influence: Influence, class_names: Sequence[str], noun: str) -> str:
    parts: list[str] = []
    described = describe(metric.statistic)
    if influence.units < _FEWEST_UNITS:
        parts.append(f"from {counted(influence.units, noun)}")
    if influence.labels is not None:
        present = influence.carriers > 0
        absent = influence.labels[~present]
        if described["columns"].get("label") == "label":
            absent = np.setdiff1d(np.arange(len(class_names)), influence.labels)
        if len(absent):
            elsewhere = _ELSEWHERE.get(described["name"], "")
            parts.append(f"in no {noun}: {_named(absent, class_names)}{elsewhere}")
        rare = influence.labels[present & (influence.carriers < _FEWEST_CARRIERS)]
        if len(rare):
            parts.append(f"in one or two {noun}s: {_named(rare, class_names)}")
    return "; ".join(parts)


def _named(labels: np.ndarray, class_names: Sequence[str]) -> str:
    names = [
        class_names[int(label)]
        if np.issubdtype(labels.dtype, np.integer) and 0 <= label < len(class_names)
        else str(label)
        for label in labels[:_MOST_NAMES]
    ]
    rest = len(labels) - len(names)
    listed = ", ".join(names) + (f" and {rest} more" if rest else "")
    return f"{counted(len(labels), 'class', 'classes')} ({listed})"
