"""One pass over one split in memory: what `StoredPass` is on disk, without journal and checksums."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from ssleval.features.store import Column, StoredPass


class MemoryArray:
    """The rows of one column, as `RowFile` gives them."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.rows = np.zeros(shape, dtype)

    def read(self) -> Float[np.ndarray, "n ..."]:
        """Return a view that cannot be written."""
        view = self.rows.view()
        view.setflags(write=False)
        return view


class MemoryPass:
    """A pass that is forgotten with this object. Its methods are those of `StoredPass`."""

    created = float("inf")

    def __init__(self, images: int, batch_size: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self._valid = np.ones(images, dtype=bool)
        self._arrays: dict[Column, MemoryArray] = {}
        self._pending: dict[Column, set[int]] = {}

    @property
    def batches(self) -> int:
        """Number of batches of the pass."""
        return -(-self.images // self.batch_size)

    def rows(self, batch: int) -> range:
        """Return the rows of one batch."""
        return range(batch * self.batch_size, min(self.images, (batch + 1) * self.batch_size))

    def data(self, column: Column) -> MemoryArray:
        """Return the features of a column, which are zero where its batches are pending."""
        if column not in self._arrays:
            self._arrays[column] = MemoryArray((self.images, *column.row), column.dtype)
            self._pending[column] = set(range(self.batches))
        return self._arrays[column]

    def pending(self, column: Column) -> list[int]:
        """Return the batches that are not written."""
        return sorted(self._pending.get(column, range(self.batches)))

    def valid(self) -> Bool[np.ndarray, " n"]:
        """Return which images could be decoded; images not tried yet count as decodable."""
        return self._valid.copy()

    def mark(self, row: int, flags: Bool[np.ndarray, " m"]) -> None:
        """Set which images, from ``row`` on, could be decoded."""
        self._valid[row : row + len(flags)] = flags

    def check(self, column: Column) -> None:
        """Do nothing: no other process writes memory."""

    def touch(self) -> None:
        """Do nothing: there is no cache to prune."""

    @contextmanager
    def writer(self, columns: Sequence[Column]) -> Generator["MemoryPass"]:  # noqa: ARG002
        """Give itself."""
        yield self

    def write(self, column: Column, batch: int, rows: Float[np.ndarray, "b ..."]) -> None:
        """Keep all rows of one batch."""
        span = self.rows(batch)
        self.data(column).rows[span.start : span.stop] = rows
        self._pending[column].discard(batch)


AnyPass: TypeAlias = StoredPass | MemoryPass
