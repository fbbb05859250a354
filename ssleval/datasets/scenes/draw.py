"""Random numbers that are equal in every library version, on every machine and in every call order.

Only the raw 64-bit stream of Philox is used, which NumPy promises to keep. The methods of
``numpy.random.Generator`` may change from one release to the next.
"""

import hashlib
from collections.abc import Sequence
from math import sqrt
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draw:
    """A stream of numbers named by words and integers: equal names, equal streams."""

    def __init__(self, *name: str | int) -> None:
        self.name = name
        key = hashlib.sha256(repr(name).encode()).digest()
        self._raw = np.random.Philox(key=int.from_bytes(key[:16], "little")).random_raw

    def child(self, *name: str | int) -> "Draw":
        """Return an independent stream, so that one part of a scene cannot change another."""
        return Draw(*self.name, *name)

    def unit(self) -> float:
        """Return a number in [0, 1), all 53 bits of it drawn."""
        return (int(self._raw()) >> 11) * 2.0**-53

    def uniform(self, low: float | int, high: float | int) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, count: int) -> int:
        """Return an integer in [0, count); the bias of the multiplication is under 1e-15."""
        return int(self.unit() * count)

    def choice(self, items: Sequence[T]) -> T:
        """Return one item."""
        return items[self.below(len(items))]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.unit() < probability

    def shuffled(self, count: int) -> list[int]:
        """Return the integers below ``count`` in random order (Fisher and Yates)."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def turn(self) -> tuple[float, float]:
        """Return cosine and sine of a uniform angle.

        By rejection in the disk: a square root is exactly rounded everywhere, a cosine is not.
        """
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            squared = x * x + y * y
            if 0.01 < squared <= 1:
                return x / sqrt(squared), y / sqrt(squared)

    def lattice(self, count: int) -> np.ndarray:
        """Return ``count`` float32 numbers in [0, 1), for noise."""
        raw = np.asarray(self._raw(count), np.uint64)
        return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
