"""One pass over one split on disk: an array per readout, and a journal of the batches that are done.

A folder holds ``pass.json`` (its description), ``valid.npy`` (which images could be decoded), and for every
readout ``NAME.npy`` and ``NAME.journal.npy``. The journal has one record per batch: zero until the rows are
written, then a flag and their crc32; a second flag is set once the rows are flushed to disk. Rows that were
written but not flushed when a process was killed count only if they match their crc32, so that neither a kill
nor a power cut costs more than the batches in progress. Batches keep the boundaries that the pass began with:
an interrupted pass gives the same features bit for bit. Rows of images that could not be decoded are NaN.
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

from ssleval.core.files import write_text_atomically
from ssleval.errors import DataError
from ssleval.features.arrays import RowFile, disk, fits

WRITTEN = 1 << 32
DONE = WRITTEN | 1 << 33
"""Flags of a journal record before and after the flush; the lower bits are the crc32 of the batch."""

SYNC_SECONDS = 5.0
"""Seconds between flushes: a resumed pass checks again only what was written in so many."""


@dataclass(frozen=True, slots=True)
class Column:
    """One stored readout: stem of its file names, and shape and type of a row."""

    name: str
    row: tuple[int, ...]
    dtype: str


class StoredPass:
    """A pass on disk. Reading needs no lock; `allocate` and `writer` need the lock of the pass."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description: dict[str, Any] = dict(description)
        self.images = int(description["images"])
        self.batch_size = int(description["batch_size"])

    @classmethod
    def open(cls, folder: Path) -> "StoredPass | None":
        """Return the pass in ``folder``, or None where there is none that could be continued."""
        path = folder / "pass.json"
        if not path.exists():
            return None
        try:
            stored = cls(folder, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged ({error}); remove the folder and run again") from error
        # Without it nobody knows which rows are of images that could not be decoded.
        return stored if stored._valid_file().intact_rows() == stored.images else None

    @classmethod
    def begin(cls, folder: Path, description: Mapping[str, Any]) -> "StoredPass":
        """Begin a new pass; whatever the folder held is removed."""
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
        """Return the columns, complete or not."""
        described = self.description["columns"].items()
        return tuple(Column(name, tuple(fields["row"]), fields["dtype"]) for name, fields in described)

    def data(self, column: Column) -> RowFile:
        """Return the file of the features."""
        return RowFile(self.folder / f"{column.name}.npy", (self.images, *column.row), column.dtype)

    def journal(self, column: Column) -> RowFile:
        """Return the file of the journal, ``uint64 [batches]``."""
        return RowFile(self.folder / f"{column.name}.journal.npy", (self.batches,), "uint64")

    def records(self, column: Column) -> UInt64[np.ndarray, " batches"]:
        """Return the journal records; zero where there is none, or the file of features is too short."""
        journal, rows = self.journal(column), self.data(column).intact_rows()
        if journal.intact_rows() != self.batches:
            return np.zeros(self.batches, dtype=np.uint64)
        records = np.array(journal.read())
        if rows < self.images:
            records[rows // self.batch_size :] = 0
        return records

    def pending(self, column: Column) -> list[int]:
        """Return the batches that are not known to be flushed to disk."""
        return np.flatnonzero(self.records(column) < DONE).tolist()

    def valid(self) -> Bool[np.ndarray, " n"]:
        """Return which images could be decoded; images not tried yet count as decodable."""
        return np.array(self._valid_file().read())

    def allocate(self, columns: Sequence[Column]) -> None:
        """Allocate the files of ``columns``; drop the records of batches that a truncated file has lost."""
        files = [file for column in columns for file in (self.data(column), self.journal(column))]
        fits(self.folder, sum(file.size for file in files if not file.path.exists()))
        self._valid_file().allocate()
        described = {column.name: {"row": list(column.row), "dtype": column.dtype} for column in columns}
        self.description["columns"] |= described
        self._describe()
        for column in columns:
            if self.pending(column):
                self._resume(column)

    def intact(self, column: Column, batch: int, record: int) -> bool:
        """Return whether the rows of a batch are within the file and match the crc32 of its record."""
        data, rows = self.data(column), self.rows(batch)
        if rows.stop > data.intact_rows():
            return False
        return crc32(data.read_rows(rows).data.cast("B")) == record & (WRITTEN - 1)

    def forget(self, column: Column, batch: int) -> None:
        """Clear the record of a batch, so that it is extracted again."""
        self._rewrite(self.journal(column), batch, np.zeros(1, dtype=np.uint64))

    def mark(self, row: int, flags: Bool[np.ndarray, " m"]) -> None:
        """Set which images, from ``row`` on, could be decoded."""
        self._rewrite(self._valid_file(), row, flags)

    @contextmanager
    def writer(self, columns: Sequence[Column]) -> Generator["Writer"]:
        """Open allocated columns for writing; rows are committed on exit, also after an error."""
        paths = [file(column).path for column in columns for file in (self.data, self.journal)]
        with ExitStack() as stack:
            files = {path: stack.enter_context(path.open("r+b", buffering=0)) for path in paths}
            writer = Writer(self, {path: file.fileno() for path, file in files.items()})
            stack.callback(writer.commit)
            yield writer

    def _resume(self, column: Column) -> None:
        """Keep the batches that an interrupted process wrote completely, and drop the others."""
        records, data = self.records(column), self.data(column)
        for batch in np.flatnonzero((records >= WRITTEN) & (records < DONE)).tolist():
            record = int(records[batch])
            records[batch] = DONE | record if self.intact(column, batch, record) else 0
        if data.path.exists():
            with disk(data.path), data.path.open("r+b") as file:
                os.fsync(file.fileno())
        # Before a truncated file is extended again: its zeros must never count as features.
        self._rewrite(self.journal(column), 0, records)
        data.allocate()

    def _describe(self) -> None:
        path = self.folder / "pass.json"
        with disk(path):
            # A reader without the lock sees the old version or the new one.
            write_text_atomically(path, json.dumps(self.description, indent=2) + "\n")

    def _valid_file(self) -> RowFile:
        return RowFile(self.folder / "valid.npy", (self.images,), "bool")

    def _rewrite(self, file: RowFile, first: int, rows: Shaped[np.ndarray, " m"]) -> None:
        file.allocate()
        with disk(file.path), file.path.open("r+b") as stream:
            file.write(stream.fileno(), first, rows)
            os.fsync(stream.fileno())


class Writer:
    """Writes batches with their records, and flushes them every few seconds."""

    def __init__(self, stored: StoredPass, descriptors: Mapping[Path, int]) -> None:
        self._stored = stored
        self._descriptors = descriptors
        self._unflushed: dict[Column, dict[int, int]] = {}
        self._flushed = time.perf_counter()

    def write(self, column: Column, batch: int, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Write all rows of one batch; where the disk refuses, earlier batches are kept."""
        file, span = self._stored.data(column), self._stored.rows(batch)
        rows = np.ascontiguousarray(rows, dtype=file.dtype)
        assert rows.shape == (len(span), *column.row)
        checksum = crc32(rows.data.cast("B"))
        with disk(file.path):
            file.write(self._descriptors[file.path], span.start, rows)
        self._record(column, batch, WRITTEN | checksum)
        self._unflushed.setdefault(column, {})[batch] = checksum
        if time.perf_counter() - self._flushed >= SYNC_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush the rows written, then mark their records as flushed."""
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
            journal.write(self._descriptors[journal.path], batch, np.array([record], dtype=np.uint64))
