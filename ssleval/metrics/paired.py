"""Tests of two runs on the items they share: paired t, McNemar, Holm.

Hard items are hard for both runs, so a paired difference is known much more precisely than the two separate
intervals suggest. Intervals and p-values of a difference agree: both come from its standard error and
Student's t, which for a plain mean is the paired t-test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtr, stdtrit

from ssleval.core import Metric, Samples
from ssleval.core.text import counted
from ssleval.errors import ContractError, DataError
from ssleval.metrics.influence import Influence, Units, freedom, influence_of, spread, units_of
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import known_values

Runs: TypeAlias = Sequence[Samples]
"""Samples of one model, one run per probe seed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two runs on the items they share, in the metric's unit."""

    value: float
    """Score of the first run minus score of the second, on the shared items."""
    error: float
    """Standard error, over the draw of items and, if there are several, of probe seeds."""
    freedom: float
    """Degrees of freedom of the error."""
    n: int
    """Number of shared items."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided confidence interval with coverage ``level``."""
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.value - half, self.value + half

    @property
    def separable(self) -> bool:
        """Whether the 95 % interval excludes zero."""
        low, high = self.interval()
        return low > 0 or high < 0

    def pvalue(self) -> float:
        """Return the two-sided p-value of a true difference of zero."""
        return min(1.0, 2 * min(self.pvalue_below(0.0), 1 - self.pvalue_below(0.0)))

    def pvalue_below(self, bound: float) -> float:
        """Return the one-sided p-value of a true difference of ``bound`` or less.

        It is small if the difference is shown to be above ``bound``; one minus it tests the other side.
        """
        if self.error == 0:
            return 0.5 if self.value == bound else float(self.value < bound)
        return float(stdtr(self.freedom, (bound - self.value) / self.error))

    def detectable(self, power: float = 0.8, level: float = 0.05) -> float:
        """Return the smallest true difference that a two-sided test finds with probability ``power``.

        ``level`` is that of the test. In standard errors the difference is the quantile of t
        at ``1 - level / 2`` plus that at ``power``. NaN if no item differs: the error is then unknown.
        """
        if self.error == 0:
            return float("nan")
        return float((stdtrit(self.freedom, 1 - level / 2) + stdtrit(self.freedom, power)) * self.error)


def paired_test(metric: Metric, first: Samples, second: Samples) -> Difference:
    """Return ``first`` minus ``second`` with its error, over the draw of the items they share.

    The error is the jackknife's: every item, or every cluster of items, is left out of both. For
    right-or-wrong outcomes two pseudo-items are added, so that a few items on which both agree are no proof
    of equality.

    Raises:
        DataError: they share no items.
        ContractError: ids repeat within one of them.

    Source:
        Efron & Stein 1981; pseudo-items: Bonett & Price 2012.
    """
    return paired_over_seeds(metric, [first], [second])


def paired_over_seeds(metric: Metric, firsts: Runs, seconds: Runs) -> Difference:
    """Return the difference averaged over probe seeds, with an error over items and seeds.

    ``firsts[i]`` and ``seconds[i]`` were measured with the same probe seed. The variance is the sum of two:
    that of the averaged difference over the draw of items, the same draw for all seeds; and that of the
    differences over seeds, divided by their number (degrees of freedom: Satterthwaite 1946).

    Raises:
        DataError: they share no items.
        ContractError: ids repeat within one run, the sides have different numbers of runs, or none.
    """
    if not firsts or len(firsts) != len(seconds):
        raise ContractError(
            f"paired comparison of {len(firsts)} with {counted(len(seconds), 'run')}: "
            "needs equally many runs, at least one"
        )
    runs = _counted(metric, [*firsts, *seconds])
    firsts, seconds = runs[: len(firsts)], runs[len(firsts) :]
    pairs = zip(firsts, seconds, strict=True)
    by_seed = np.array([metric.score(first) - metric.score(second) for first, second in pairs])
    by_items = _scatter(metric, firsts, seconds)
    return Difference(float(by_seed.mean()), *_combined(*by_items, by_seed), len(firsts[0]))


def leaders(metric: Metric, runs: Sequence[Samples]) -> list[int]:
    """Return, for each of ``runs`` from best to worst, the place of the first run with the same rank.

    A run shares the rank of the last such leader, unless their paired difference is separable: then it leads
    the next rank itself.
    """
    rows = _rows_of_means(metric, runs)
    if rows is not None:
        return _leaders_of_means(rows)
    places = [0]
    for place in range(1, len(runs)):
        apart = paired_test(metric, runs[places[-1]], runs[place]).separable
        places.append(place if apart else places[-1])
    return places


def _leaders_of_means(rows: Float[np.ndarray, "m n"]) -> list[int]:
    # A leader is compared with all runs behind it at once, which saves hundreds of calls.
    binary = right_or_wrong(rows, axis=1)
    apart_behind = _outcomes_apart(rows) if binary.all() else _gaps_apart(rows, binary)
    leader, places = 0, [0]
    while len(places) < len(rows):
        apart = apart_behind(leader)
        places += [leader] * int(apart.argmax() if apart.any() else len(apart))
        if len(places) < len(rows):
            leader = len(places)
            places.append(leader)
    return places


