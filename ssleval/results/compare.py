"""Two models on the items they share: how much better, how sure, and what could not have been seen.

Right-or-wrong samples of one probe seed are tested with exact McNemar, everything else with the paired
bootstrap; Holm corrects over all rows of a comparison. Results measured with several probe seeds are
paired seed by seed and averaged. Imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssleval.core import Metric
from ssleval.errors import ConfigError, DataError
from ssleval.metrics.paired import (
    Difference,
    holm,
    mcnemar_exact,
    mcnemar_outcomes,
    paired_over_seeds,
)
from ssleval.metrics.recorded import statistic_from
from ssleval.results.record import Result, Score, comparable, read_samples

_FEWEST_DISCORDANT = 6
"""One-sided right-or-wrong differences below which exact McNemar cannot reach p = 0.05."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Results of one task on one dataset that may be compared, seed by seed."""

    first: tuple[Result, ...]
    second: tuple[Result, ...]

    @property
    def name(self) -> str:
        """Return ``task/dataset``."""
        return f"{self.first[0].task}/{self.first[0].dataset}"

    @property
    def headline(self) -> str:
        """Name of the metric that ranks."""
        return next(iter(self.first[0].metrics))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one task: the second model against the first."""

    task: str
    dataset: str
    metric: str
    unit: str
    higher_is_better: bool
    first: float
    """Score of the first model on all its items, averaged over seeds."""
    second: float
    difference: float
    """Second minus first, on the shared items."""
    ci95: tuple[float, float]
    n: int
    """Shared items."""
    seeds: int
    test: str
    pvalue: float
    adjusted: float
    """Holm's correction over all rows of this comparison."""
    detectable: float
    """The smallest true difference this test set could have shown (80 % power, 5 % level)."""

    @property
    def verdict(self) -> str:
        """Return who is better at the 5 % level, after correction."""
        if self.adjusted >= 0.05:
            return "no difference shown"
        return "second better" if (self.difference > 0) == self.higher_is_better else "first better"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict; numbers that do not exist are None, as JSON wants."""
        fields = {**asdict(self), "ci95": [_finite(end) for end in self.ci95], "verdict": self.verdict}
        return {name: _finite(value) for name, value in fields.items()}


def compare(
    first: Sequence[Result], second: Sequence[Result], *, every_metric: bool = False
) -> list[Comparison]:
    """Return a row for the leading metric of every task both were measured with, or for every metric.

    Raises:
        DataError: they share no task and dataset, or their dataset, split, protocol or data differ.
        ConfigError: several results of one side fit.
    """
    rows = [
        _row(pairing, name)
        for pairing in pairings(first, second)
        for name in (_shared_metrics(pairing) if every_metric else [pairing.headline])
    ]
    adjusted = holm([row.pvalue for row in rows])
    return [replace(row, adjusted=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def pairings(first: Sequence[Result], second: Sequence[Result]) -> list[Pairing]:
    """Match results by task, dataset and everything that must agree, and by seed.

    Raises:
        DataError: nothing is shared, or what must agree differs; the message names the field.
        ConfigError: several results of one side fit.
    """
    found: list[Pairing] = []
    names = [(one.task, one.dataset) for one in first]
    shared = {(two.task, two.dataset): True for two in second if (two.task, two.dataset) in names}
    if not shared:
        here, there = (sorted({f"{r.task}/{r.dataset}" for r in side}) for side in (first, second))
        raise DataError(
            f"nothing to compare: one side has {', '.join(here)}, the other {', '.join(there)}; "
            "measure both with one task on one dataset"
        )
    for name in sorted(shared):
        ours, theirs = ([r for r in side if (r.task, r.dataset) == name] for side in (first, second))
        digests = {comparable(one) for one in ours} & {comparable(two) for two in theirs}
        if not digests:
            raise DataError(_why_not(ours, theirs))
        for digest in sorted(digests):
            sides = [[r for r in side if comparable(r) == digest] for side in (ours, theirs)]
            found.append(_by_seed(*sides))
    return found


def mismatches(first: Result, second: Result) -> list[str]:
    """Return what must agree in two results but does not, as ``field: value against value``."""
    found = _differing("task", first.task, second.task)
    for shown, field in (("split", "test_split"), ("fingerprint", "fingerprints")):
        found += _differing(shown, first.data.get(field), second.data.get(field))
    found += _differing("protocol", first.protocol, second.protocol)
    skip = "skip_corrupt"
    return found + _differing(skip, first.settings.get(skip), second.settings.get(skip))


def unlike_precision(pair: Pairing) -> str:
    """Return both sides' precision, as ``fp32 against fp16``, unless all is the same; it need not agree."""
    here, there = (
        sorted({str(one.settings.get("precision", "fp32")) for one in side})
        for side in (pair.first, pair.second)
    )
    same = here == there and len(here) == 1
    return "" if same else f"{' and '.join(here)} against {' and '.join(there)}"


