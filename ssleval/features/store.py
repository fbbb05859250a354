"""One pass over one split on disk: an array per readout, and what of it is done.

A folder holds ``pass.json`` (what it is), ``valid.npy`` (images that could be decoded) and for every
readout ``NAME.npy`` with ``NAME.journal.npy``: one record a batch, zero until its rows are written, then
a flag and their crc32. A second flag says that the disk has them: what a killed process wrote but did not
flush is compared with its crc32 before it counts, so that neither a kill nor a power cut costs more than
the batches under way. Batches keep the boundaries the pass began with, so that features extracted with
interruptions equal uninterrupted ones bit for bit. Rows of images that could not be decoded are NaN.
"""

import json
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Bool, Shaped, UInt64

from ssleval.errors import DataError
from ssleval.features.arrays import RowFile, disk, fits

WRITTEN = 1 << 32
DONE = WRITTEN | 1 << 33
"""Flags of a journal record, without and with a flush since; the bits below are the crc32 of the batch."""

SYNC_SECONDS = 5.0
"""How often the disk is waited for: what a resumed pass must read again is no more than this wrote."""


@dataclass(frozen=True, slots=True)
class Column:
    """One stored readout: the stem of its files, and the shape and type of a row."""

    name: str
    row: tuple[int, ...]
    dtype: str


