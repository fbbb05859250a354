"""`matches`: mutual nearest patches of two images by cosine, joined by lines."""

import colorsys
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ssleval.core.backbone import Backbone
from ssleval.display.pictures.canvas import Tile, page
from ssleval.display.pictures.look import Look, Picture, patch_tokens
from ssleval.errors import ConfigError
from ssleval.heads.matching import mutual

HEIGHT = 420
"""Pixels of both images' heights."""
LINES = 40
APART = 2
"""Least distance in patches between the starts of two lines."""
GAP = 10
FINE = 2
"""Factor by which lines are drawn larger and then scaled down, for smooth edges."""


def draw_matches(backbone: Backbone, pictures: Sequence[Picture], look: Look) -> Image.Image:
    """Draw the mutual nearest patches of two images with the largest cosines."""
    if len(pictures) != 2:
        raise ConfigError(f"matches are between two images; {len(pictures)} given")
    grids = patch_tokens(backbone, pictures, look)
    matched = mutual(*(grid.flatten(0, 1) for grid in grids)).tolist()
    both = [_scaled(picture.image) for picture in pictures]
    left = both[0].width + GAP * FINE
    sheet = Image.new("RGB", (left + both[1].width, HEIGHT * FINE), "white")
    sheet.paste(both[0])
    sheet.paste(both[1], (left, 0))
    pen = ImageDraw.Draw(sheet)
    # The largest cosines last, on top of the others.
    for first, second in reversed(_spread(matched, grids[0].shape[1])):
        start = _centre(first, grids[0].shape, both[0].size)
        end = _centre(second, grids[1].shape, both[1].size)
        colour = _colour(start, both[0].size)
        end = (end[0] + left, end[1])
        pen.line((start, end), fill=colour, width=2 * FINE)
        for x, y in (start, end):
            pen.ellipse((x - 8, y - 8, x + 8, y + 8), fill=colour, outline="white", width=FINE)
    title = f"{backbone.card.name}: mutual nearest patches, block {look.block}, {look.side(backbone)} px"
    names = f"{pictures[0].name} | {pictures[1].name}"
    note = f"{len(matched)} mutual nearest pairs; drawn are those of the largest cosines that are apart."
    return page(title, [[Tile(sheet, names)]], [note], max(sheet.size) // FINE)


def _spread(pairs: Sequence[Sequence[int]], columns: int) -> list[tuple[int, int]]:
    """Return the first pairs, in order, that do not start next to an earlier one."""
    kept: list[tuple[int, int]] = []
    for first, second in pairs:
        row, column = divmod(first, columns)
        apart = (max(abs(row - one // columns), abs(column - one % columns)) >= APART for one, _ in kept)
        if len(kept) < LINES and all(apart):
            kept.append((first, second))
    return kept


def _scaled(image: Image.Image) -> Image.Image:
    height = HEIGHT * FINE
    width = max(1, round(image.width * height / image.height))
    return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)


def _centre(patch: int, grid: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    row, column = divmod(patch, grid[1])
    return round((column + 0.5) * size[0] / grid[1]), round((row + 0.5) * size[1] / grid[0])


def _colour(place: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the colour of a line: its hue is the angle of its start around the middle of the first image."""
    right, down = (2 * at / side - 1 for at, side in zip(place, size, strict=True))
    hue = math.atan2(down, right) / (2 * math.pi) % 1
    red, green, blue = (round(part * 255) for part in colorsys.hsv_to_rgb(hue, 0.85, 0.95))
    return red, green, blue
