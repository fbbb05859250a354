"""One pass over one split in memory: what `StoredPass` is on disk, without journal and checksums."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from ssleval.features.store import Column, InBatches, StoredPass


class MemoryPass(InBatches):
    """A pass that is forgotten with this object. Its methods are those of `StoredPass`."""

    created = float("inf")

    def __init__(self, images: int, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self._valid = np.ones(images, dtype=bool)
        self._arrays: dict[Column, np.ndarray] = {}
        self._written: dict[Column, set[int]] = {}

    def array(self, column: Column) -> Float[np.ndarray, "n ..."]:
        """Return the features of a column, read-only; they are zero where its batches are pending."""
        view = self._array(column).view()
        view.setflags(write=False)
        return view

    def pending(self, column: Column) -> list[int]:
        """Return the batches that are not written."""
        return sorted(set(range(self.batches)) - self._written.get(column, set()))

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

    def writer(self, columns: Sequence[Column]) -> AbstractContextManager["MemoryPass"]:  # noqa: ARG002
        """Give itself."""
        return nullcontext(self)

    def write(self, column: Column, batch: int, rows: Float[np.ndarray, "b ..."]) -> None:
        """Keep all rows of one batch."""
        span = self.rows(batch)
        self._array(column)[span.start : span.stop] = rows
        self._written.setdefault(column, set()).add(batch)

    def _array(self, column: Column) -> np.ndarray:
        if column not in self._arrays:
            self._arrays[column] = np.zeros((self.images, *column.row), column.dtype)
        return self._arrays[column]


AnyPass: TypeAlias = StoredPass | MemoryPass
