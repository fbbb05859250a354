"""Which rows a head is fitted on: held-out rows to choose its settings on, and few-shot subsets."""

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from ssleval.errors import ConfigError, DataError


def hold_out(targets: Shaped[np.ndarray, "n ..."], fraction: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Return which rows are held out: ``fraction`` of every class, at least one row.

    A class with a single row keeps it for fitting. Of multi-labels ``[n c]`` all rows are one class.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"held-out fraction is {fraction}; it must lie between 0 and 1")
    generator = np.random.default_rng(seed)
    held = np.zeros(len(targets), dtype=bool)
    groups = [np.arange(len(targets))] if targets.ndim > 1 else _by_class(targets)
    for rows in groups:
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held[generator.permutation(rows)[:count]] = True
    if not held.any():
        raise DataError("no class has two training images: nothing can be held out to choose settings on")
    return held


def few_per_class(labels: Int[np.ndarray, " n"], shots: float, seed: int) -> Int[np.ndarray, " m"]:
    """Return the rows of a few-shot training set, class after class.

    ``shots`` of 1 and more are images per class; below 1 they are a fraction of every class, at least one
    image. A class with fewer images gives all of them.

    Source:
        DINOv2 ``eval/knn.py:filter_train`` for whole numbers, DINOv3 ``eval/data.py`` for fractions.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: list[np.ndarray] = []
    for rows in _by_class(labels):
        count = int(shots) if shots >= 1 else max(1, int(shots * len(rows)))
        drawn.append(rows[torch.randperm(len(rows), generator=generator).numpy()[:count]])
    return np.concatenate(drawn)


def _by_class(labels: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " m"]]:
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])
