"""What is wrong with a copy of a dataset: every image and target is read, and no model is needed."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ssleval.core import Dataset, DatasetOptions, Split
from ssleval.core.text import counted, some
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import DataError

_THREADS = 8
_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SplitFinding:
    """What was found in one split."""

    split: str
    items: int
    """That the copy has; 0 where the split cannot be opened."""
    read: int
    """How many were decoded, with their targets."""
    faults: tuple[str, ...]
    """One line each, in the order of items."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield lines for people; of many faults the first."""
        if self.items:
            yield f"{self.split}: {self.read:,} of {counted(self.items, 'item')} read, " + (
                counted(len(self.faults), "fault") if self.faults else "nothing wrong"
            )
        for fault in self.faults[:_MOST_SHOWN]:
            yield f"{self.split}: {fault}"
        if len(self.faults) > _MOST_SHOWN:
            yield f"{self.split}: and {len(self.faults) - _MOST_SHOWN} more such lines"


def examine_copy(name: str, options: DatasetOptions, limit: int = 0) -> Iterator[SplitFinding]:
    """Yield what is found in every split of a dataset, in the order of its card.

    Args:
        name: a registered set, or ``source:location``.
        options: where it is.
        limit: items of each split that are read, evenly spaced; 0 reads all.

    Raises:
        UnknownNameError: there is no such dataset.
        DataError: the copy cannot be opened at all.
    """
    dataset = open_dataset(name, options)
    for split in dataset.card.lengths:
        yield _examine(dataset, split, limit)


def _examine(dataset: Dataset, name: str, limit: int) -> SplitFinding:
    try:
        split = dataset.split(name)
    except DataError as error:
        return SplitFinding(name, 0, 0, (str(error),))
    count = min(limit, len(split)) if limit else len(split)
    rows = np.linspace(0, max(0, len(split) - 1), count).round().astype(int).tolist()
    with ThreadPoolExecutor(_THREADS) as threads:
        faults = [fault for fault in threads.map(partial(_fault, split), rows) if fault]
    twice = [item for item, times in Counter(split.ids).items() if times > 1]
    faults += [f"listed more than once: {some(twice)}"] if twice else []
    return SplitFinding(name, len(split), len(rows), tuple(faults))


def _fault(split: Split, row: int) -> str:
    try:
        split[row]
    except DataError as error:
        return str(error)
    return ""
