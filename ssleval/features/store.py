"""One pass over one split on disk: an array per readout, and a journal of the batches that are done.

A folder holds ``pass.json`` (its description), ``valid.npy`` (which images could be decoded), and for every
readout ``NAME.npy`` and ``NAME.journal.npy``. The journal has one record per batch: zero until the rows are
written, then a flag and their crc32; a second flag is set once the rows are flushed to disk. Rows that were
written but not flushed when a process was killed count only if they match their crc32, so that neither a kill
nor a power cut costs more than the batches in progress. What is read is compared with its crc32 once in every
process. Batches keep the boundaries that the pass began with:
an interrupted pass gives the same features bit for bit. Rows of images that could not be decoded are NaN. One
process writes these files; what others extract of the pass comes by way of `parts`.
"""

import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

import msgspec
import numpy as np
from jaxtyping import Bool, Shaped, UInt8, UInt64
from msgspec import Meta

from ssleval.core import digest
from ssleval.core.files import write_text_atomically
from ssleval.core.text import first_line
from ssleval.errors import DataError
from ssleval.features.arrays import RowFile, disk, fits

WRITTEN = 1 << 32
DONE = WRITTEN | 1 << 33
"""Flags of a journal record before and after the flush; the lower bits are the crc32 of the batch."""

CHUNK_BYTES = 1 << 22
"""How much of a file is read at once to be compared with its checksums."""

KEY_DIGITS = 40
"""Digits of the digest of a pass's identity that name its folder."""

SYNC_SECONDS = 5.0
"""Seconds between flushes: a resumed pass checks again only what was written in so many."""

REPAIR = "`ssleval cache verify` drops what is damaged, and the next run extracts it again"

_CHECKED: set[tuple[Path | int, ...]] = set()
"""Files of features and of marks that this process has compared with their checksums, as they were then."""


class _ColumnFields(msgspec.Struct):
    row: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 31)], ...], Meta(min_length=1, max_length=3)]
    dtype: Literal["float16", "float32"]


class _Fields(msgspec.Struct):
    """What ``pass.json`` must hold to be used; other fields are for people."""

    images: Annotated[int, Meta(ge=0, le=1 << 40)]
    batch_size: Annotated[int, Meta(ge=1, le=1 << 40)]
    columns: dict[Annotated[str, Meta(pattern="^[a-z]+[a-z0-9-]*$", max_length=80)], _ColumnFields]
    model: str = ""
    dataset: str = ""
    split: str = ""
    created: datetime = datetime.min.replace(tzinfo=UTC)
    identity: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Column:
    """One stored readout: stem of its file names, and shape and type of a row."""

    name: str
    row: tuple[int, ...]
    dtype: str


