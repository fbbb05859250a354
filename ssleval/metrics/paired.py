"""Whether two runs differ, on the items they share: paired bootstrap, McNemar, Holm.

What makes an item hard is hard for both runs, so that a paired difference is known far better than the
two intervals apart suggest. Intervals and p-values of one difference agree: both come from its standard
error and Student's t, which for a plain mean is the paired t-test.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import stdtr, stdtrit

from ssleval.core import Metric, Samples
from ssleval.errors import ContractError, DataError
from ssleval.metrics.recorded import describe
from ssleval.metrics.scatter import freedom_of_means, item_scatter, variance_of_means


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one run beats another on the items they share, in the metric's unit."""

    value: float
    """Score of the first minus score of the second, on the shared items alone."""
    error: float
    """Standard error, over the draw of items and, where there are several, of probe seeds."""
    freedom: float
    """Degrees of freedom of the error."""
    n: int
    """Shared items."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided interval that holds the true difference with probability ``level``."""
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.value - half, self.value + half

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.interval()[1]

    @property
    def separable(self) -> bool:
        """Whether the 95 % interval excludes no difference at all."""
        low, high = self.interval()
        return low > 0 or high < 0

    def pvalue(self) -> float:
        """Return the two-sided p-value of no difference."""
        return min(1.0, 2 * min(self.pvalue_below(0.0), 1 - self.pvalue_below(0.0)))

    def pvalue_below(self, bound: float) -> float:
        """Return the one-sided p-value of a true difference of ``bound`` or less.

        Small where the difference is shown to lie above ``bound``; one minus it tests the other side.
        """
        if self.error == 0:
            return 0.5 if self.value == bound else float(self.value < bound)
        return float(stdtr(self.freedom, (bound - self.value) / self.error))

    def detectable(self, power: float = 0.8, level: float = 0.05) -> float:
        """Return the smallest true difference that these items would have shown.

        A two-sided test at ``level`` finds it with probability ``power``. NaN where no item differs:
        nothing then says how much a difference would scatter. In standard errors it is the quantile of
        t at ``1 - level / 2`` plus that at ``power``.
        """
        if self.error == 0:
            return float("nan")
        return float((stdtrit(self.freedom, 1 - level / 2) + stdtrit(self.freedom, power)) * self.error)


def paired_bootstrap(
    metric: Metric, first: Samples, second: Samples, resamples: int = 2000, seed: int = 0
) -> Difference:
    """Return ``first`` minus ``second`` with its error, resampling the items they share together.

    Raises:
        DataError: they share no items.
        ContractError: ids repeat within one of them, or no resamples.

    Source:
        Efron & Tibshirani 1993, sec. 6; of outcomes that are right or wrong, with two pseudo-items as
        Bonett & Price 2012, so that a handful of items on which both agree is no proof of equality.
    """
    return paired_over_seeds(metric, [first], [second], resamples, seed)


