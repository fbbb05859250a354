"""Scores along an axis, as results hold them: by depth, resolution or number of training images.

Imports no torch.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssleval.results.ranking import Board, boards
from ssleval.results.record import Result, read_samples

_AXES = (
    (
        "depth of the block, as a fraction of the model's",
        re.compile(r"@(?P<line>\w+)-(?P<x>\d+)/12$"),
        1 / 12,
    ),
    ("side of the image in pixels", re.compile(r"@(?P<line>\w+)-(?P<x>\d+)px$"), 1.0),
    ("training images per class", re.compile(r"@(?P<x>\d+)shot-(?P<line>\w+)$"), 1.0),
)
"""What an axis is called, the names of the scores along it, and the factor of their number."""
FEWEST = 2
"""Points of a curve."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One model along one axis."""

    label: str
    """The model, and the vector or classifier where the results of its task hold several."""
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Ends of the 95 % intervals over scored images."""
    chosen: int = -1
    """The place that held-out training images chose; -1: elsewhere, or nothing was chosen."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that may be compared."""

    title: str
    axis: str
    curves: tuple[Curve, ...]


def panels(results: Iterable[Result], ranked: Sequence[Board] | None = None) -> list[Panel]:
    """Return the curves of all results, those of a board in one panel; ``ranked`` are their boards.

    A score is a point where its name says so, as ``top1@cls-3/12``, ``top1@pooled-224px`` and
    ``top1@5shot-logreg`` do.
    """
    found: list[Panel] = []
    for board in boards(results) if ranked is None else ranked:
        for axis, pattern, factor in _AXES:
            curves = [
                curve
                for entry in board.entries
                for curve in _curves(entry.result, entry.label, pattern, factor)
            ]
            if curves:
                score = board.headline.partition("@")[0]
                found.append(Panel(f"{board.name}: {score.replace('_', ' ')}", axis, tuple(curves)))
    return found


def _curves(result: Result, label: str, pattern: re.Pattern[str], factor: float) -> list[Curve]:
    lines: dict[str, list[tuple[float, int, str]]] = {}
    kind = result.headline.partition("@")[0]
    names = [name for name in result.metrics if name.startswith(f"{kind}@")]
    # Places are counted along all lines, as the task counts them.
    matched = [(name, match) for name in names if (match := pattern.search(name))]
    for place, (name, match) in enumerate(matched):
        lines.setdefault(match["line"], []).append((int(match["x"]) * factor, place, name))
    lines = {line: sorted(points) for line, points in lines.items() if len(points) >= FEWEST}
    chosen = _chosen(result) if lines else -1
    return [
        _curve(result, label if len(lines) == 1 else f"{label}, {line}", points, chosen)
        for line, points in lines.items()
    ]


def _curve(result: Result, label: str, points: Sequence[tuple[float, int, str]], chosen: int) -> Curve:
    scores = [result.metrics[name] for _, _, name in points]
    places = [place for _, place, _ in points]
    return Curve(
        label,
        tuple(x for x, _, _ in points),
        tuple(score.value for score in scores),
        tuple(score.ci95[0] for score in scores),
        tuple(score.ci95[1] for score in scores),
        places.index(chosen) if chosen in places else -1,
    )


def _chosen(result: Result) -> int:
    """Return the place that a result of the task curves was chosen at."""
    if result.task == "curves":
        columns = result.leading.statistic.get("columns", {})
        return int(read_samples(result, (*columns.values(), "place"))["place"][0])
    return -1