def _outcomes_apart(rows: Float[np.ndarray, "m n"]) -> Callable[[int], Bool[np.ndarray, " b"]]:
    """Return a function that says which rows after a row are separable from it, all of right and wrong."""
    right, items = rows.sum(axis=1), rows.shape[1]
    widest = stdtrit(items - 1.0, 0.975)

    def apart_behind(place: int) -> Bool[np.ndarray, " b"]:
        behind = slice(place + 1, None)
        # For right-or-wrong outcomes, the count of items that differ determines the variance.
        unlike = right[place] + right[behind] - 2 * (rows[behind] @ rows[place])
        means = (right[place] - right[behind]) / items
        variance = (unlike - items * means**2) / (items * (items - 1))
        return np.abs(means) > widest * np.sqrt(_with_pseudo_items(variance, items))

    return apart_behind


def _gaps_apart(
    rows: Float[np.ndarray, "m n"], binary: Bool[np.ndarray, " m"]
) -> Callable[[int], Bool[np.ndarray, " b"]]:
    """Do what `_outcomes_apart` does for rows of which some hold other values."""
    items = rows.shape[1]

    def apart_behind(place: int) -> Bool[np.ndarray, " b"]:
        behind = slice(place + 1, None)
        gaps, outcomes = rows[place] - rows[behind], binary[place] & binary[behind]
        squares = (gaps - gaps.mean(axis=1, keepdims=True)) ** 2
        variance = squares.sum(axis=1) / (items * (items - 1))
        variance[outcomes] = _with_pseudo_items(variance[outcomes], items)
        degrees = np.where(outcomes, items - 1.0, freedom(squares, items))
        return np.abs(gaps.mean(axis=1)) > stdtrit(degrees, 0.975) * np.sqrt(variance)

    return apart_behind


def _rows_of_means(metric: Metric, runs: Sequence[Samples]) -> Float[np.ndarray, "m n"] | None:
    """Return the values that a plain mean averages, a row per run; None for other ids, NaN or clusters."""
    described, ids = describe(metric.statistic), runs[0].ids
    if (
        described["name"] != "mean_of"
        or len(ids) < 2
        or any(run.ids is not ids or run.cluster for run in runs)
    ):
        return None
    _, runs = aligned(runs)
    rows = np.array([run[described["columns"]["column"]] for run in runs], dtype=np.float64)
    return None if np.isnan(rows).any() else rows


def _scatter(metric: Metric, firsts: Runs, seconds: Runs) -> tuple[float, float]:
    """Return variance and degrees of freedom over the draw of items; with pseudo-items for outcomes."""
    runs = [*firsts, *seconds]
    column, units = _outcomes(metric, runs), units_of(runs)
    label = describe(metric.statistic)["columns"].get("label")
    if column is not None and label is not None and units is None:
        pairs = zip(firsts, seconds, strict=True)
        by_seed = [first[column].astype(np.float64) - second[column] for first, second in pairs]
        return _over_classes(np.mean(by_seed, axis=0), firsts[0][label])
    influence = _influence_on_difference(metric, firsts, seconds, units)
    variance, degrees = spread(influence, of_difference=True)
    if column is None:
        return variance, degrees
    count = len(firsts[0])
    # Outcomes differ by -1, 0 or 1, and with pseudo-items their variance is never 0: it is a stable one.
    return _with_pseudo_items(variance, count), degrees if units is not None else float(max(1, count - 1))


def _influence_on_difference(metric: Metric, firsts: Runs, seconds: Runs, units: Units) -> Influence:
    """Return the influence on the difference, averaged over probe seeds."""
    gaps = [
        influence_of(metric, first, units) - influence_of(metric, second, units)
        for first, second in zip(firsts, seconds, strict=True)
    ]
    total = reduce(lambda sum_, gap: replace(sum_, moves=sum_.moves + gap.moves), gaps)
    return replace(total, moves=total.moves / len(gaps))