def paired_over_seeds(
    metric: Metric,
    firsts: Sequence[Samples],
    seconds: Sequence[Samples],
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Return the difference averaged over probe seeds; its error counts items and seeds.

    ``firsts[i]`` and ``seconds[i]`` were measured with one probe seed. The variance over the draw of
    items is that of the averaged difference, one draw for all seeds; to it is added the variance of
    the differences over seeds, divided by their number (degrees of freedom: Satterthwaite 1946).

    Raises:
        DataError: they share no items.
        ContractError: ids repeat within one run, another number of runs on one side, no resamples.
    """
    if not firsts or len(firsts) != len(seconds) or resamples < 1:
        raise ContractError(
            f"paired comparison of {len(firsts)} with {len(seconds)} runs, {resamples} resamples: "
            "needs equally many runs, at least one, and resamples"
        )
    ids, runs = _aligned([*firsts, *seconds])
    ones, others = runs[: len(firsts)], runs[len(firsts) :]
    by_seed = np.array([metric.score(one) - metric.score(two) for one, two in zip(ones, others, strict=True)])
    value = float(by_seed.mean())
    return Difference(value, *_combined(*_scatter(metric, ones, others, resamples, seed), by_seed), len(ids))


def separable(metric: Metric, first: Samples, second: Samples) -> bool:
    """Return whether the 95 % interval of the paired difference excludes zero."""
    return paired_bootstrap(metric, first, second).separable


def leaders(metric: Metric, runs: Sequence[Samples]) -> list[int]:
    """Return for each run, best first, the place of the first one that it shares a rank with.

    That is the last leader before it, where `separable` does not tell the two apart, else itself.
    """
    rows = _rows_of_means(metric, runs)
    if rows is not None:
        return _leaders_of_means(rows)
    led = [0]
    for place in range(1, len(runs)):
        apart = separable(metric, runs[led[-1]], runs[place])
        led.append(place if apart else led[-1])
    return led


def _leaders_of_means(rows: Float[np.ndarray, "m n"]) -> list[int]:
    # A leader is compared with all behind it at once: they are hundreds, and so are the calls saved.
    binary = right_or_wrong(rows, axis=1)
    apart_behind = _outcomes_apart(rows) if binary.all() else _gaps_apart(rows, binary)
    leader, led = 0, [0]
    while len(led) < len(rows):
        apart = apart_behind(leader)
        led += [leader] * int(apart.argmax() if apart.any() else len(apart))
        if len(led) < len(rows):
            leader = len(led)
            led.append(leader)
    return led


def _outcomes_apart(rows: Float[np.ndarray, "m n"]) -> Callable[[int], Bool[np.ndarray, " b"]]:
    """Return a function that says which rows of right and wrong behind a row are separable from it."""
    right, items = rows.sum(axis=1), rows.shape[1]
    widest = stdtrit(items - 1.0, 0.975)

    def apart_behind(place: int) -> Bool[np.ndarray, " b"]:
        behind = slice(place + 1, None)
        # Of outcomes, counts say all there is to know, and a product counts.
        unlike = right[place] + right[behind] - 2 * (rows[behind] @ rows[place])
        means = (right[place] - right[behind]) / items
        variance = (unlike - items * means**2) / (items * (items - 1))
        return np.abs(means) > widest * np.sqrt(_with_pseudo_items(variance, items))

    return apart_behind


def _gaps_apart(
    rows: Float[np.ndarray, "m n"], binary: Bool[np.ndarray, " m"]
) -> Callable[[int], Bool[np.ndarray, " b"]]:
    """Return what `_outcomes_apart` does, of rows some of which hold other values."""
    items = rows.shape[1]

    def apart_behind(place: int) -> Bool[np.ndarray, " b"]:
        behind = slice(place + 1, None)
        gaps, outcomes = rows[place] - rows[behind], binary[place] & binary[behind]
        variance, freedom = variance_of_means(gaps), np.full(len(gaps), items - 1.0)
        variance[outcomes] = _with_pseudo_items(variance[outcomes], items)
        freedom[~outcomes] = freedom_of_means(gaps[~outcomes])
        return np.abs(gaps.mean(axis=1)) > stdtrit(freedom, 0.975) * np.sqrt(variance)

    return apart_behind


def _rows_of_means(metric: Metric, runs: Sequence[Samples]) -> Float[np.ndarray, "m n"] | None:
    """Return what a plain mean averages, a row for each run; None where ids differ, or items lack a value."""
    described, ids = describe(metric.statistic), runs[0].ids
    if described["name"] != "mean_of" or len(ids) < 2 or any(run.ids is not ids for run in runs):
        return None
    _, runs = _aligned(runs)
    rows = np.array([run[described["columns"]["column"]] for run in runs], dtype=np.float64)
    return None if np.isnan(rows).any() else rows


def _scatter(
    metric: Metric, ones: Sequence[Samples], others: Sequence[Samples], resamples: int, seed: int
) -> tuple[float, float]:
    """Return variance and degrees of freedom over the draw of items; of outcomes with pseudo-items."""
    column, items = _outcomes(metric, [*ones, *others]), len(ones[0])
    if column is None:
        return item_scatter(metric, ones, others, resamples, seed)
    label = describe(metric.statistic)["columns"].get("label")
    if label is None:
        variance, _ = item_scatter(metric, ones, others, resamples, seed)
        return _with_pseudo_items(variance, items), float(max(1, items - 1))
    by_seed = [one[column].astype(np.float64) - two[column] for one, two in zip(ones, others, strict=True)]
    return _over_classes(np.mean(by_seed, axis=0), ones[0][label])


def _over_classes(gaps: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the variance of a mean of class means, every class with pseudo-items of its own.

    Degrees of freedom are those of the few items of rare classes where these decide (Satterthwaite 1946).
    """
    parts = [gaps[labels == label] for label in np.unique(labels)]
    sizes = np.array([len(part) for part in parts])
    drawn = np.array([part.var(ddof=1) / len(part) if len(part) > 1 else 0.0 for part in parts])
    variances = _with_pseudo_items(drawn, sizes)
    total = float(variances.sum())
    freedom = total**2 / float((variances**2 / np.maximum(1, sizes - 1)).sum())
    return total / len(parts) ** 2, freedom


def _with_pseudo_items(variance: Any, items: Any) -> Any:
    return variance * (items / (items + 2)) ** 2 + 2 / (items + 2) ** 2


def _combined(by_items: float, freedom: float, by_seed: Float[np.ndarray, " s"]) -> tuple[float, float]:
    seeds = len(by_seed)
    of_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    total = by_items + of_seeds
    if of_seeds == 0 or not np.isfinite(total):
        return total**0.5, freedom
    return total**0.5, total**2 / (by_items**2 / freedom + of_seeds**2 / (seeds - 1))


def _aligned(runs: Sequence[Samples]) -> tuple[list[str], list[Samples]]:
    # Runs of one board share one tuple of ids: it is looked through once.
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


def _rows(samples: Samples, ids: Sequence[str]) -> Samples:
    row_of = {name: row for row, name in enumerate(samples.ids)}
    rows = np.array([row_of[name] for name in ids], dtype=np.int64)
    return Samples(ids, {name: column[rows] for name, column in samples.columns.items()})


# Tests --------------------------------------------------------------------------------------------


def mcnemar_outcomes(metric: Metric, first: Samples, second: Samples) -> tuple[int, int] | None:
    """Return how many shared items only the first and only the second got right.

    None where the metric is no plain mean of right and wrong; McNemar's test is not for it then.
    """
    _, (one, two) = _aligned([first, second])
    column = _outcomes(metric, [one, two])
    if column is None or describe(metric.statistic)["name"] != "mean_of":
        return None
    right: list[Bool[np.ndarray, " n"]] = [side[column].astype(bool) for side in (one, two)]
    return int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())


