"""Our results against the figures that papers print, under the same protocol. Imports no torch.

A *match* is within the tolerance of the protocol beside half a unit of the last printed digit; on the whole
published test set both numbers are of the same images, so that the sampling interval is shown but is no part
of it. A *drift* is outside, and says what to check first: what the record shows to differ from the published
run, and other numbers at hand that are the published one. Anything that differs in what was measured makes a
figure *not comparable*, whatever the numbers are.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ssleval.core import BackboneCard
from ssleval.results.papers import Figure, Figures, Measured, Row
from ssleval.results.record import Result

Status: TypeAlias = Literal["match", "drift", "not comparable", "not mapped"]

_PREPROCESSING = ("image_size", "resize", "resize_mode", "interpolation")
_COMPUTING = ("position_embedding", "pooling", "mean", "std")
_EFFECT = {
    "precision": 0.2, "skipped": 0.2, "interpolation": 0.5, "resize": 0.5, "resize_mode": 1.0,
    "position_embedding": 0.5, "image_size": 2.0, "mean": 5.0, "std": 5.0, "pooling": 10.0, "weights": 20.0,
}  # fmt: skip
"""Points by which a difference in this field usually moves an accuracy: orders of magnitude, that rank."""


@dataclass(frozen=True, slots=True)
class Line:
    """One published figure and what became of it."""

    status: Status
    row: Row
    model: str
    """The zoo's name, '' where no model of the zoo is known to be the published one."""
    figure: Figure | None = None
    result: Result | None = None
    differs: tuple[str, ...] = ()
    """Why it is not comparable or not mapped, ``field: ...``."""
    checks: tuple[str, ...] = ()
    """What to check first where it drifts."""

    @property
    def ours(self) -> float | None:
        """Our score in the printed unit: points, or the metric's own."""
        score = self._score
        return None if score is None else score.value * _scale(score.unit)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Our 95 % interval in the same unit."""
        score = self._score
        if score is None:
            return None
        low, high = (end * _scale(score.unit) for end in score.ci95)
        return low, high

    @property
    def gap(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None or self.figure is None else self.ours - self.figure.value

    @property
    def _score(self) -> Any:
        if self.result is None or self.figure is None:
            return None
        return self.result.metrics.get(self.figure.measured.metric)

    def to_dict(self) -> dict[str, Any]:
        """Return one flat object for programs; what does not exist is None."""
        measured = self.figure.measured if self.figure else None
        result, interval = self.result, self.interval
        return {
            "status": self.status,
            "model": result.model if result else self.model or None,
            "task": measured.protocol.task if measured else None,
            "dataset": result.dataset if result else measured.test.name if measured else None,
            "metric": measured.metric if measured else None,
            "ours": self.ours,
            "ci95": list(interval) if interval else None,
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
    found: Sequence[Result], figures: Figures, cards: Mapping[str, BackboneCard], models: Iterable[str]
) -> Iterator[Line]:
    """Yield lines for every mapped figure of ``models``, names of the zoo: one for each result that it fits.

    ``cards`` are the zoo's: what the published weights were made for.
    """
    wanted = set(models)
    for figure in figures.mapped:
        measured = figure.measured
        if measured.model in wanted:
            yield from _lines(figure, found, cards[measured.model])


def differences(result: Result, measured: Measured, card: BackboneCard) -> list[str]:
    """Return what differs from the figure, the weights included, as ``field: ours, published ...``."""
    return _weights(result, card) + measured_otherwise(result, measured)


def measured_otherwise(result: Result, measured: Measured) -> list[str]:
    """Return what was measured otherwise than the figure, whatever the model."""
    test, protocol = measured.test, measured.protocol
    lines = [f"{name}: {text}" for name, text in protocol.unlike.items()]
    if result.data.get("test_split") != test.split:
        lines.append(f"split: {result.data.get('test_split')}, published {test.split}")
    limit = result.settings.get("limit")
    if limit is not None:
        lines.append(f"limit: {limit} images of every split, published all of them")
    score = result.metrics.get(measured.metric)
    if score is None:
        have = ", ".join(list(result.metrics)[:4])
        lines.append(f"metric: {have}, published {measured.metric}")
    elif score.n != test.items and limit is None:
        lines.append(f"items: {score.n:,}, published {test.items:,}")
    for name, asked in protocol.settings.items():
        value = result.protocol.get(name)
        if not _agrees(value, asked):
            lines.append(f"{name}: {_short(value)}, published {_asked(asked)}")
    return lines


def _lines(figure: Figure, found: Sequence[Result], card: BackboneCard) -> Iterator[Line]:
    measured = figure.measured
    named = [one for one in found if one.model in measured.names and one.task == measured.protocol.task]
    here = [one for one in named if measured.test.is_of(one.dataset)]
    judged = [(one, differences(one, measured, card)) for one in here]
    comparable = [one for one, differs in judged if not differs]
    for one in comparable:
        line = Line("match", figure.row, measured.model, figure, one)
        gap = line.gap
        assert gap is not None
        if abs(gap) <= figure.tolerance + 1e-9:
            yield line
        else:
            checks = tuple(_checks(line, gap, here, card))
            yield Line("drift", figure.row, measured.model, figure, one, checks=checks)
    if comparable:
        return
    if judged:
        one, differs = min(judged, key=lambda pair: len(pair[1]))
        yield Line("not comparable", figure.row, measured.model, figure, one, tuple(differs))
        return
    data = f"{measured.test.name}:PATH" if measured.test.location else measured.test.name
    asked = f"ssleval run --model {measured.model} --task {measured.protocol.task} --dataset {data}"
    missing = f"dataset: no result on it; `{asked}`"
    unlike = [f"{name}: {text}" for name, text in measured.protocol.unlike.items()]
    yield Line("not comparable", figure.row, measured.model, figure, None, (missing, *unlike))


def _checks(line: Line, gap: float, here: Sequence[Result], card: BackboneCard) -> Iterator[str]:
    """Yield what to check, likeliest first: numbers at hand that are the published one, then differences.

    Of differences those come first whose usual effect is nearest to the gap: a tenth of a point is seldom a
    wrong pooling, ten points are seldom a rounding.
    """
    figure, result = line.figure, line.result
    assert figure is not None
    assert result is not None
    yield from _hits(figure, result, here)
    points = abs(gap) if line._score.unit == "fraction" else 100 * abs(gap) / abs(figure.value)
    differing = list(_recorded(figure, result, card))
    for name, text in sorted(differing, key=lambda pair: abs(math.log(_EFFECT[pair[0]] / points))):
        yield f"{name}: {text}"
    if not differing:
        yield (
            "nothing that is recorded differs from the published run; check the copies of images and weights "
            f"(weights_sha256 {result.weights_sha256[:8]}; `ssleval run --full-hash`), and `ssleval doctor`"
        )


def _hits(figure: Figure, result: Result, here: Sequence[Result]) -> Iterator[str]:
    """Yield other scores of this model on these images that are the published number."""
    metric = figure.measured.metric

    def printed(one: Result, name: str) -> float | None:
        score = one.metrics.get(name)
        value = math.inf if score is None else score.value * _scale(score.unit)
        return value if abs(value - figure.value) <= figure.tolerance else None

    base, _, parameter = metric.partition("@")
    for name in result.metrics:
        value = printed(result, name)
        if name != metric and name.partition("@")[0] == base and value is not None:
            yield f"{parameter}: {name} of the same result is {value:.2f}"
    for other in here:
        value = printed(other, metric)
        if other is not result and value is not None:
            differing = _contrast(result, other)
            yield f"{differing}: a result that differs in this is {value:.2f} ({other.key[:12]})"


def _contrast(one: Result, two: Result) -> str:
    sides = [
        {"weights": r.weights_sha256[:8], "model": r.model, **r.settings, **r.protocol} for r in (one, two)
    ]
    names = [name for name in {**sides[0], **sides[1]} if sides[0].get(name) != sides[1].get(name)]
    shown = [f"{name} {_short(sides[0].get(name))} against {_short(sides[1].get(name))}" for name in names]
    return ", ".join(shown) or "nothing recorded"


def _recorded(figure: Figure, result: Result, card: BackboneCard) -> Iterator[tuple[str, str]]:
    """Yield fields of the record that differ from the published run, with both values."""
    for name in _COMPUTING + (_PREPROCESSING if figure.measured.protocol.card_geometry else ()):
        ours, theirs = result.backbone.get(name), getattr(card, name)
        if _plain(ours) != _plain(theirs):
            yield name, f"{_short(ours)} (loader {result.backbone.get('loader')}), published {_short(theirs)}"
    precision = figure.measured.protocol.precision
    if result.settings.get("precision") != precision:
        yield "precision", f"{result.settings.get('precision')}, published {precision}"
    skipped = sum(len(names) for names in result.skipped.values())
    if skipped:
        yield "skipped", f"{skipped} images could not be decoded and were left out"
    if set(result.backbone.get("weights", {})) == {"file"}:
        yield "weights", f"a local file, {result.backbone['weights']['file']}, called like the published one"


def _weights(result: Result, card: BackboneCard) -> list[str]:
    """Refuse a local file by another name than the published weights have."""
    ours: Mapping[str, str] = result.backbone.get("weights") or {}
    if set(ours) != {"file"}:
        return []
    published = card.weights.get("file") or card.weights.get("url", "").rpartition("/")[2]
    if ours["file"] == published:
        return []
    return [f"weights: the local file {ours['file']}, published {published or card.weights.get('repo')}"]


def _agrees(value: Any, asked: Any) -> bool:
    if isinstance(asked, Mapping):
        return isinstance(value, int | float) and value >= asked["at_least"]
    return any(_plain(value) == _plain(one) for one in (asked if isinstance(asked, list) else [asked]))


def _asked(asked: Any) -> str:
    if isinstance(asked, Mapping):
        return f"at least {asked['at_least']}"
    return " or ".join(_short(one) for one in (asked if isinstance(asked, list) else [asked]))


def _plain(value: Any) -> Any:
    """Return tuples as the lists that JSON makes of them."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = "none" if value is None or value == "" else str(_plain(value))
    return f"{text[:40]}..." if len(text) > 40 else text


def _scale(unit: str) -> float:
    return 100.0 if unit == "fraction" else 1.0
