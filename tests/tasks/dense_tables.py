"""A source of patch grids that were never extracted, and a dataset of their dense targets, in memory."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ssleval.core import Dataset, DatasetCard, Readout, Split
from tests.tasks.feature_tables import Tables

SIDE, WIDTH = 4, 6
"""Patches a side, and channels."""


def masks(count: int, classes: int = 3, *, scale: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Masks of whole patches of one class; the last column of pixels is ignored."""
    random = np.random.default_rng(seed)
    found = [random.integers(0, classes, (SIDE, SIDE)).astype(np.uint8) for _ in range(count)]
    large = [one.repeat(scale, 0).repeat(scale, 1) for one in found]
    for one in large:
        one[:, -1] = 255
    return large


def tables(
    targets: dict[str, list[np.ndarray]],
    describe: Callable[[np.ndarray], np.ndarray],
    noise: float = 0.1,
) -> Tables:
    """Patch tokens that `describe` the target at the centre of every patch, with noise."""

    def features(readout: Readout, split: str) -> np.ndarray:
        own = [len(str(readout)), abs(readout.block), readout.norm, len(split)]
        random = np.random.default_rng(own)
        rows: list[np.ndarray] = []
        for target in targets[split]:
            step = len(target) // SIDE
            rows.append(describe(target[step // 2 :: step, step // 2 :: step]))
        grid = np.stack(rows)
        found = grid + noise * random.standard_normal(grid.shape)
        return (found.mean((1, 2)) if readout.kind == "cls" else found).astype(np.float16)

    counts = {split: np.zeros(len(rows), dtype=np.int64) for split, rows in targets.items()}
    return Tables(counts, features, WIDTH)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Return ``[h w d]`` unit vectors of classes."""
    return np.eye(WIDTH)[labels % WIDTH]


def dense_dataset(targets: dict[str, list[np.ndarray]], **card: Any) -> Dataset:
    """A dataset of those targets, whose images nobody may ask for."""

    def opened(split: str) -> Split:
        ids = [f"{split}/{row}" for row in range(len(targets[split]))]
        return Split(ids, _closed, None, f"fake {split}", lambda row: targets[split][row])

    lengths = {split: len(rows) for split, rows in targets.items()}
    return Dataset(DatasetCard("dense", lengths=lengths, **card), opened)


def _closed(index: int) -> Any:
    raise AssertionError(f"image {index} was decoded")
