"""Edited copies, whose originals are to be found among distractors, in the style of Copydays.

The database holds 200 originals and 800 distractors. Every original has six copies, one for each edit. Edits
are in arithmetic that is equal on every machine.
"""

from collections.abc import Callable, Mapping
from math import cos, pi, sqrt

import numpy as np
from jaxtyping import Float64, UInt8

from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.compose import compose
from ssleval.datasets.scenes.draw import Draw
from ssleval.datasets.scenes.render import render
from ssleval.datasets.scenes.vectors import half_turn

ORIGINALS = 200
"""The first images of the database."""
_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
"""Quantisation table of ITU-T T.81, annex K.1, row by row."""


def _round(values: Float64[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.floor(np.minimum(np.maximum(values, 0.0), 255.0) + 0.5).astype(np.uint8)


def _sampled(image: UInt8[np.ndarray, "H W 3"], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    # Bilinear, border repeated; rows and columns [H W] are in pixels.
    height, width = image.shape[:2]
    r = np.minimum(np.maximum(rows, 0.0), height - 1.001)
    c = np.minimum(np.maximum(columns, 0.0), width - 1.001)
    top, left = np.floor(r).astype(np.int64), np.floor(c).astype(np.int64)
    down, right = (r - top)[..., None], (c - left)[..., None]
    pixels = image.astype(np.float64)
    upper = pixels[top, left] * (1 - right) + pixels[top, left + 1] * right
    lower = pixels[top + 1, left] * (1 - right) + pixels[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(side, dtype=np.float64)
    return np.broadcast_to(steps[:, None], (side, side)), np.broadcast_to(steps[None, :], (side, side))


def _crop(draw: Draw, image: np.ndarray) -> np.ndarray:
    share = draw.uniform(0.55, 0.85)
    rows, columns = _grid(len(image))
    room = (1 - share) * (len(image) - 1)
    top, left = draw.uniform(0, room), draw.uniform(0, room)
    return _round(_sampled(image, top + rows * share, left + columns * share))


def _rotate(draw: Draw, image: np.ndarray) -> np.ndarray:
    c, s = half_turn(draw.uniform(0.06, 0.3) * draw.choice((-1, 1)))
    rows, columns = _grid(len(image))
    middle = (len(image) - 1) / 2
    y, x = rows - middle, columns - middle
    return _round(_sampled(image, middle + c * y - s * x, middle + s * y + c * x))


def _blur(draw: Draw, image: np.ndarray) -> np.ndarray:
    values = image.astype(np.float64)
    for _ in range(draw.below(8) + 4):  # repeated [1 2 1] / 4 tends to a Gaussian
        for axis in (0, 1):
            padded = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
            count = values.shape[axis]
            before, here, after = (padded.take(np.arange(k, k + count), axis) for k in range(3))
            values = ((before + after) + (here + here)) * 0.25
    return _round(values)


def _jpeg(draw: Draw, image: np.ndarray) -> np.ndarray:
    # The loss of JPEG without its file: codecs round differently from version to version.
    coarse = draw.uniform(1.5, 5.0)
    table = np.array(_LUMINANCE.split(), np.float64).reshape(8, 8, 1) * coarse
    tiles = image.astype(np.float64).reshape(12, 8, 12, 8, 3).transpose(1, 3, 0, 2, 4)
    waves, blocks = _cosines(), tiles.reshape(8, 8, -1) - 128
    kept = np.floor(_along_both(waves, blocks) / table + 0.5) * table
    back = _along_both(np.ascontiguousarray(waves.T), kept) + 128
    return _round(back.reshape(8, 8, 12, 12, 3).transpose(2, 0, 3, 1, 4).reshape(96, 96, 3))


def _cosines() -> Float64[np.ndarray, "8 8"]:
    scale = [sqrt(1 / 8)] + [sqrt(2 / 8)] * 7
    rows = [[round(scale[k] * cos(pi * (2 * n + 1) * k / 16), 9) for n in range(8)] for k in range(8)]
    return np.array(rows, np.float64)


def _along_both(waves: Float64[np.ndarray, "8 8"], blocks: Float64[np.ndarray, "8 8 n"]) -> np.ndarray:
    for _ in range(2):
        total = np.zeros_like(blocks)
        for n in range(8):
            total = total + waves[:, n, None, None] * blocks[n]
        blocks = total.transpose(1, 0, 2)
    return blocks


def _overlay(draw: Draw, image: np.ndarray) -> np.ndarray:
    result = image.copy()
    side = len(image)
    for _ in range(draw.below(3) + 2):
        height, width = (int(side * draw.uniform(0.12, 0.4)) for _ in range(2))
        top, left = draw.below(side - height), draw.below(side - width)
        color = [draw.below(256) for _ in range(3)]
        result[top : top + height, left : left + width] = color
    return result


def _color(draw: Draw, image: np.ndarray) -> np.ndarray:
    values = image.astype(np.float64)
    grey = (values[..., 0:1] + values[..., 1:2] + values[..., 2:3]) / 3
    values = grey + (values - grey) * draw.uniform(0, 1.4)
    gain = np.array([draw.uniform(0.6, 1.3) for _ in range(3)])
    return _round(values * gain + draw.uniform(-30, 30))


EDITS: Mapping[str, Callable[[Draw, np.ndarray], np.ndarray]] = {
    "crop": _crop,
    "blur": _blur,
    "jpeg": _jpeg,
    "overlay": _overlay,
    "color": _color,
    "rotation": _rotate,
}
"""For every name, a function of a random stream and an image ``[96 96 3]`` that returns the edited image."""


def original(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return image ``index`` of the database."""
    return {"image": render(compose(draw, index % len(CATEGORIES))).image}


def copy_item(draw: Draw, index: int) -> dict[str, np.ndarray]:
    """Return an edited copy, the index of its original and that of its edit."""
    source, edit = divmod(index, len(EDITS))
    image = original(Draw("scenes@1", "copies_database", source), source)["image"]
    edited = list(EDITS.values())[edit](draw, image)
    return {"image": edited, "original": np.array(source, np.int64), "edit": np.array(edit, np.int64)}
