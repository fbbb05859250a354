"""Published recipes for linear heads: what the heads see, how long they are trained, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssleval.core import Interpolation, Readout

BLOCKS = (*(Readout("cls", block) for block in (-4, -3, -2, -1)), Readout("mean"))
"""Readouts of DINOv2's linear heads, in the order of their columns."""
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
"""DINOv2's base learning rates, for a batch of 256."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a paper trains its linear heads."""

    rates: tuple[float, ...]
    """Base learning rates, for a batch of 256."""
    batch_size: int
    portion: int
    """A batch holds at most this part of the training set (8: an eighth)."""
    epochs: int
    fewest: int
    """Iterations on small sets, where the epochs would be too few steps to converge."""
    most: int = 1_000_000
    by_epoch: bool = False
    """The learning rate changes once an epoch, and the best epoch counts, not the last."""
    warmup_epochs: int = 0
    optimizer: Literal["sgd", "lars"] = "sgd"
    standardise: bool = False
    view_interpolation: Interpolation = "bicubic"
    readouts: tuple[Readout, ...] = BLOCKS
    by_width: bool = False
    """One column set, by the width of the model: four blocks up to 384 channels, else one and the mean."""

    def length(self, count: int, iterations: int = 0, batch_size: int = 0) -> tuple[int, int]:
        """Return iterations and batch size for ``count`` training images; those given are kept."""
        fitting = 1 << (max(16, count // self.portion).bit_length() - 1)
        batch_size = batch_size or min(self.batch_size, fitting)
        steps = self.epochs * count // batch_size
        return iterations or min(max(steps, self.fewest), self.most), batch_size

    def columns(self, sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Return the column sets in the concatenation of readouts of these ``sizes``.

        There is a single one, or they are `BLOCKS` or the last ones of these: DINOv2's sets are one block,
        the same with the mean patch, all blocks, and those with the mean patch.
        """
        if len(sizes) == 1:
            return ((0, sizes[0]),)
        edges = [0, *np.cumsum(sizes).tolist()]
        first, last, mean, end = 0, *edges[-3:]
        sets = (last, mean), (last, end), (first, mean), (first, end)
        if self.by_width:
            return sets[2:3] if sizes[-1] <= 384 else sets[1:2]
        # Of a single block, one and all are the same.
        return tuple(dict.fromkeys(sets))


RECIPES = {
    "dinov2": Recipe(RATES, 1024, 8, epochs=10, fewest=500, most=12_500),
    "dino": Recipe(
        (1e-3,), 1024, 8, epochs=100, fewest=2_000,
        by_epoch=True, view_interpolation="bilinear", by_width=True,
    ),
    "mae": Recipe(
        (0.1,), 16_384, 1, epochs=90, fewest=2_000,
        warmup_epochs=10, optimizer="lars", standardise=True, readouts=BLOCKS[3:4],
    ),
}  # fmt: skip
