"""Non-inferiority, task by task: pass, fail or inconclusive. Imports no torch.

A task passes when a one-sided test at 5 % shows that the candidate is worse by less than the margin. It fails
when such a test, at 5 % over all tasks together (Holm), shows that it is worse by more than the margin.
Otherwise it is inconclusive: the test set is too small to tell. All tasks must pass, so passing needs no
correction. The standard error covers the sampling of items and, where probes are trained, their seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from ssleval.core import COMPUTING_FIELDS
from ssleval.errors import ConfigError
from ssleval.metrics.paired import Difference, holm
from ssleval.results import Result
from ssleval.results.compare import Pairing, paired_difference, unlike_precision

Outcome: TypeAlias = Literal["pass", "fail", "inconclusive"]

FIRST_RUN = "first run"
"""Begins the reason of a pass without a baseline."""
DEFAULT_MARGIN = 0.01
"""One point, for metrics that are fractions."""
_LEVEL = 0.05
_OF_THE_NETWORK = (*COMPUTING_FIELDS, "resize", "resize_mode", "interpolation")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one task, and its reason."""

    task: str
    dataset: str
    metric: str
    unit: str
    baseline: float
    """Averaged over seeds."""
    candidate: float
    gain: float
    """How much better the candidate is on shared items; below 0 it is worse, also for errors."""
    ci90: tuple[float, float]
    """Interval of the gain; its lower end, the one-sided 95 % bound, must lie above minus the margin."""
    margin: float
    n: int
    seeds: int
    pvalue: float
    """Of the test for being worse by more than the margin, corrected over tasks; small means it is worse."""
    outcome: Outcome
    reason: str
    seconds: float = 0.0
    """What measuring both sides took this time; what was stored before takes next to nothing."""

    @property
    def is_first(self) -> bool:
        """Return whether there was no baseline, so that the candidate is compared with itself."""
        return self.reason.startswith(FIRST_RUN)

    @property
    def name(self) -> str:
        """Return ``task/dataset``."""
        return f"{self.task}/{self.dataset}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields; infinite ends of an interval are None, as JSON wants."""
        return {**asdict(self), "ci90": [end if math.isfinite(end) else None for end in self.ci90]}


def judge(pairs: Sequence[Pairing], margins: Mapping[str, float]) -> list[Verdict]:
    """Return the verdict on every pair of baseline (first) and candidate (second).

    ``margins`` are by ``task/dataset``, or by task; other metrics that are fractions get `DEFAULT_MARGIN`.
    """
    limits = [_margin(pair, margins) for pair in pairs]
    gains = [_gain(pair) for pair in pairs]
    # The null hypothesis is a gain of -margin or more: one minus the p-value of -margin or less.
    worse = holm([1 - gain.pvalue_below(-limit) for gain, limit in zip(gains, limits, strict=True)])
    return [_verdict(*row) for row in zip(pairs, gains, limits, map(float, worse), strict=True)]


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """Return fail if any task fails, else inconclusive if any is, else pass."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def _margin(pair: Pairing, margins: Mapping[str, float]) -> float:
    task, unit = pair.first[0].task, pair.first[0].leading.unit
    if margin := margins.get(pair.name) or margins.get(task):
        if unit == "fraction" and margin >= 1:
            raise ConfigError(
                f"gate: a margin of {margin:g} on {pair.name} passes everything; 0.01 is a point"
            )
        return margin
    if unit != "fraction":
        raise ConfigError(
            f"gate: {pair.name} is scored in {unit}, which has no default margin; "
            f"set one with --margin {task}=NUMBER or in the suite"
        )
    return DEFAULT_MARGIN


def _gain(pair: Pairing) -> Difference:
    difference = paired_difference(pair, pair.headline)
    higher = pair.first[0].leading.higher_is_better
    return difference if higher else replace(difference, value=-difference.value)


def _verdict(pair: Pairing, gain: Difference, margin: float, worse: float) -> Verdict:
    outcome, reason = _decide(pair, gain, margin, worse)
    if unlike := unlike_precision(pair):
        reason += f"; {unlike} is part of the difference"
    baseline, candidate = pair.means(pair.headline)
    return Verdict(
        task=pair.first[0].task,
        dataset=pair.first[0].dataset,
        metric=pair.headline,
        unit=pair.first[0].leading.unit,
        baseline=baseline,
        candidate=candidate,
        gain=gain.value,
        ci90=gain.interval(1 - 2 * _LEVEL),
        margin=margin,
        n=gain.n,
        seeds=len(pair.first),
        pvalue=worse,
        outcome=outcome,
        reason=reason,
    )


def _decide(pair: Pairing, gain: Difference, margin: float, worse: float) -> tuple[Outcome, str]:
    if all(_is_same(*sides) for sides in zip(pair.first, pair.second, strict=True)):
        return "pass", "the same weights under the same protocol"
    if gain.error == 0 and gain.value == 0:
        return "inconclusive", "no item differs although the weights do; the noise is unknown"
    if gain.pvalue_below(-margin) <= _LEVEL:
        return "pass", "shown to be worse by less than the margin, if at all"
    if worse <= _LEVEL:
        return "fail", "shown to be worse by more than the margin"
    advice = _advice(gain, margin, len(pair.first))
    return "inconclusive", f"the interval contains minus the margin; {advice}"


def _is_same(first: Result, second: Result) -> bool:
    """Return whether only the model's name and description differ; the protocols are equal already."""

    def decisive(side: Result) -> tuple[Any, ...]:
        card = [side.backbone.get(name) for name in _OF_THE_NETWORK]
        return side.weights_sha256, side.settings, card, side.metrics

    return first.key == second.key or decisive(first) == decisive(second)


def _advice(gain: Difference, margin: float, seeds: int) -> str:
    if seeds > 1:
        return "use more images or more seeds"
    needed = gain.n * (gain.detectable(level=2 * _LEVEL) / margin) ** 2
    if needed <= gain.n:
        return "it is worse by about the margin; use many more images or a wider margin"
    about = f"about {needed:,.0f}" if math.isfinite(needed) else "many more"
    return f"to pass, an equal candidate takes {about} images"
