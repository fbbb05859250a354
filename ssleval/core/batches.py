"""Batches of training rows: a stream of them for every kind of head, and a reader of tables."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssleval.core.vocabulary import FeatureTable, Readout
from ssleval.errors import ConfigError


class Stream:
    """An endless stream of shuffled passes over ``count`` rows, read at any places, cheapest in order."""

    def __init__(self, count: int, seed: int) -> None:
        if not count:
            raise ConfigError("no training rows: a head needs at least one")
        self.count, self.seed = count, seed
        self._begin()

    def rows(self, start: int, end: int) -> Int[np.ndarray, " b"]:
        """Return the rows at the places from ``start`` to before ``end``."""
        parts: list[Int[np.ndarray, " p"]] = []
        for number in range(start // self.count, -(-end // self.count)):
            first = number * self.count
            parts.append(self._pass(number)[max(start - first, 0) : end - first])
        return np.concatenate(parts)

    def _pass(self, number: int) -> Int[np.ndarray, " n"]:
        if number < self._number:
            self._begin()
        while self._number < number:
            self._order, self._number = self._generator.permutation(self.count), self._number + 1
        return self._order

    def _begin(self) -> None:
        self._generator, self._number = np.random.default_rng(self.seed), -1
        self._order = np.empty(0, dtype=np.int64)


def batches(count: int, size: int, iterations: int, seed: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Yield batches of ``size`` rows, cut from a `Stream` over ``count`` rows.

    A size beyond ``count`` repeats rows within a batch.
    """
    stream = Stream(count, seed)
    for iteration in range(iterations):
        yield stream.rows(iteration * size, (iteration + 1) * size)


def table_rows(
    tables: Sequence[FeatureTable],
    readouts: Sequence[Readout],
    rows: Int[np.ndarray, " n"],
    device: str,
    *,
    tokens: bool = False,
) -> Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b *n d"]]:
    """Return a function that reads float32 rows from memory-mapped arrays, and never more than asked.

    ``rows`` of the first table come first, then the same of the next. Readouts are one vector of all their
    channels, or ``tokens`` of one width after one another, ``[b n d]``.
    """
    arrays = [[table[readout] for readout in readouts] for table in tables]

    def read(index: Int[np.ndarray, " b"]) -> Float[Tensor, "b *n d"]:
        which, place = np.divmod(index, len(rows))
        blocks: dict[int, np.ndarray] = {}
        for number in np.unique(which).tolist():
            parts = [array[rows[place[which == number]]] for array in arrays[number]]
            if tokens:
                parts = [part.reshape(len(part), -1, part.shape[-1]) for part in parts]
            blocks[number] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        inputs = np.empty((len(index), *next(iter(blocks.values())).shape[1:]), np.float32)
        for number, block in blocks.items():
            inputs[which == number] = block
        return torch.from_numpy(inputs).to(device)

    return read
