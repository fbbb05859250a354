"""Batches of training rows, the same stream for every kind of head."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from ssleval.errors import ConfigError


def batches(count: int, size: int, iterations: int, seed: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Yield batches of ``size`` rows, cut from an endless stream of shuffled passes over ``count`` rows.

    A size beyond ``count`` repeats rows within a batch.
    """
    if not count:
        raise ConfigError("no training rows: a head needs at least one")
    generator = np.random.default_rng(seed)
    stream = np.empty(0, dtype=np.int64)
    for _ in range(iterations):
        if len(stream) < size:
            passes = -(-(size - len(stream)) // count)
            stream = np.concatenate([stream, *(generator.permutation(count) for _ in range(passes))])
        yield stream[:size]
        stream = stream[size:]
