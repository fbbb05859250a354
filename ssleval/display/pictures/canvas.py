"""A page of tiles with captions, and colours for maps and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from textwrap import wrap
from typing import Any
from warnings import catch_warnings, filterwarnings

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ssleval.datasets.scenes.sheet import PALETTE

TILE = 224
"""Pixels of a tile's longer side."""
FAINT = "#6e6e6e"
_DPI = 100


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a page, with a line under it."""

    image: Image.Image
    caption: str = ""
    frame: str | None = None
    """Colour of a frame around it."""


def page(
    title: str,
    rows: Sequence[Sequence[Tile | None]],
    notes: Sequence[str] = (),
    side: int = TILE,
    legend: Mapping[str, str] | None = None,
) -> Image.Image:
    """Return rows of tiles under a title, with notes and a legend at the foot; None leaves a place empty.

    ``side`` is about the pixels of a tile's longer side; ``legend`` has colours by name.
    """
    columns = max(map(len, rows))
    # As parts of the longer side of a tile.
    heights = [max(tile.image.height / max(tile.image.size) for tile in row if tile) for row in rows]
    width = 1.05 * columns * side / _DPI
    characters = int(width * _DPI / 7)
    head = wrap(title, characters)
    foot = [line for note in notes for line in wrap(note, characters)]
    across = max(1, characters // (8 + max(map(len, legend or [""]))))
    lines = len(head) + len(rows) + len(foot) + len(legend or ()) / across
    # A little too high: the width must bound the tiles, which then begin at the left, below the title.
    figure = Figure((width, 1.05 * sum(heights) * side / _DPI + 0.25 * lines), dpi=_DPI, layout="compressed")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, axes in zip(rows, grid, strict=True):
        for tile, axis in zip_longest(row, axes):
            _place(axis, tile, side)
    figure.suptitle("\n".join(head), x=0.05 / width, ha="left", fontsize=11, parse_math=False)
    if foot or legend:
        _add_legend(figure, "\n".join(foot), legend or {}, across)
    with catch_warnings():
        # A letter that the font lacks is drawn as a box.
        filterwarnings("ignore", "Glyph .* missing")
        return rendered(figure, bbox_inches="tight")


def rendered(figure: Figure, **options: Any) -> Image.Image:
    """Return a figure as an image; ``options`` are those of ``savefig``."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", **options)
    return Image.open(drawn, formats=("PNG",)).convert("RGB")


def heat(values: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Image.Image:
    """Return a map with values in [0, 1] in colours, upsampled bilinearly to ``size`` (width, height)."""
    fine = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return Image.fromarray(colormaps["inferno"](np.asarray(fine), bytes=True)[..., :3])


def blended(image: Image.Image, over: Image.Image, part: float) -> Image.Image:
    """Return ``part`` of one image over a grey copy of another, which sets its size."""
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, over.convert("RGB").resize(image.size, Image.Resampling.NEAREST), part)


def spotlit(
    image: Image.Image, kept: Bool[np.ndarray, "h w"], inside: Image.Image | None = None
) -> Image.Image:
    """Return the image, or ``inside``, where patches are kept; elsewhere the image, grey and dark."""
    mask = Image.fromarray(kept.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    dark = Image.blend(Image.new("RGB", image.size), image.convert("L").convert("RGB"), 0.35)
    return Image.composite(inside or image, dark, mask)


def label_colours(labels: UInt8[np.ndarray, "H W"]) -> Image.Image:
    """Return a mask of classes in the colours of VOC: class k has colour k + 1, because 0 is black there."""
    return Image.fromarray(PALETTE[np.where(labels == 255, 0, labels.astype(np.int64) + 1)])


def beside(rows: list[list[Tile | None]]) -> list[list[Tile | None]]:
    """Return rows two by two, where there are more than three."""
    if len(rows) <= 3:
        return rows
    return [[tile for row in rows[start : start + 2] for tile in row] for start in range(0, len(rows), 2)]


def _add_legend(figure: Figure, title: str, colours: Mapping[str, str], columns: int) -> None:
    # matplotlib leaves out labels that begin with an underscore.
    patches = [Patch(color=colour, label=f" {name}") for name, colour in colours.items()]
    legend = figure.legend(
        handles=patches, title=title, ncols=columns, loc="outside lower left", alignment="left",
        frameon=False, borderpad=0.2, handlelength=1, fontsize=9, title_fontproperties={"size": 9},
    )  # fmt: skip
    for text in (legend.get_title(), *legend.get_texts()):
        text.set(color=FAINT, parse_math=False)


def _place(axis: Axes, tile: Tile | None, side: int) -> None:
    axis.set(xticks=[], yticks=[], anchor="NW")
    for spine in axis.spines.values():
        spine.set(visible=bool(tile and tile.frame), linewidth=3, edgecolor=tile and tile.frame)
    if tile is not None:
        axis.imshow(tile.image)
        caption = _shortened(tile.caption, side // 8)
        axis.set_xlabel(caption, loc="left", labelpad=3, fontsize=9, color=FAINT, parse_math=False)


def _shortened(caption: str, most: int) -> str:
    # The end of a path says more than its beginning.
    return caption if len(caption) <= most else f"...{caption[3 - most :]}"
