"""The training images, decoded once and kept where they fit in memory, and their order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Int, UInt8

from ssleval.core import Dataset, Split
from ssleval.errors import ConfigError


class Images:
    """Decoded images of some splits, concatenated.

    They stay in memory if a sample of them suggests that all fit into ``memory_gb``. Otherwise threads
    decode each batch while the one before it is trained on.
    """

    def __init__(self, dataset: Dataset, splits: Sequence[str], memory_gb: float) -> None:
        if twice := [name for name in dict.fromkeys(splits) if splits.count(name) > 1]:
            raise ConfigError(f"train: split {', '.join(twice)} is stated twice; state every split once")
        self._splits = [dataset.split(name) for name in splits]
        self._starts = np.cumsum([0, *(len(split) for split in self._splits)])
        self.fingerprints = {name: dataset.split(name).fingerprint for name in splits}
        probe = [self._decode(row).nbytes for row in range(0, len(self), max(1, len(self) // 16))]
        fits = len(self) * float(np.mean(probe)) <= memory_gb * 1e9 if probe else False
        self._image = cache(self._decode) if fits else self._decode

    def __len__(self) -> int:
        return int(self._starts[-1])

    def batches(self, orders: Iterator[Int[np.ndarray, " b"]]) -> Iterator[list[UInt8[np.ndarray, "H W 3"]]]:
        """Yield the images of each of ``orders``, decoding one batch ahead."""
        with ThreadPoolExecutor() as threads:
            submitted = ([threads.submit(self._image, int(row)) for row in order] for order in orders)
            # A pair is complete when the batch after this one is being decoded.
            for futures, _ in pairwise(chain(submitted, [[]])):
                yield [future.result() for future in futures]

    def _decode(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        split: Split = self._splits[index]
        return np.array(split.image(row - int(self._starts[index])).convert("RGB"))


def epoch_order(seed: int, epoch: int, count: int, batch: int) -> Int[np.ndarray, "s b"]:
    """Return the shuffled rows of every full batch of an epoch; an incomplete last batch is dropped."""
    steps = count // batch
    if not steps:
        raise ConfigError(f"train: {count} images make no batch of {batch}; --batch-size {count} or fewer")
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[: steps * batch].reshape(steps, batch)
