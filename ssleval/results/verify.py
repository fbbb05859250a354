"""Compare our results with the figures that papers print, under the same protocol. Imports no torch.

A *match* differs by no more than the tolerance of the protocol plus half a unit of the last printed digit: on
the same images, sampling intervals do not count. A *drift* differs by more, and lists what to check first:
what the record shows to differ from the published run, and other scores at hand that equal the published one.
If anything differs in what was measured, the figure is *not comparable*, whatever the numbers are.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ssleval.core import BackboneCard
from ssleval.core.text import counted
from ssleval.results.numbers import decimals, scale, shown
from ssleval.results.papers import Figure, Figures, Measured, Row
from ssleval.results.record import Result, Score

Status: TypeAlias = Literal["match", "drift", "not comparable", "not mapped"]

_PREPROCESSING = ("image_size", "resize", "resize_mode", "interpolation")
_COMPUTING = ("position_embedding", "pooling", "mean", "std")
_EFFECT = {
    "precision": 0.2, "pixels": 0.1, "skipped": 0.2, "interpolation": 0.5, "resize": 0.5, "resize_mode": 1.0,
    "position_embedding": 0.5, "image_size": 2.0, "mean": 5.0, "std": 5.0, "pooling": 10.0, "weights": 20.0,
}  # fmt: skip
"""Points by which a difference in this field usually changes an accuracy: orders of magnitude."""


@dataclass(frozen=True, slots=True)
class Line:
    """One published figure and how our result compares with it."""

    status: Status
    row: Row
    model: str
    """The zoo's name; '' if no model of the zoo is known to be the published one."""
    figure: Figure | None = None
    result: Result | None = None
    differs: tuple[str, ...] = ()
    """Why it is not comparable or not mapped, as ``field: ...``."""
    checks: tuple[str, ...] = ()
    """What to check if it drifts, likeliest first."""

    @property
    def score(self) -> Score | None:
        """Our score in the metric of the figure, where there is one."""
        if self.result is None or self.figure is None:
            return None
        return self.result.metrics.get(self.figure.measured.metric)

    @property
    def ours(self) -> float | None:
        """Our score in the printed unit: points, or the metric's own."""
        return None if self.score is None else self.score.value * scale(self.score.unit)

    @property
    def gap(self) -> float | None:
        """Ours minus published, in the printed unit."""
        return None if self.ours is None or self.figure is None else self.ours - self.figure.value

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON object; what does not exist is None."""
        measured = self.figure.measured if self.figure else None
        result, score = self.result, self.score
        return {
            "status": self.status,
            "model": result.model if result else self.model or None,
            "task": measured.protocol.task if measured else None,
            "dataset": result.dataset if result else measured.test.name if measured else None,
            "metric": measured.metric if measured else None,
            "ours": self.ours,
            "ci95": [end * scale(score.unit) for end in score.ci95] if score else None,
            "published": float(self.row.value),
            "gap": self.gap,
            "tolerance": self.figure.tolerance if self.figure else None,
            "because": measured.protocol.because if measured else None,
            "protocol": measured.protocol.name if measured else None,
            "differs": list(self.differs),
            "checks": list(self.checks),
            "source": self.row.source,
            "published_as": {
                name: getattr(self.row, name)
                for name in ("model", "arch", "pretrain_data", "task", "dataset", "metric", "note")
            },
            "path": str(result.path) if result and result.path else None,
        }


def verify(
    results: Sequence[Result], figures: Figures, cards: Mapping[str, BackboneCard], models: Iterable[str]
) -> Iterator[Line]:
    """Yield the lines of all mapped figures of ``models``: one per comparable result, or one why not.

    ``models`` are names of the zoo, and ``cards`` its cards, which describe the published weights.
    """
    names = set(models)
    for figure in figures.mapped:
        if figure.measured.model in names:
            yield from _lines(figure, results, cards[figure.measured.model])


def differences(result: Result, measured: Measured, card: BackboneCard) -> list[str]:
    """Return what makes a result not comparable with a figure, as ``field: ours, published ...``."""
    return _weights(result, card) + measured_otherwise(result, measured)


def measured_otherwise(result: Result, measured: Measured) -> list[str]:
    """Return how the measurement differs from that of a figure, whatever the model is."""
    test, protocol = measured.test, measured.protocol
    lines = _unlike(measured)
    if result.data.get("test_split") != test.split:
        lines.append(f"split: {result.data.get('test_split')}, published {test.split}")
    fitted = result.data.get("lengths", {}).get(result.data.get("train_split"), 0)
    if test.train and fitted != test.train:
        lines.append(f"train: {counted(fitted, 'image')}, published {test.train:,}")
    limit = result.settings.get("limit")
    if limit is not None:
        lines.append(f"limit: {counted(limit, 'image')} of every split, published all of them")
    score = result.metrics.get(measured.metric)
    if score is None:
        known = ", ".join(list(result.metrics)[:4])
        lines.append(f"metric: {known}, published {measured.metric}")
    elif score.n != test.items and limit is None:
        lines.append(f"items: {score.n:,}, published {test.items:,}")
    for name, accepted in protocol.settings.items():
        value = result.protocol.get(name)
        if not _agrees(value, accepted):
            lines.append(f"{name}: {_short(value)}, published {_accepted(accepted)}")
    return lines


def _lines(figure: Figure, results: Sequence[Result], card: BackboneCard) -> Iterator[Line]:
    measured, task = figure.measured, figure.measured.protocol.task
    here = [
        result
        for result in results
        if result.model in measured.names and result.task == task and measured.test.is_of(result.dataset)
    ]
    judged = [(result, differences(result, measured, card)) for result in here]
    line = Line("not comparable", figure.row, measured.model, figure)
    for result in (result for result, differs in judged if not differs):
        compared = replace(line, status="match", result=result)
        gap = compared.gap
        assert gap is not None
        if abs(gap) > figure.tolerance + 1e-9:
            compared = replace(
                compared, status="drift", checks=tuple(_checks(figure, result, gap, here, card))
            )
        yield compared
    if not judged:
        data = f"{measured.test.name}:PATH" if measured.test.location else measured.test.name
        command = f"ssleval run --model {measured.model} --task {task} --dataset {data}"
        yield replace(line, differs=(f"dataset: no result on it; `{command}`", *_unlike(measured)))
    elif all(differs for _, differs in judged):
        result, differs = min(judged, key=lambda pair: len(pair[1]))
        yield replace(line, result=result, differs=tuple(differs))


def _unlike(measured: Measured) -> list[str]:
    return [f"{name}: {text}" for name, text in measured.protocol.unlike.items()]


def _checks(
    figure: Figure, result: Result, gap: float, here: Sequence[Result], card: BackboneCard
) -> Iterator[str]:
    """Yield what to check: first other scores at hand that equal the published one, then differences.

    Differences are sorted by how near their usual effect is to the gap: ten points are seldom rounding.
    """
    yield from _hits(figure, result, here)
    is_fraction = result.metrics[figure.measured.metric].unit == "fraction"
    points = abs(gap) if is_fraction else 100 * abs(gap) / abs(figure.value)
    differing = dict(_recorded(figure, result, card))
    for name in sorted(differing, key=lambda name: abs(math.log(_EFFECT[name] / points))):
        yield f"{name}: {differing[name]}"
    if not differing:
        yield (
            "nothing that is recorded differs from the published run; check the copies of images and weights "
            f"(weights_sha256 {result.weights_sha256[:8]}; `ssleval run --full-hash`), and `ssleval doctor`"
        )


def _hits(figure: Figure, result: Result, here: Sequence[Result]) -> Iterator[str]:
    """Yield other scores of this model on these images that equal the published number."""
    metric = figure.measured.metric
    base, _, parameter = metric.partition("@")
    for name, score in result.metrics.items():
        if name != metric and name.partition("@")[0] == base and _equals(score, figure):
            yield f"{parameter}: {name} of the same result is {_compared(score)}"
    for other in here:
        score = other.metrics.get(metric)
        if other is not result and score is not None and _equals(score, figure):
            differing = _contrast(result, other)
            yield f"{differing}: a result that differs in this is {_compared(score)} ({other.key[:12]})"


def _equals(score: Score, figure: Figure) -> bool:
    return abs(score.value * scale(score.unit) - figure.value) <= figure.tolerance


def _compared(score: Score) -> str:
    return shown(score.value, score.unit, decimals(score.unit, compared=True))


def _contrast(result: Result, other: Result) -> str:
    here, there = (
        {"weights": r.weights_sha256[:8], "model": r.model, **r.settings, **r.protocol}
        for r in (result, other)
    )
    pairs = {name: (here.get(name), there.get(name)) for name in here | there}
    differing = [f"{name} {_short(a)} against {_short(b)}" for name, (a, b) in pairs.items() if a != b]
    return ", ".join(differing) or "nothing recorded"


def _recorded(figure: Figure, result: Result, card: BackboneCard) -> Iterator[tuple[str, str]]:
    """Yield fields of the record that differ from the published run, with both values."""
    for name in _COMPUTING + (_PREPROCESSING if figure.measured.protocol.card_geometry else ()):
        ours, theirs = result.backbone.get(name), getattr(card, name)
        if _plain(ours) != _plain(theirs):
            yield name, f"{_short(ours)} (loader {result.backbone.get('loader')}), published {_short(theirs)}"
    precision = figure.measured.protocol.precision
    if result.settings.get("precision") != precision:
        yield "precision", f"{result.settings.get('precision')}, published {precision}"
    if (pixels := result.settings.get("pixels", "exact")) != "exact":
        yield "pixels", f"{pixels}, published with PIL's"
    if skipped := sum(map(len, result.skipped.values())):
        yield "skipped", f"{counted(skipped, 'image')} that could not be decoded"
    if set(result.backbone.get("weights", {})) == {"file"}:
        yield "weights", f"a local file, {result.backbone['weights']['file']}, called like the published one"


def _weights(result: Result, card: BackboneCard) -> list[str]:
    """Return what is wrong with a local file of weights that is not named like the published one."""
    ours: Mapping[str, str] = result.backbone.get("weights") or {}
    published = card.weights.get("file") or card.weights.get("url", "").rpartition("/")[2]
    if set(ours) != {"file"} or ours["file"] == published:
        return []
    return [f"weights: the local file {ours['file']}, published {published or card.weights.get('repo')}"]


def _agrees(value: Any, accepted: Any) -> bool:
    if isinstance(accepted, Mapping):
        return isinstance(value, int | float) and value >= accepted["at_least"]
    return _plain(value) in [_plain(choice) for choice in _choices(accepted)]


def _accepted(accepted: Any) -> str:
    if isinstance(accepted, Mapping):
        return f"at least {accepted['at_least']}"
    return " or ".join(map(_short, _choices(accepted)))


def _choices(accepted: Any) -> list[Any]:
    return accepted if isinstance(accepted, list) else [accepted]


def _plain(value: Any) -> Any:
    """Return the value with tuples as the lists that JSON makes of them."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = "none" if value is None or value == "" else str(_plain(value))
    return f"{text[:40]}..." if len(text) > 40 else text