def _over_classes(gaps: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the variance of a mean of class means, each class with its own pseudo-items.

    The degrees of freedom are few if rare classes with few items dominate (Satterthwaite 1946).
    """
    parts = [gaps[labels == label] for label in np.unique(labels)]
    sizes = np.array([len(part) for part in parts])
    drawn = np.array([part.var(ddof=1) / len(part) if len(part) > 1 else 0.0 for part in parts])
    variances = _with_pseudo_items(drawn, sizes)
    total = float(variances.sum())
    degrees = total**2 / float((variances**2 / np.maximum(1, sizes - 1)).sum())
    return total / len(parts) ** 2, degrees


def _with_pseudo_items(variance: Any, items: Any) -> Any:
    return variance * (items / (items + 2)) ** 2 + 2 / (items + 2) ** 2


def pseudo_variance(metric: Metric, runs: Sequence[Samples]) -> tuple[float, float]:
    """Return what the variance of a score of right and wrong is multiplied by, and what is added to it.

    That is what two pseudo-items add to the variance of a difference, shared out on its two scores; 1 and 0
    for other metrics.
    """
    column = _outcomes(metric, runs)
    if column is None:
        return 1.0, 0.0
    label = describe(metric.statistic)["columns"].get("label")
    count = len(runs[0])
    sizes = np.array([count]) if label is None else np.unique(runs[0][label], return_counts=True)[1]
    return float((count / (count + 2)) ** 2), float((1 / (sizes + 2) ** 2).sum() / len(sizes) ** 2)


def _combined(by_items: float, degrees: float, by_seed: Float[np.ndarray, " s"]) -> tuple[float, float]:
    seeds = len(by_seed)
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    total = by_items + of_seeds
    if of_seeds == 0 or not np.isfinite(total):
        return total**0.5, degrees
    return total**0.5, total**2 / (by_items**2 / degrees + of_seeds**2 / (seeds - 1))


def aligned(runs: Sequence[Samples]) -> tuple[list[str], list[Samples]]:
    """Return the ids that all runs share, and the runs with only these rows, in one order.

    Raises:
        ContractError: ids repeat within a run.
        DataError: there are no shared ids.
    """
    # Runs of one board share one tuple of ids, which is checked once.
    for ids in {id(run.ids): run.ids for run in runs}.values():
        if len(set(ids)) != len(ids):
            raise ContractError("paired comparison: ids repeat within one run; its items cannot be matched")
    first = list(runs[0].ids)
    if all(run.ids is runs[0].ids for run in runs) and first:
        return first, list(runs)
    in_all = set(first).intersection(*(run.ids for run in runs[1:]))
    if not in_all:
        raise DataError("paired comparison: the two runs share no items; compare runs on one split")
    if all(list(run.ids) == first for run in runs):
        return first, list(runs)
    shared = [name for name in first if name in in_all]
    return shared, [_rows(run, shared) for run in runs]


def _counted(metric: Metric, runs: Runs) -> list[Samples]:
    """Return the runs `aligned`, with only the items that a mean takes of every one of them: no NaN."""
    _, runs = aligned(runs)
    described = describe(metric.statistic)
    if described["name"] != "mean_of":
        return runs
    columns = [run[described["columns"]["column"]] for run in runs]
    known = np.logical_and.reduce([known_values(column)[1] for column in columns])
    if known.all():
        return runs
    if not known.any():
        raise DataError("paired comparison: no item has a value in both runs; compare runs on one split")
    return [run.at(known) for run in runs]


def _rows(samples: Samples, ids: Sequence[str]) -> Samples:
    row_of = {name: row for row, name in enumerate(samples.ids)}
    return samples.at(np.array([row_of[name] for name in ids], dtype=np.int64))


# Tests --------------------------------------------------------------------------------------------


def mcnemar_outcomes(metric: Metric, first: Samples, second: Samples) -> tuple[int, int] | None:
    """Return how many shared items only the first run, and only the second, got right.

    None if the metric is not a plain mean of right and wrong, for which McNemar's test is made, or if items
    were drawn in clusters.
    """
    runs = _counted(metric, [first, second])
    column = _outcomes(metric, runs)
    clustered = any(run.cluster for run in runs)
    if column is None or clustered or describe(metric.statistic)["name"] != "mean_of":
        return None
    here, there = (run[column].astype(bool) for run in runs)
    return int((here & ~there).sum()), int((there & ~here).sum())


def _outcomes(metric: Metric, runs: Sequence[Samples]) -> str | None:
    """Return the column of right and wrong that the metric averages; None for other metrics."""
    columns = describe(metric.statistic)["columns"]
    column = columns.get("column") or columns.get("correct")
    if column is None or not all(right_or_wrong(run[column]) for run in runs):
        return None
    return str(column)


def right_or_wrong(values: Shaped[np.ndarray, "n ..."], axis: int | None = None) -> Any:
    """Return whether all values are 0 or 1, whatever their type; along ``axis`` if it is given."""
    return (values.dtype == bool and axis is None) or ((values == 0) | (values == 1)).all(axis=axis)


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Return the two-sided exact p-value that two classifiers are equally often right.

    The arguments count the items that only one of them got right.

    Raises:
        ContractError: a negative count.

    Source:
        McNemar 1947, in the exact binomial form.
    """
    if min(first_only, second_only) < 0:
        raise ContractError(f"McNemar: counts {first_only} and {second_only}; neither can be negative")
    # With integers, since logarithms of factorials lose digits where p is small.
    discordant = first_only + second_only
    tail = term = 1
    for drawn in range(min(first_only, second_only)):
        term = term * (discordant - drawn) // (drawn + 1)
        tail += term
    return min(1.0, 2 * tail / 2**discordant)


def holm(pvalues: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return p-values adjusted for multiple tests by Holm's step-down method, in the order given.

    Source:
        Holm 1979; valid under any dependence between the tests.
    """
    unadjusted = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(unadjusted, kind="stable")
    stepped = unadjusted[order] * np.arange(len(unadjusted), 0, -1)
    adjusted = np.empty_like(unadjusted)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
