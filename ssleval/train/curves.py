"""Training curves: everything `log.jsonl` holds, on one picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ssleval.errors import DataError
from ssleval.train.log import read_log
from ssleval.train.watch import NOTHING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TERMS = (
    ("losses", ("loss", "dino", "ibot", "koleo")),
    ("of the teacher, nats", ("teacher_entropy", "kl")),
    ("information, nats", ("information",)),
    ("rank of the teacher's features", ("feature_rank",)),
)
_SCHEDULES = ("lr", "weight_decay", "momentum", "teacher_temp")
_ENDINGS = {".png", ".pdf", ".svg"}
_ACROSS = 4
_SMOOTHED = 50
"""A curve of more points than this is a running mean over as many parts of it, the points faint behind it."""


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    series: Mapping[str, Float[np.ndarray, "n _c"]]
    """By name: step, value and, of an evaluation, the ends of its interval."""
    marked: Mapping[str, float] = field(default_factory=dict)
    """Values worth a line across, by what they mean."""


def draw_curves(folder: Path, out: Path) -> None:
    """Draw losses, what shows a collapse, evaluations with their 95 % intervals, and schedules.

    Args:
        folder: what `ssleval train --out` was given; the run may be under way.
        out: PNG, PDF or SVG, by its ending.

    Raises:
        DataError: there is no step in ``folder``'s log, or ``out`` has another ending.
    """
    from matplotlib.figure import Figure

    if out.suffix.lower() not in _ENDINGS:
        raise DataError(f"{out}: curves are drawn as png, pdf or svg; name such a file with --out")
    panels = list(_panels(read_log(folder)))
    if not panels:
        raise DataError(f"no training log in {folder}; name the folder that `ssleval train --out` wrote")
    rows = -(-len(panels) // _ACROSS)
    figure = Figure(figsize=(4 * _ACROSS, 3 * rows), layout="constrained", dpi=100)
    figure.suptitle(folder.resolve().name, fontsize="medium")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, _ACROSS, index + 1)
        _draw(axes, panel)
        if index + _ACROSS >= len(panels):
            axes.set_xlabel("step")
    figure.savefig(out)


def _panels(lines: Sequence[Mapping[str, Any]]) -> Iterator[_Panel]:
    steps = [line for line in lines if "evaluation" not in line]
    for title, names in _TERMS:
        series = {name: points for name in names if len(points := _points(steps, name))}
        if series.keys() == {"loss", "dino"}:
            del series["dino"]
        if series:
            marked = {"collapse": NOTHING} if "information" in series else {}
            yield _Panel(title, series, marked=marked)
    scored = [line for line in lines if "evaluation" in line]
    names = dict.fromkeys(name for line in scored for name in line["evaluation"])
    # top1@10 and top1@20 are one metric at two settings: one picture of both.
    for metric in dict.fromkeys(name.partition("@")[0] for name in names):
        alike = [name for name in names if name.partition("@")[0] == metric]
        yield _Panel(f"{metric}, 95 % intervals", {name: _scores(scored, name) for name in alike})
    for name in _SCHEDULES:
        if len(points := _points(steps, name)):
            yield _Panel(name, {name: points})


def _points(steps: Sequence[Mapping[str, Any]], name: str) -> Float[np.ndarray, "n 2"]:
    found = [(line["step"], line[name]) for line in steps if name in line]
    return np.array(found, np.float64).reshape(-1, 2)


def _scores(scored: Sequence[Mapping[str, Any]], name: str) -> Float[np.ndarray, "n 4"]:
    found = [(line["step"], line["evaluation"][name]) for line in scored if name in line["evaluation"]]
    return np.array([(step, score["value"], *score["ci95"]) for step, score in found], np.float64)


def _draw(axes: "Axes", panel: _Panel) -> None:
    axes.set_title(panel.title, fontsize="medium")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for name, points in panel.series.items():
        steps, values, *interval = points.T
        noisy = not interval and len(points) > _SMOOTHED and name not in _SCHEDULES
        (line,) = axes.plot(*(_smooth(points).T if noisy else (steps, values)), label=name, linewidth=1.5)
        if noisy:
            axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.5)
        if interval:
            line.set(marker="o", markersize=3)
            axes.fill_between(steps, *interval, color=line.get_color(), alpha=0.15, linewidth=0)
    for name, value in panel.marked.items():
        axes.axhline(value, color="crimson", linestyle="--", linewidth=1, label=name)
    if len(panel.series) > 1 or panel.marked:
        axes.legend(fontsize="small", frameon=False)


def _smooth(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Return centred running means over a fiftieth of the points, steps and values alike."""
    width = -(-len(points) // _SMOOTHED)
    return np.lib.stride_tricks.sliding_window_view(points, width, axis=0).mean(axis=-1)