class InBatches:
    """So many ``images`` in batches of ``batch_size``."""

    images: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Number of batches of the pass."""
        return -(-self.images // self.batch_size)

    def rows(self, batch: int) -> range:
        """Return the rows of one batch."""
        return range(batch * self.batch_size, min(self.images, (batch + 1) * self.batch_size))


class StoredPass(InBatches):
    """A pass on disk. Reading needs no lock; `allocate` and `writer` need the lock of the pass."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description: dict[str, Any] = dict(description)
        self.images = int(description["images"])
        self.batch_size = int(description["batch_size"])

    @classmethod
    def open(cls, folder: Path) -> "StoredPass | None":
        """Return the pass in ``folder``, or None where there is none that could be continued.

        Raises:
            DataError: its description cannot be read, or is that of another pass.
        """
        path = folder / "pass.json"
        if not path.exists():
            return None
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            fields = msgspec.convert(description, _Fields)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: damaged ({first_line(error)}); {REPAIR}") from error
        if fields.identity and digest(fields.identity)[:KEY_DIGITS] != folder.name:
            raise DataError(f"{path}: damaged (it describes another pass than its folder); {REPAIR}")
        stored = cls(folder, description)
        # Without it nobody knows which rows are of images that could not be decoded.
        return stored if stored._valid_file().intact_rows() == stored.images else None

    @classmethod
    def begin(cls, folder: Path, description: Mapping[str, Any]) -> "StoredPass":
        """Begin a new pass, which counts once columns are allocated; whatever the folder held is removed."""
        if folder.exists():
            shutil.rmtree(folder)
        with disk(folder):
            folder.mkdir(parents=True)
        stored = cls(folder, {**description, "columns": {}})
        stored.mark(0, np.ones(stored.images, dtype=bool))
        return stored

    def columns(self) -> tuple[Column, ...]:
        """Return the columns, complete or not."""
        described = self.description["columns"].items()
        return tuple(Column(name, tuple(fields["row"]), fields["dtype"]) for name, fields in described)

    def data(self, column: Column) -> RowFile:
        """Return the file of the features."""
        return RowFile(self.folder / f"{column.name}.npy", (self.images, *column.row), column.dtype)

    def array(self, column: Column) -> Shaped[np.ndarray, "n ..."]:
        """Return the features, mapped read-only."""
        return self.data(column).read()

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
        marks = self.marks()
        if (marks > 1).any():
            raise DataError(f"{self._valid_file().path}: damaged (a mark that is neither 0 nor 1); {REPAIR}")
        return marks.astype(bool)

    def marks(self) -> UInt8[np.ndarray, " n"]:
        """Return the bytes that say which images could be decoded, as they are."""
        return np.array(self._valid_file().read()).view(np.uint8)

    @property
    def created(self) -> float:
        """When the pass began, in seconds since the epoch; 0 where it is not known."""
        stated = self.description.get("created")
        return datetime.fromisoformat(stated).timestamp() if stated else 0.0

    def check(self, column: Column) -> None:
        """Refuse a complete column that differs from its checksums, or whose gaps are not those of the marks.

        Reads the whole file, once in a process as long as it does not change.

        Raises:
            DataError: names the file and the first rows that are damaged.
        """
        paths = (self.data(column).path, self._valid_file().path)
        stats = [path.stat() for path in paths]
        state = (*paths, *(number for stat in stats for number in (stat.st_ino, stat.st_mtime_ns)))
        if state in _CHECKED:
            return
        records, valid = self.records(column).tolist(), self.valid()
        for batch, rows in self._read(column):
            span = self.rows(batch)
            if crc32(rows.data.cast("B")) != records[batch] & (WRITTEN - 1):
                raise _damaged(paths[0], "differ from their checksum", span)
            if (decodable(rows) != valid[span.start : span.stop]).any():
                raise _damaged(paths[1], "mark other images than have features", span)
        _CHECKED.add(state)

    def touch(self) -> None:
        """Record that the pass is used now; `cache.prune` removes the least recently used first."""
        path = self.folder / "pass.json"
        if os.access(path, os.W_OK):
            os.utime(path)

    def _read(self, column: Column) -> Iterator[tuple[int, Shaped[np.ndarray, "b ..."]]]:
        """Yield the batches of a column; read, not mapped, which would count as memory of the process."""
        data = self.data(column)
        step = max(1, CHUNK_BYTES // max(1, data.row_bytes * self.batch_size))
        for first in range(0, self.batches, step):
            batches = range(first, min(self.batches, first + step))
            start = self.rows(first).start
            rows = data.read_rows(range(start, self.rows(batches[-1]).stop))
            for batch in batches:
                yield batch, rows[self.rows(batch).start - start : self.rows(batch).stop - start]

    def allocate(self, columns: Sequence[Column]) -> None:
        """Allocate the files of ``columns``; drop the records of batches that a truncated file has lost."""
        files = [file for column in columns for file in (self.data(column), self.journal(column))]
        fits(self.folder, sum(file.size for file in files if not file.path.exists()))
        self._valid_file().allocate()
        described = {column.name: {"row": list(column.row), "dtype": column.dtype} for column in columns}
        self.description["columns"] |= described
        path = self.folder / "pass.json"
        with disk(path):
            # A reader without the lock sees the old version or the new one.
            write_text_atomically(path, json.dumps(self.description, indent=2) + "\n")
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
        records, data, journal = self.records(column), self.data(column), self.journal(column)
        if not journal.path.exists():
            # Nothing to keep: until it is flushed with the features, a lost journal is none.
            journal.allocate()
            data.allocate()
            return
        for batch in np.flatnonzero((records >= WRITTEN) & (records < DONE)).tolist():
            record = int(records[batch])
            records[batch] = DONE | record if self.intact(column, batch, record) else 0
        if data.path.exists():
            with disk(data.path), data.path.open("r+b") as file:
                os.fsync(file.fileno())
        # Before a truncated file is extended again: its zeros must never count as features.
        self._rewrite(self.journal(column), 0, records)
        data.allocate()

    def _valid_file(self) -> RowFile:
        return RowFile(self.folder / "valid.npy", (self.images,), "bool")

    def _rewrite(self, file: RowFile, first: int, rows: Shaped[np.ndarray, " m"]) -> None:
        file.allocate()
        with disk(file.path), file.path.open("r+b") as stream:
            file.write(stream.fileno(), first, rows)
            os.fsync(stream.fileno())


def decodable(rows: Shaped[np.ndarray, "b ..."]) -> Bool[np.ndarray, " b"]:
    """Return which rows are features of an image; those of one that could not be decoded are NaN."""
    return ~np.isnan(rows.reshape(len(rows), -1)[:, 0])


def _damaged(path: Path, what: str, rows: range) -> DataError:
    return DataError(f"{path}: damaged: rows {rows.start}..{rows.stop - 1} {what}; {REPAIR}")


class Writer:
    """Writes batches with their records, and flushes them every few seconds."""

    def __init__(self, stored: StoredPass, descriptors: Mapping[Path, int]) -> None:
        self._stored = stored
        self._descriptors = descriptors
        self._unflushed: dict[Column, dict[int, int]] = {}
        self._flushed = time.perf_counter()

    def write(
        self, column: Column, batch: int, rows: Shaped[np.ndarray, "b ..."], checksum: int | None = None
    ) -> None:
        """Write all rows of one batch, whose crc32 may be known; where the disk refuses, others are kept."""
        file, span = self._stored.data(column), self._stored.rows(batch)
        rows = np.ascontiguousarray(rows, dtype=file.dtype)
        assert rows.shape == (len(span), *column.row)
        checksum = crc32(rows.data.cast("B")) if checksum is None else checksum
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