class StoredPass:
    """A pass that has been begun. Reading takes no lock; `allocate` and `writer` need the pass's."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description: dict[str, Any] = dict(description)
        self.images = int(description["images"])
        self.batch_size = int(description["batch_size"])

    @classmethod
    def open(cls, folder: Path) -> "StoredPass | None":
        """Return the pass in ``folder``, or None where none has been begun.

        Raises:
            DataError: its description is damaged.
        """
        path = folder / "pass.json"
        if not path.exists():
            return None
        try:
            return cls(folder, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove the folder and run again") from error

    @classmethod
    def begin(cls, folder: Path, description: Mapping[str, Any]) -> "StoredPass":
        """Describe a new pass; whatever else the folder held is removed."""
        if folder.exists():
            shutil.rmtree(folder)
        with disk(folder):
            folder.mkdir(parents=True)
        stored = cls(folder, {**description, "columns": {}})
        stored.mark(0, np.ones(stored.images, dtype=bool))
        stored._describe()
        return stored

    @property
    def batches(self) -> int:
        """Number of batches of the pass."""
        return -(-self.images // self.batch_size)

    def rows(self, batch: int) -> range:
        """Return the rows of one batch."""
        return range(batch * self.batch_size, min(self.images, (batch + 1) * self.batch_size))

    def columns(self) -> tuple[Column, ...]:
        """Return what is stored, finished or not."""
        known = self.description["columns"].items()
        return tuple(Column(name, tuple(one["row"]), one["dtype"]) for name, one in known)

    def data(self, column: Column) -> RowFile:
        """Return the file of the features."""
        return RowFile(self.folder / f"{column.name}.npy", (self.images, *column.row), column.dtype)

    def journal(self, column: Column) -> RowFile:
        """Return the file of the records, ``uint64 [batches]``."""
        return RowFile(self.folder / f"{column.name}.journal.npy", (self.batches,), "uint64")

    def records(self, column: Column) -> UInt64[np.ndarray, " batches"]:
        """Return the records; zero where there is none, or where the file ends before the batch does."""
        journal, data = self.journal(column), self.data(column)
        if journal.intact_rows() != self.batches:
            return np.zeros(self.batches, dtype=np.uint64)
        records = np.array(journal.read())
        whole = data.intact_rows()
        if whole < self.images:
            records[whole // self.batch_size :] = 0
        return records

    def pending(self, column: Column) -> list[int]:
        """Return the batches that are not known to be on the disk."""
        return np.flatnonzero(self.records(column) < DONE).tolist()

    def valid(self) -> Bool[np.ndarray, " n"]:
        """Return which images could be decoded, as far as is known."""
        return np.array(self._valid_file().read())

    def allocate(self, columns: Sequence[Column]) -> None:
        """Make room for ``columns``, and drop the records of batches a truncated file has lost.

        Raises:
            DataError: the disk has no room for them.
        """
        files = [file for one in columns for file in (self.data(one), self.journal(one))]
        missing = sum(file.size for file in files if not file.path.exists())
        fits(self.folder, missing, shutil.disk_usage(self.folder).free)
        self._valid_file().allocate()
        described = {one.name: {"row": list(one.row), "dtype": one.dtype} for one in columns}
        self.description = {**self.description, "columns": {**self.description["columns"], **described}}
        self._describe()
        for column in columns:
            if self.pending(column):
                self._resume(column)

    def intact(self, column: Column, batch: int, record: int) -> bool:
        """Return whether the rows of a batch are there and are those its record is about."""
        data, rows = self.data(column), self.rows(batch)
        if rows.stop > data.intact_rows():
            return False
        return crc32(data.read_rows(rows).data.cast("B")) == record & (WRITTEN - 1)

    def forget(self, column: Column, batch: int) -> None:
        """Drop the record of a batch, so that it is extracted again."""
        self._rewrite(self.journal(column), batch, np.zeros(1, dtype=np.uint64))

    def mark(self, row: int, flags: Bool[np.ndarray, " m"]) -> None:
        """Set which of the images from ``row`` on could be decoded."""
        self._rewrite(self._valid_file(), row, flags)

    @contextmanager
    def writer(self, columns: Sequence[Column]) -> Generator["Writer", None, None]:
        """Open allocated columns for writing; what was written is committed on leaving, also by an error."""
        with ExitStack() as stack:
            descriptors: dict[Path, int] = {}
            for column in columns:
                for path in (self.data(column).path, self.journal(column).path):
                    descriptors[path] = os.open(path, os.O_RDWR)
                    stack.callback(os.close, descriptors[path])
            writer = Writer(self, descriptors)
            try:
                yield writer
            finally:
                writer.commit()

    def _resume(self, column: Column) -> None:
        """Settle what an interrupted process left: count what it wrote whole, drop the rest."""
        records, data = self.records(column), self.data(column)
        for batch in np.flatnonzero((records >= WRITTEN) & (records < DONE)).tolist():
            record = int(records[batch])
            records[batch] = DONE | record if self.intact(column, batch, record) else 0
        if data.path.exists():
            with disk(data.path), data.path.open("r+b") as opened:
                os.fsync(opened.fileno())
        # Before a truncated file grows back: zeros must never look like features.
        self._rewrite(self.journal(column), 0, records)
        data.allocate()

    def _describe(self) -> None:
        path, draft = self.folder / "pass.json", self.folder / "pass.json.tmp"
        with disk(path):
            draft.write_text(json.dumps(self.description, indent=2) + "\n", encoding="utf-8")
            # Atomic: a reader without the lock sees one version or the other.
            draft.replace(path)

    def _valid_file(self) -> RowFile:
        return RowFile(self.folder / "valid.npy", (self.images,), "bool")

    def _rewrite(self, file: RowFile, first: int, rows: Shaped[np.ndarray, " m"]) -> None:
        file.allocate()
        with disk(file.path), file.path.open("r+b") as opened:
            file.write(opened.fileno(), first, rows)
            os.fsync(opened.fileno())


class Writer:
    """Writes batches with their records, and from time to time has the disk keep them."""

    def __init__(self, stored: StoredPass, descriptors: Mapping[Path, int]) -> None:
        self._stored = stored
        self._descriptors = descriptors
        self._unflushed: dict[Column, dict[int, int]] = {}
        self._flushed = time.perf_counter()

    def write(self, column: Column, batch: int, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Write all rows of one batch.

        Raises:
            DataError: the disk refused; batches before stay.
        """
        file, place = self._stored.data(column), self._stored.rows(batch)
        rows = np.ascontiguousarray(rows, dtype=file.dtype)
        assert rows.shape == (len(place), *column.row)
        checksum = crc32(rows.data.cast("B"))
        with disk(file.path):
            file.write(self._descriptors[file.path], place.start, rows)
        self._record(column, batch, WRITTEN | checksum)
        self._unflushed.setdefault(column, {})[batch] = checksum
        if time.perf_counter() - self._flushed >= SYNC_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush what was written, then say so in the records."""
        for column, checksums in self._unflushed.items():
            path = self._stored.data(column).path
            with disk(path):
                os.fsync(self._descriptors[path])
            for batch, checksum in checksums.items():
                self._record(column, batch, DONE | checksum)
        self._unflushed.clear()
        self._flushed = time.perf_counter()

    def _record(self, column: Column, batch: int, record: int) -> None:
        journal = self._stored.journal(column)
        with disk(journal.path):
            row = np.array([record], dtype=np.uint64)
            journal.write(self._descriptors[journal.path], batch, row)
