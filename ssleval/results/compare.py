"""Compare two models on the items that both were scored on. Imports no torch.

Right-or-wrong samples of one probe seed are tested with the exact McNemar test, all others with the
paired t-test; Holm's method corrects over all rows. Results of several probe seeds are paired and averaged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssleval.core import Samples
from ssleval.core.escape import markdown_cell, markdown_table
from ssleval.errors import ConfigError, DataError
from ssleval.metrics.paired import Difference, holm, mcnemar_exact, mcnemar_outcomes, paired_over_seeds
from ssleval.results.numbers import decimals, shown, with_interval
from ssleval.results.record import Result, by_comparable, grouped, read_samples, refuse_unlike

_FEWEST_DISCORDANT = 6
"""With fewer items that only one model gets right, exact McNemar cannot reach p = 0.05."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Comparable results of two models on one task and dataset, seed by seed."""

    first: tuple[Result, ...]
    second: tuple[Result, ...]

    @property
    def name(self) -> str:
        """Return ``task/dataset``."""
        return f"{self.first[0].task}/{self.first[0].dataset}"

    @property
    def headline(self) -> str:
        """Name of the metric that ranks."""
        return self.first[0].headline

    def means(self, name: str) -> tuple[float, float]:
        """Return the score of both sides in one metric, averaged over seeds."""
        sides = [[result.metrics[name].value for result in side] for side in (self.first, self.second)]
        here, there = (sum(values) / len(values) for values in sides)
        return here, there


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
    """Number of shared items."""
    seeds: int
    test: str
    pvalue: float
    adjusted: float
    """The p-value after Holm's correction over all rows of the comparison."""
    detectable: float
    """The smallest true difference that this test set would have shown (80 % power, 5 % level)."""

    @property
    def verdict(self) -> str:
        """Which model is better at the 5 % level, after correction."""
        if self.adjusted >= 0.05:
            return "no difference shown"
        return "second better" if (self.difference > 0) == self.higher_is_better else "first better"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the verdict; numbers that are not finite are None, for JSON."""
        fields = {**asdict(self), "ci95": [_finite(end) for end in self.ci95], "verdict": self.verdict}
        return {name: _finite(value) for name, value in fields.items()}


def compare(
    first: Sequence[Result], second: Sequence[Result], *, every_metric: bool = False
) -> list[Comparison]:
    """Return one row per shared task, for its leading metric; or one per metric, with ``every_metric``.

    Errors are those of `pairings`.
    """
    rows = [
        _row(pairing, name)
        for pairing in pairings(first, second)
        for name in (_shared_metrics(pairing) if every_metric else [pairing.headline])
    ]
    adjusted = holm([row.pvalue for row in rows])
    return [replace(row, adjusted=float(p)) for row, p in zip(rows, adjusted, strict=True)]


def pairings(first: Sequence[Result], second: Sequence[Result]) -> list[Pairing]:
    """Match results by task, dataset, everything else that must agree, and seed.

    Raises:
        DataError: nothing is shared, or what must agree differs; the message names the field.
        ConfigError: one side has several results for one comparison.
    """
    ours, theirs = (grouped(side, lambda result: (result.task, result.dataset)) for side in (first, second))
    if not ours.keys() & theirs.keys():
        here, there = (", ".join(sorted("/".join(name) for name in side)) for side in (ours, theirs))
        raise DataError(
            f"nothing to compare: one side has {here}, the other {there}; "
            "measure both with one task on one dataset"
        )
    pairs: list[Pairing] = []
    for name in sorted(ours.keys() & theirs.keys()):
        here, there = by_comparable(ours[name]), by_comparable(theirs[name])
        if not here.keys() & there.keys():
            nearest = min((mismatches(one, other) for one in ours[name] for other in theirs[name]), key=len)
            raise DataError(
                f"{'/'.join(name)} cannot be compared: {'; '.join(nearest)}; measure both the same way"
            )
        for shared in here.keys() & there.keys():
            refuse_unlike([*here[shared], *there[shared]])
        pairs += [_by_seed(here[digest], there[digest]) for digest in sorted(here.keys() & there.keys())]
    return pairs


def mismatches(first: Result, second: Result) -> list[str]:
    """Return what must agree in two results and does not, as ``field: value against value``."""
    pairs = {
        "task": (first.task, second.task),
        "split": (first.data.get("test_split"), second.data.get("test_split")),
        "exif": (first.data.get("exif", False), second.data.get("exif", False)),
        "fingerprint": (first.data.get("fingerprints"), second.data.get("fingerprints")),
        "protocol": (first.protocol, second.protocol),
        "skip_corrupt": (first.settings.get("skip_corrupt"), second.settings.get("skip_corrupt")),
        "pixels": (first.settings.get("pixels", "exact"), second.settings.get("pixels", "exact")),
    }
    return [line for name, values in pairs.items() for line in _differing(name, *values)]


def unlike_precision(pair: Pairing) -> str:
    """Return the precisions of both sides, as ``fp32 against fp16``; '' where all results have the same."""
    sides = [
        sorted({str(result.settings.get("precision", "fp32")) for result in side})
        for side in (pair.first, pair.second)
    ]
    return "" if len({*sides[0], *sides[1]}) == 1 else " against ".join(map(" and ".join, sides))


def paired_difference(pairing: Pairing, name: str) -> Difference:
    """Return the second minus the first in one metric, over shared items and seeds."""
    first, second = _samples(pairing)
    return paired_over_seeds(pairing.first[0].metrics[name].metric(name), second, first)


def markdown(rows: Sequence[Comparison], first: str, second: str) -> str:
    """Return a Markdown table; ``first`` and ``second`` are the names of the models.

    Fractions and their differences are in percent and percentage points, other scores in their unit.
    """
    first, second = markdown_cell(first), markdown_cell(second)
    heads = ["task", "metric", first, second, "difference [95 %]", "p (Holm)", "smallest detectable", "n", ""]
    cells: list[list[str]] = []
    for row in rows:
        places = decimals(row.unit, compared=True)
        here, there = (shown(value, row.unit, places) for value in (row.first, row.second))
        sign = "+" if row.difference > 0 else ""
        gap = sign + with_interval(row.difference, row.ci95, row.unit, places)
        least = shown(row.detectable, row.unit, places) if math.isfinite(row.detectable) else "unknown"
        verdict = {"first better": f"{first} better", "second better": f"{second} better"}
        name = markdown_cell(f"{row.task}/{row.dataset}")
        said, p = verdict.get(row.verdict, row.verdict), f"{row.adjusted:.2g}"
        cells.append([name, markdown_cell(row.metric), here, there, gap, p, least, str(row.n), said])
    return markdown_table(heads, cells, texts={0, 1, 8}) + "\n"


def _shared_metrics(pairing: Pairing) -> list[str]:
    # Results of an earlier version of a task may lack a metric.
    results = (*pairing.first, *pairing.second)
    return [name for name in pairing.first[0].metrics if all(name in result.metrics for result in results)]


def _row(pairing: Pairing, name: str) -> Comparison:
    result, score = pairing.first[0], pairing.first[0].metrics[name]
    metric, (first, second) = score.metric(name), _samples(pairing)
    difference = paired_over_seeds(metric, second, first)
    pvalue, detectable, test = difference.pvalue(), difference.detectable(), "paired t"
    if len(first) == 1 and (outcomes := mcnemar_outcomes(metric, first[0], second[0])) is not None:
        pvalue, test = mcnemar_exact(*outcomes), "exact McNemar"
        detectable = max(detectable, _FEWEST_DISCORDANT / difference.n)
    here, there = pairing.means(name)
    return Comparison(
        task=result.task,
        dataset=result.dataset,
        metric=name,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        first=here,
        second=there,
        difference=difference.value,
        ci95=difference.interval(0.95),
        n=difference.n,
        seeds=len(first),
        test=test,
        pvalue=pvalue,
        adjusted=pvalue,
        detectable=detectable,
    )


def _samples(pairing: Pairing) -> tuple[list[Samples], list[Samples]]:
    first, second = ([read_samples(result) for result in side] for side in (pairing.first, pairing.second))
    return first, second


def _by_seed(first: Sequence[Result], second: Sequence[Result]) -> Pairing:
    ours, theirs = _seeds(first), _seeds(second)
    if len(ours) == len(theirs) == 1:
        return Pairing((*ours.values(),), (*theirs.values(),))
    common = [seed for seed in ours if seed in theirs]
    if not common:
        raise DataError(
            f"{first[0].task}/{first[0].dataset}: seeds {sorted(ours)} against {sorted(theirs)}; "
            "measure both with the same seed (`ssleval run --seed`)"
        )
    return Pairing(tuple(ours[seed] for seed in common), tuple(theirs[seed] for seed in common))


def _seeds(side: Sequence[Result]) -> dict[int, Result]:
    by_seed: dict[int, Result] = {}
    for result in sorted(side, key=lambda result: (result.settings.get("seed", 0), result.created)):
        seed = int(result.settings.get("seed", 0))
        known = by_seed.setdefault(seed, result)
        if known.key != result.key:
            precisions = " and ".join(str(other.settings.get("precision")) for other in (known, result))
            raise ConfigError(
                f"{result.model} has two results of {result.task}/{result.dataset} with seed {seed} "
                f"(precision {precisions}); name the result files"
            )
        by_seed[seed] = result
    return by_seed


def _differing(name: str, here: Any, there: Any) -> list[str]:
    if here == there:
        return []
    if not isinstance(here, Mapping) or not isinstance(there, Mapping):
        return [f"{name}: {_short(here)} against {_short(there)}"]
    keys = sorted({*here, *there})
    return [line for key in keys for line in _differing(f"{name}.{key}", here.get(key), there.get(key))]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}..." if len(text) > 40 else text


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
