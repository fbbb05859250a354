"""Training curves: one figure of everything in the log of `ssleval train`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ssleval.core.escape import visible
from ssleval.display.figures import refuse_ending, save
from ssleval.display.report.curves import training_curves
from ssleval.train.logfile import LOSSES, collapse_limit, prototypes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TERMS = (
    ("losses", ("loss", *LOSSES)),
    ("of the teacher, nats", ("teacher_entropy", "kl")),
    ("information, nats", ("information",)),
    ("rank of features", ("feature_rank",)),
    ("rank of projections", ("projection_rank",)),
    ("spread of projections", ("projection_spread",)),
)
_SCHEDULES = ("lr", "weight_decay", "momentum", "teacher_temp")
_COLUMNS = 4
_SMOOTHED = 50
"""A curve of more points is drawn as a running mean over 1/50 of them, with the points faint behind it."""
_Panel: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Curves by name: ``x``, ``y`` and, for evaluations, ``low`` and ``high``."""


def draw_curves(folder: Path, out: Path) -> None:
    """Draw losses, collapse indicators, evaluations with their 95 % intervals, and schedules.

    ``folder`` is the ``--out`` folder of `ssleval train`, whose run may be in progress; ``out`` is a PNG, PDF
    or SVG file.
    """
    from matplotlib.figure import Figure

    refuse_ending(out)
    curves = training_curves(folder)
    panels = list(_panels(curves["terms"], curves["scores"]))
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 3 * rows), layout="constrained", dpi=100)
    figure.suptitle(visible(curves["name"]), fontsize="medium", parse_math=False)
    for index, (title, panel) in enumerate(panels):
        axes = figure.add_subplot(rows, _COLUMNS, index + 1)
        axes.set_title(visible(title), fontsize="medium", parse_math=False)
        _draw(axes, panel)
        if "information" in panel:
            limit = collapse_limit(prototypes_of(folder), panel["information"]["y"][0])
            axes.axhline(limit, color="crimson", linestyle="--", linewidth=1, label="collapse")
        _label_curves(axes, panel)
        if index + _COLUMNS >= len(panels):
            axes.set_xlabel("step")
    save(figure, out)


def _panels(terms: _Panel, scores: _Panel) -> Iterator[tuple[str, _Panel]]:
    for title, names in _TERMS:
        panel = {name: terms[name] for name in names if name in terms}
        if "loss" in panel and len(panel) == 2:
            panel = {"loss": panel["loss"]}
        if panel:
            yield title, panel
    # top1@10 and top1@20 are one metric with two parameters: they share a panel.
    for metric in dict.fromkeys(name.partition("@")[0] for name in scores):
        same = [name for name in scores if name.partition("@")[0] == metric]
        yield f"{metric}, 95 % intervals", {name: scores[name] for name in same}
    for name in _SCHEDULES:
        if name in terms:
            yield name, {name: terms[name]}


def _draw(axes: "Axes", panel: _Panel) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for name, curve in panel.items():
        steps, values = np.asarray(curve["x"]), np.asarray(curve["y"])
        noisy = "low" not in curve and len(steps) > _SMOOTHED and name not in _SCHEDULES
        drawn = (_smooth(steps), _smooth(values)) if noisy else (steps, values)
        (line,) = axes.plot(*drawn, label=_label(name), linewidth=1.5)
        if noisy:
            axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.5)
        if "low" in curve:
            line.set(marker="o", markersize=3)
            ends = curve["low"], curve["high"]
            axes.fill_between(steps, *ends, color=line.get_color(), alpha=0.15, linewidth=0)


def _label_curves(axes: "Axes", panel: _Panel) -> None:
    if len(panel) > 1 or "information" in panel:
        legend = axes.legend(fontsize="small", frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _label(name: str) -> str:
    # Matplotlib leaves out of a legend what begins with an underscore.
    shown = visible(name)
    return f" {shown}" if shown.startswith("_") else shown


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred running mean over a fiftieth of the values."""
    width = -(-len(values) // _SMOOTHED)
    return np.lib.stride_tricks.sliding_window_view(values, width).mean(axis=-1)
