"""Scores by depth, resolution or training images, as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssleval.core.escape import visible
from ssleval.display.figures import refuse_ending, save
from ssleval.errors import DataError
from ssleval.results.curves import Panel, panels
from ssleval.results.record import read_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 2


def draw_score_curves(results: Path, out: Path) -> None:
    """Draw every curve that the results below a folder hold, with 95 % intervals, into a PNG, PDF or SVG.

    A ring marks the place that held-out training images chose.

    Raises:
        DataError: no result holds a curve, a file cannot be read, or ``out`` has another ending.
    """
    from matplotlib.figure import Figure

    refuse_ending(out)
    found = panels(read_all(results))
    if not found:
        raise DataError(
            f"no curve in {results}: run --task curves, or --task fewshot --set fewshot.shots=1,2,5"
        )
    columns, rows = min(_COLUMNS, len(found)), -(-len(found) // _COLUMNS)
    figure = Figure(figsize=(5.5 * columns, 4.8 * rows), layout="constrained", dpi=100)
    for index, panel in enumerate(found):
        _draw(figure.add_subplot(rows, columns, index + 1), panel)
    save(figure, out)


def _draw(axes: "Axes", panel: Panel) -> None:
    axes.set_title(visible(panel.title), fontsize="medium", parse_math=False)
    axes.set_xlabel(panel.axis)
    axes.set_ylabel("%")
    for curve in panel.curves:
        y, low, high = (100 * np.array(values) for values in (curve.y, curve.low, curve.high))
        (line,) = axes.plot(curve.x, y, marker=".", label="_")
        line.set_label(visible(curve.label).replace("$", r"\$").lstrip("_"))
        axes.fill_between(curve.x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if curve.chosen >= 0:
            at = curve.x[curve.chosen], y[curve.chosen]
            axes.plot(*at, marker="o", markersize=11, fillstyle="none", color=line.get_color())
    # Below the axes: nowhere inside them is free of curves.
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.15))
    axes.grid(alpha=0.3)
