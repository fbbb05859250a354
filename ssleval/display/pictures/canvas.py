"""Tiles with captions on a white page, colours for maps and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ssleval.datasets.scenes.sheet import PALETTE

TILE = 224
"""Pixels of a tile's longer side."""
GAP = 10
MARGIN = 18
LINE = 20
"""Pixels of a line of text."""
INK = (34, 34, 34)
FAINT = (110, 110, 110)

HEAT = np.array([(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)])
"""From least to most: dark violet, red, yellow, even in lightness."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of a page, with a line under it."""

    image: Image.Image
    caption: str = ""
    frame: tuple[int, int, int] | None = None
    """Colour of a frame around it."""


def page(
    title: str, rows: Sequence[Sequence[Tile | None]], notes: Sequence[str] = (), side: int = TILE
) -> Image.Image:
    """Return rows of tiles under a title, with lines of text at the foot; None leaves a place empty.

    ``side`` is the number of pixels of a tile's longer side.
    """
    tiles = [[None if one is None else resized(one.image, side) for one in row] for row in rows]
    columns = max(map(len, rows))
    widths = [max((_size(row, place)[0] for row in tiles), default=0) for place in range(columns)]
    heights = [max(_size(row, place)[1] for place in range(len(row))) + LINE for row in tiles]
    width = 2 * MARGIN + sum(widths) + GAP * (columns - 1)
    width = max(width, *(2 * MARGIN + _length(line) for line in (title, *notes)))
    height = 2 * MARGIN + LINE + GAP + sum(heights) + GAP * (len(rows) - 1) + LINE * len(notes)
    sheet = Image.new("RGB", (width, height), "white")
    text(sheet, (MARGIN, MARGIN - 4), title, INK, 15)
    top = MARGIN + LINE + GAP
    for row, images, tall in zip(rows, tiles, heights, strict=True):
        left = MARGIN
        for tile, image, wide in zip(row, images, widths, strict=False):
            if tile is not None and image is not None:
                _place(sheet, tile, image, (left, top), wide)
            left += wide + GAP
        top += tall + GAP
    for line, note in enumerate(notes):
        text(sheet, (MARGIN, top - GAP + 4 + line * LINE), note, FAINT)
    return sheet


def resized(image: Image.Image, side: int) -> Image.Image:
    """Return an image whose longer side has ``side`` pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def text(
    sheet: Image.Image, at: tuple[int, int], line: str, colour: tuple[int, int, int] = INK, size: int = 13
) -> None:
    """Write one line, ``at`` being its upper left corner."""
    ImageDraw.Draw(sheet).text(at, line, fill=colour, font=ImageFont.load_default(size))


def heat(values: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Image.Image:
    """Return a map with values in [0, 1] in colours, upsampled bilinearly to ``size`` (width, height)."""
    fine = Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    place = np.asarray(fine).clip(0, 1) * (len(HEAT) - 1)
    low = np.floor(place).astype(int).clip(0, len(HEAT) - 2)
    part = (place - low)[..., None]
    return Image.fromarray((HEAT[low] * (1 - part) + HEAT[low + 1] * part).round().astype(np.uint8))


def blended(image: Image.Image, over: Image.Image, part: float) -> Image.Image:
    """Return ``part`` of one image over a grey copy of another, which sets its size."""
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, over.convert("RGB").resize(image.size, Image.Resampling.NEAREST), part)


def label_colours(labels: UInt8[np.ndarray, "H W"]) -> Image.Image:
    """Return a mask of classes in the colours of VOC: class k has colour k + 1, for 0 is black there."""
    return Image.fromarray(PALETTE[np.where(labels == 255, 0, labels.astype(np.int64) + 1)])


def legend(names: Sequence[str], labels: Sequence[int], width: int) -> Image.Image:
    """Return swatches of classes with their names, in as many lines as ``width`` asks for."""
    places: list[tuple[int, int]] = []
    left, line = MARGIN, 0
    for label in labels:
        wide = 18 + _length(names[label]) + 16
        if left > MARGIN and left + wide > width - MARGIN:
            left, line = MARGIN, line + 1
        places.append((left, line * LINE))
        left += wide
    sheet = Image.new("RGB", (width, (line + 1) * LINE + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for (x, y), label in zip(places, labels, strict=True):
        pen.rectangle((x, y + 2, x + 12, y + 14), fill=tuple(int(value) for value in PALETTE[label + 1]))
        text(sheet, (x + 18, y), names[label])
    return sheet


def beside(rows: list[list[Tile | None]]) -> list[list[Tile | None]]:
    """Return rows two by two, where there are more than three."""
    if len(rows) <= 3:
        return rows
    return [[tile for row in rows[start : start + 2] for tile in row] for start in range(0, len(rows), 2)]


def stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    """Return one image with another under it."""
    sheet = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    return sheet


def _place(sheet: Image.Image, tile: Tile, image: Image.Image, at: tuple[int, int], width: int) -> None:
    sheet.paste(image, at)
    if tile.frame is not None:
        box = (at[0], at[1], at[0] + image.width - 1, at[1] + image.height - 1)
        ImageDraw.Draw(sheet).rectangle(box, outline=tile.frame, width=4)
    text(sheet, (at[0], at[1] + image.height + 3), _shortened(tile.caption, width), FAINT, 12)


def _size(row: Sequence[Image.Image | None], place: int) -> tuple[int, int]:
    image = row[place] if place < len(row) else None
    return (0, 0) if image is None else image.size


def _length(line: str, size: int = 15) -> int:
    return int(ImageFont.load_default(size).getlength(line)) + 1


def _shortened(line: str, width: int) -> str:
    if _length(line, 12) <= width:
        return line
    while line and _length(f"...{line}", 12) > width:
        line = line[1:]
    return f"...{line}"