def _outcomes(metric: Metric, runs: Sequence[Samples]) -> str | None:
    """Return the column of right and wrong that the metric averages, None if it is no such metric."""
    columns = describe(metric.statistic)["columns"]
    column = columns.get("column") or columns.get("correct")
    if column is None or not all(right_or_wrong(run[column]) for run in runs):
        return None
    return str(column)


def right_or_wrong(values: Shaped[np.ndarray, "n ..."], axis: int | None = None) -> Any:
    """Return whether all values are 0 or 1, whatever their type; along ``axis``, where one is named."""
    return (values.dtype == bool and axis is None) or ((values == 0) | (values == 1)).all(axis=axis)


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Return the two-sided exact p-value that two classifiers err equally often.

    The counts are of items that only the one, and only the other, got right.

    Raises:
        ContractError: a negative count.

    Source:
        McNemar 1947, in the exact binomial form.
    """
    if min(first_only, second_only) < 0:
        raise ContractError(f"McNemar: counts {first_only} and {second_only}; neither can be negative")
    # In integers: logarithms of factorials would lose digits just where p decides.
    discordant = first_only + second_only
    tail = term = 1
    for drawn in range(min(first_only, second_only)):
        term = term * (discordant - drawn) // (drawn + 1)
        tail += term
    return min(1.0, 2 * tail / 2**discordant)


def holm(pvalues: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return p-values adjusted for making all these tests at once, in the order given.

    Source:
        Holm 1979: step-down, valid whatever the dependence between the tests.
    """
    given = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
