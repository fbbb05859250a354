"""Small pictures of the items that models disagree on most, and the names of classes."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssleval.core import DatasetOptions, Split
from ssleval.datasets.catalog import open_dataset
from ssleval.display.report.items import item_view
from ssleval.errors import DataError
from ssleval.results import read_samples
from ssleval.results.ranking import Board

SIDE = 72
"""Pixels of a thumbnail's longer side."""

JUDGES = 12
"""Best entries of a board whose disagreement picks the items."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures of some items of a board, and what its labels are called."""

    by_id: Mapping[str, str]
    """``data:`` addresses."""
    class_names: tuple[str, ...]
    """In label order."""


def pictures(board: Board, count: int, options: DatasetOptions) -> Pictures:
    """Return pictures of the ``count`` items on which the best entries of a board disagree most.

    Raises:
        DataError: the opened dataset is not the one that was scored, so that ids could name other images.
    """
    result = board.entries[0].result
    opened = open_dataset(board.dataset, options)
    limit = result.settings.get("limit")
    opened = opened if limit is None else opened.limited(int(limit))
    split = opened.split(board.split)
    scored = result.data.get("fingerprints", {}).get(f"{opened.card.name}/{board.split}")
    if scored != split.fingerprint:
        raise DataError(
            f"{board.name}: the {board.split} split opened here is not the one that was scored; give its "
            "--data-root, or leave the dataset out of --images"
        )
    place = {name: row for row, name in enumerate(split.ids)}
    wanted = [name for name in _disputed(board)[:count] if name in place]
    return Pictures({name: _thumbnail(split, place[name]) for name in wanted}, opened.card.class_names)


def _disputed(board: Board) -> list[str]:
    """Return ids of items whose values differ between the best entries, those that differ most first."""
    values: dict[str, list[float]] = {}
    for entry in board.entries[:JUDGES]:
        samples = read_samples(entry.result)
        view = item_view(samples, entry.result.metrics[board.headline])
        if view is not None and view.values is not None:
            for name, value in zip(samples.ids, view.values.tolist(), strict=True):
                values.setdefault(name, []).append(value)
    spread = {name: float(np.nanstd(each)) for name, each in values.items() if len(each) > 1}
    return sorted((name for name, one in spread.items() if one > 0), key=lambda name: -spread[name])


def _thumbnail(split: Split, row: int) -> str:
    image = split.image(row).convert("RGB")
    scale = SIDE / max(image.size)
    # Tiny pictures are enlarged as they are, with square pixels; large ones are averaged.
    how, kind = (Image.Resampling.NEAREST, "png") if scale > 1 else (Image.Resampling.LANCZOS, "jpeg")
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, how).save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
