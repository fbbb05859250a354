"""Batches of training rows, the same stream for every kind of head."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

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
