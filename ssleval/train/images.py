"""The training images, decoded once and kept where they fit in memory, and their order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Int, UInt8

from ssleval.core import Dataset, Split
from ssleval.errors import ConfigError, DataError


class Images:
    """Decoded images of some splits, concatenated.

    They stay in memory if a sample of them suggests that all fit into ``memory_gb``. Otherwise threads
    decode each batch while the one before it is trained on.
    """

    def __init__(
        self, dataset: Dataset, splits: Sequence[str], memory_gb: float, *, skip_corrupt: bool = False
    ) -> None:
        if twice := [name for name in dict.fromkeys(splits) if splits.count(name) > 1]:
            raise ConfigError(f"train: split {', '.join(twice)} is stated twice; state every split once")
        self._splits = [dataset.split(name) for name in splits]
        self._starts = np.cumsum([0, *(len(split) for split in self._splits)])
        self._rows = np.arange(self._starts[-1])
        """Which of the present images stands for every image that the run began with."""
        self._skip_corrupt = skip_corrupt
        self.skipped: dict[str, str] = {}
        """Why an image cannot be decoded, by its id; the one after it stands in for it."""
        self.fingerprints = {name: dataset.split(name).fingerprint for name in splits}
        probe = [self._decode(row).nbytes for row in range(0, len(self), max(1, len(self) // 16))]
        fits = len(self) * float(np.mean(probe)) <= memory_gb * 1e9 if probe else False
        self._image = cache(self._decode) if fits else self._decode

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[list[str]]:
        """Return the split and the id of every image that is present."""
        named = zip(self.fingerprints, self._splits, strict=True)
        return [[name, one] for name, split in named for one in split.ids]

    def stand_for(self, began: Sequence[Sequence[str]]) -> int:
        """Keep the numbering of the images that a run ``began`` with; return how many of them are gone.

        The image after it stands in for one that is gone: all others are seen when they would have been.

        Raises:
            ConfigError: there are images that it did not begin with, or their order is another.
        """
        present = {tuple(named): row for row, named in enumerate(self.ids())}
        rows = np.array([present.get(tuple(named), -1) for named in began])
        left = np.flatnonzero(rows >= 0)
        if not len(left) or not np.array_equal(rows[left], np.arange(len(present))):
            raise ConfigError("train: these are other images than the run began with, or in another order")
        after = np.searchsorted(left, np.arange(len(rows))) % len(left)
        self._rows = rows[left[after]]
        return len(rows) - len(left)

    def batches(self, orders: Iterator[Int[np.ndarray, " b"]]) -> Iterator[list[UInt8[np.ndarray, "H W 3"]]]:
        """Yield the images of each of ``orders``, decoding one batch ahead."""
        with ThreadPoolExecutor() as threads:
            submitted = ([threads.submit(self._image, int(row)) for row in order] for order in orders)
            # A pair is complete when the batch after this one is being decoded.
            for futures, _ in pairwise(chain(submitted, [[]])):
                yield [future.result() for future in futures]

    def _decode(self, row: int) -> UInt8[np.ndarray, "H W 3"]:
        for place in range(row, row + len(self)):
            present = int(self._rows[place % len(self)])
            index = int(np.searchsorted(self._starts, present, side="right")) - 1
            split: Split = self._splits[index]
            number = present - int(self._starts[index])
            try:
                return np.array(split.image(number).convert("RGB"))
            except DataError as error:
                if not self._skip_corrupt:
                    raise
                self.skipped[split.ids[number]] = str(error)
        raise DataError("train: none of the images can be decoded")


def epoch_order(seed: int, epoch: int, count: int, batch: int) -> Int[np.ndarray, "s b"]:
    """Return the shuffled rows of every full batch of an epoch; an incomplete last batch is dropped."""
    steps = count // batch
    if not steps:
        raise ConfigError(f"train: {count} images make no batch of {batch}; --batch-size {count} or fewer")
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[: steps * batch].reshape(steps, batch)