def paired_difference(pairing: Pairing, name: str) -> Difference:
    """Return the second minus the first in one metric, over shared items and seeds."""
    first, second = ([read_samples(one) for one in side] for side in (pairing.first, pairing.second))
    return paired_over_seeds(_metric(pairing, name), second, first)


def markdown(rows: Sequence[Comparison], first: str, second: str) -> str:
    """Return the comparison as a Markdown table, differences in points or the metric's unit."""
    lines = [
        f"| task | metric | {first} | {second} | difference [95 %] | p (Holm) | smallest detectable | n | |",
        "|:---|:---|---:|---:|---:|---:|---:|---:|:---|",
    ]
    for row in rows:
        scale, digits = (100, 2) if row.unit == "fraction" else (1, 4)
        numbers = (row.first, row.second, row.difference, *row.ci95, row.detectable)
        a, b, gap, low, high, least = (f"{number * scale:.{digits}f}" for number in numbers)
        sign = "+" if row.difference > 0 else ""
        verdict = {"first better": f"{first} better", "second better": f"{second} better"}.get(
            row.verdict, row.verdict
        )
        lines.append(
            f"| {row.task}/{row.dataset} | {row.metric} | {a} | {b} | {sign}{gap} [{low}, {high}] | "
            f"{row.adjusted:.2g} | {least if math.isfinite(row.detectable) else 'unknown'} | {row.n} | "
            f"{verdict} |"
        )
    return "\n".join(lines) + "\n"


def _shared_metrics(pairing: Pairing) -> list[str]:
    # A result from before the task gave a metric has no score of it.
    everyone = (*pairing.first, *pairing.second)
    return [name for name in pairing.first[0].metrics if all(name in one.metrics for one in everyone)]


def _row(pairing: Pairing, name: str) -> Comparison:
    score = pairing.first[0].metrics[name]
    difference = paired_difference(pairing, name)
    outcomes = None
    if len(pairing.first) == 1:
        one, two = (read_samples(side[0]) for side in (pairing.first, pairing.second))
        outcomes = mcnemar_outcomes(_metric(pairing, name), one, two)
    pvalue = difference.pvalue() if outcomes is None else mcnemar_exact(*outcomes)
    detectable = difference.detectable()
    if outcomes is not None:
        detectable = max(detectable, _FEWEST_DISCORDANT / difference.n)
    return Comparison(
        task=pairing.first[0].task,
        dataset=pairing.first[0].dataset,
        metric=name,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        first=_average(pairing.first, name),
        second=_average(pairing.second, name),
        difference=difference.value,
        ci95=difference.interval(0.95),
        n=difference.n,
        seeds=len(pairing.first),
        test="paired bootstrap" if outcomes is None else "exact McNemar",
        pvalue=pvalue,
        adjusted=pvalue,
        detectable=detectable,
    )


def _metric(pairing: Pairing, name: str) -> Metric:
    score: Score = pairing.first[0].metrics[name]
    return Metric(name, statistic_from(score.statistic), score.higher_is_better, score.unit)


def _average(side: Sequence[Result], name: str) -> float:
    return sum(one.metrics[name].value for one in side) / len(side)


def _by_seed(first: Sequence[Result], second: Sequence[Result]) -> Pairing:
    ours, theirs = _seeds(first), _seeds(second)
    common = [seed for seed in ours if seed in theirs]
    if not common and len(ours) == len(theirs) == 1:
        return Pairing(tuple(ours.values()), tuple(theirs.values()))
    if not common:
        raise DataError(
            f"{first[0].task}/{first[0].dataset}: seeds {sorted(ours)} against {sorted(theirs)}; "
            "measure both with one of them (`ssleval run --seed`)"
        )
    return Pairing(tuple(ours[seed] for seed in common), tuple(theirs[seed] for seed in common))


def _seeds(side: Sequence[Result]) -> dict[int, Result]:
    found: dict[int, Result] = {}
    for one in sorted(side, key=lambda one: (one.settings.get("seed", 0), one.created)):
        seed = int(one.settings.get("seed", 0))
        if seed in found and found[seed].key != one.key:
            precisions = (found[seed].settings.get("precision"), one.settings.get("precision"))
            raise ConfigError(
                f"{one.model} has two results of {one.task}/{one.dataset} with seed {seed} "
                f"(precision {precisions[0]} and {precisions[1]}); name the result files"
            )
        found[seed] = one
    return found


def _why_not(ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    nearest = min((mismatches(one, two) for one in ours for two in theirs), key=len)
    return (
        f"{ours[0].task}/{ours[0].dataset} cannot be compared: {'; '.join(nearest)}; "
        "measure both the same way"
    )


def _differing(name: str, one: Any, two: Any) -> list[str]:
    if one == two:
        return []
    if not isinstance(one, Mapping) or not isinstance(two, Mapping):
        return [f"{name}: {_short(one)} against {_short(two)}"]
    keys = sorted({*one, *two})
    return [line for key in keys for line in _differing(f"{name}.{key}", one.get(key), two.get(key))]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}..." if len(text) > 40 else text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
