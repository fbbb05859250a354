"""Thumbnails of the items that models disagree on most, and the names of classes."""

import math
from collections import defaultdict

import numpy as np
from PIL import Image

from ssleval.core import DatasetOptions, Split
from ssleval.display.report.drawn import data_url
from ssleval.display.report.items import item_view
from ssleval.display.scored import scored_set
from ssleval.results import read_samples
from ssleval.results.ranking import Board

SIDE = 72
"""Length of a thumbnail's longer side, in pixels."""

JUDGES = 12
"""The items are those on which this many best entries of a board disagree."""


def thumbnails(board: Board, count: int, options: DatasetOptions) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return ``data:`` URLs, by id, of the ``count`` most disputed items of a board, and its class names.

    Raises:
        DataError: the opened dataset is not the one that was scored, so its ids may name other images.
    """
    result = board.entries[0].result
    dataset, name = scored_set(result, options, "leave the dataset out of --images")
    split = dataset.split(name)
    row_of = {name: row for row, name in enumerate(split.ids)}
    ids = [name for name in _disputed(board)[:count] if name in row_of]
    return {name: _thumbnail(split, row_of[name]) for name in ids}, dataset.card.class_names


def _disputed(board: Board) -> list[str]:
    """Return the ids of items whose values differ between the best entries, largest deviation first."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for entry in board.entries[:JUDGES]:
        samples = read_samples(entry.result)
        view = item_view(samples, entry.result.metrics[board.headline])
        if view is not None and view.values is not None:
            for name, value in zip(samples.ids, view.values.tolist(), strict=True):
                if not math.isnan(value):
                    values[name].append(value)
    deviations = {name: float(np.std(of_item)) for name, of_item in values.items() if len(of_item) > 1}
    return sorted((name for name in deviations if deviations[name] > 0), key=lambda name: -deviations[name])


def _thumbnail(split: Split, row: int) -> str:
    image = split.image(row).convert("RGB")
    scale = SIDE / max(image.size)
    # Tiny pictures are enlarged with square pixels, large ones are averaged.
    method, kind = (Image.Resampling.NEAREST, "png") if scale > 1 else (Image.Resampling.LANCZOS, "jpeg")
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return data_url(image.resize(size, method), kind)
