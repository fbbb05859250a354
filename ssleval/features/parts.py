"""What several processes extract of one pass: every one writes files of its own, and the leader merges them.

A network file system writes back whole pages, so two machines that write one file undo each other's rows. The
files of a pass are therefore written by the leader alone, which holds its lock. It makes a folder
``parts/TOKEN``, new for every group, with a ``plan.json`` of what is left to do. Each of the others appends
its batches there to one file a readout: a line that says of which pass and readout, then for every batch its
number, the crc32 of its rows, the crc32 of these two, and the rows. Nobody opens a file of another process
before that one has closed it, so no old copy of it can be in memory; what a killed group has left is merged
by the next process that extracts. A batch counts only if it matches its crc32.
"""

import json
import os
import secrets
import shutil
import socket
import struct
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Annotated, BinaryIO
from zlib import crc32

import msgspec
import numpy as np
from jaxtyping import Bool, Shaped
from msgspec import Meta

from ssleval.core.files import write_atomically
from ssleval.errors import ContractError, DataError
from ssleval.features.arrays import disk, fits, write_at
from ssleval.features.store import SYNC_SECONDS, Column, InBatches, StoredPass, decodable

FOLDER = "parts"

SEEN_SECONDS = 20.0
"""How long another process's new file may stay unseen: listing its folder ends what NFS remembers of it."""

_LONGEST_LINE = 4096
_BATCH = struct.Struct("<QL")
_PROOF = struct.Struct("<L")


class Plan(msgspec.Struct, frozen=True):
    """What is left of a pass, for the processes that do not read its files."""

    images: Annotated[int, Meta(ge=0, le=1 << 40)]
    batch_size: Annotated[int, Meta(ge=1, le=1 << 40)]
    pending: dict[str, list[int]]
    """Batches that lack a column, by its name."""
    corrupt: list[Annotated[int, Meta(ge=0)]]
    """Images that could not be decoded before."""
    first_lines: dict[str, str]
    """With which the file of a column begins."""


class Part(InBatches):
    """What one process extracts of a pass that another process leads; `extract` takes either."""

    def __init__(self, folder: Path, rank: int, plan: Plan) -> None:
        self.folder = folder
        self.rank = rank
        self.plan = plan
        self.images, self.batch_size = plan.images, plan.batch_size

    def pending(self, column: Column) -> list[int]:
        """Return the batches that the pass lacks, whoever extracts them."""
        if column.name not in self.plan.pending:
            raise ContractError(
                f"{column.name}: the leading process extracts {', '.join(self.plan.pending)} only; give all "
                "processes the same tasks and options"
            )
        return self.plan.pending[column.name]

    def valid(self) -> Bool[np.ndarray, " n"]:
        """Return which images are not known to be impossible to decode."""
        valid = np.ones(self.images, dtype=bool)
        valid[self.plan.corrupt] = False
        return valid

    def mark(self, row: int, flags: Bool[np.ndarray, " m"]) -> None:
        """Leave it to `merge` to mark images that could not be decoded: their rows are NaN."""

    @contextmanager
    def writer(self, columns: Sequence[Column]) -> Generator["PartWriter"]:
        """Open files of this process for ``columns``; they are flushed on exit, also after an error."""
        with ExitStack() as stack:
            files: dict[Column, BinaryIO] = {}
            for column in columns:
                path = self.folder / f"{self.rank}-{column.name}.part"
                with disk(path):
                    files[column] = stack.enter_context(path.open("xb", buffering=0))
            writer = PartWriter(self, files)
            stack.callback(writer.commit)
            yield writer


class PartWriter:
    """Appends batches with their checksums, and flushes them every few seconds, as `Writer` does."""

    def __init__(self, part: Part, files: Mapping[Column, BinaryIO]) -> None:
        self._part = part
        self._files = files
        self._sizes = dict.fromkeys(files, 0)
        self._flushed = time.perf_counter()
        for column in files:
            self._append(column, part.plan.first_lines[column.name].encode())

    def write(self, column: Column, batch: int, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Write all rows of one batch."""
        rows = np.ascontiguousarray(rows, dtype=column.dtype)
        assert rows.shape == (len(self._part.rows(batch)), *column.row)
        head = _BATCH.pack(batch, crc32(rows.data.cast("B")))
        self._append(column, head + _PROOF.pack(crc32(head)))
        self._append(column, rows.data.cast("B"))
        if time.perf_counter() - self._flushed >= SYNC_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush what was written."""
        for file in self._files.values():
            with disk(Path(file.name)):
                os.fsync(file.fileno())
        self._flushed = time.perf_counter()

    def _append(self, column: Column, data: bytes | memoryview) -> None:
        file = self._files[column]
        with disk(Path(file.name)):
            write_at(file.fileno(), data, self._sizes[column])
        self._sizes[column] += len(data)


def share_out(stored: StoredPass, columns: Sequence[Column], world: int) -> int:
    """Write down what ``columns`` of a pass lack, for ``world`` processes; return the token of their folder.

    The caller holds the lock of the pass.

    Raises:
        DataError: there is no room for the features, with those of one process twice while they are merged.
    """
    pending = {column: stored.pending(column) for column in columns}
    rows = {column: min(stored.images, len(left) * stored.batch_size) for column, left in pending.items()}
    sizes = [rows[column] * stored.data(column).row_bytes for column in columns]
    fits(stored.folder, sum(sizes) + max(sizes) // world)
    plan = Plan(
        images=stored.images,
        batch_size=stored.batch_size,
        pending={column.name: left for column, left in pending.items()},
        corrupt=np.flatnonzero(~stored.valid()).tolist(),
        first_lines={column.name: _first_line(stored, column).decode() for column in columns},
    )
    token = secrets.randbits(62)
    path = _plan_file(stored.folder, token)
    with disk(path):
        write_atomically(path, lambda draft: draft.write_bytes(msgspec.json.encode(plan)))
    return token


def join(folder: Path, token: int, rank: int) -> Part:
    """Return the part of process ``rank`` in what `share_out` shared out of the pass in ``folder``.

    Raises:
        DataError: the leader's file does not appear here, so that the folder is not the same one.
    """
    path = _plan_file(folder, token)
    with disk(path):
        _wait_for(path)
        try:
            return Part(path.parent, rank, msgspec.json.decode(path.read_bytes(), type=Plan))
        except msgspec.DecodeError as error:
            raise DataError(f"{path}: damaged ({error}); run again") from error


def not_shared(folder: Path, lack: str) -> DataError:
    """Return the error for a folder that is not one and the same for all processes."""
    return DataError(
        f"{folder} on {socket.gethostname()}: {lack}; --cache or SSLEVAL_CACHE must name one folder that all "
        "processes of a group share"
    )


def merge(stored: StoredPass) -> None:
    """Move batches that other processes finished into a pass, and remove their files.

    What is of another pass, cut off or damaged is left out, and extracted again; links are not followed. The
    caller holds the lock of the pass, and the others have closed their files.
    """
    root = stored.folder / FOLDER
    if root.is_symlink() or not root.is_dir():
        root.unlink(missing_ok=True)
        return
    columns = {_first_line(stored, column): column for column in stored.columns()}
    stored.allocate(tuple(columns.values()))
    for path in _files(root):
        with disk(path):
            with path.open("rb") as file:
                column = columns.get(file.readline(_LONGEST_LINE))
                if column is not None:
                    _move(stored, column, file)
            # At once, so that no more than one file is there twice.
            path.unlink()
    # A process of a group that is gone may still be about to write: its folder is left for the next merge.
    shutil.rmtree(root, ignore_errors=True)


def _move(stored: StoredPass, column: Column, file: BufferedReader) -> None:
    pending, journal = set(stored.pending(column)), stored.journal(column).path
    with stored.writer([column]) as writer:
        for batch, rows, checksum in _batches(stored, column, file):
            if batch in pending:
                for row in np.flatnonzero(~decodable(rows)).tolist():
                    stored.mark(stored.rows(batch)[row], np.zeros(1, dtype=bool))
                writer.write(column, batch, rows, checksum)
    with disk(journal), journal.open("r+b") as opened:
        os.fsync(opened.fileno())


def _batches(
    stored: StoredPass, column: Column, file: BufferedReader
) -> Iterator[tuple[int, Shaped[np.ndarray, "b ..."], int]]:
    """Yield batches that match their checksums, with these, in memory that the next one takes over."""
    whole = os.fstat(file.fileno()).st_size // stored.data(column).row_bytes
    memory = np.empty((min(stored.batch_size, stored.images, whole), *column.row), dtype=column.dtype)
    while len(head := file.read(_BATCH.size + _PROOF.size)) == _BATCH.size + _PROOF.size:
        batch, checksum = _BATCH.unpack_from(head)
        if crc32(head[: _BATCH.size]) != _PROOF.unpack_from(head, _BATCH.size)[0] or batch >= stored.batches:
            # Where the next batch begins is not known.
            return
        rows = memory[: len(stored.rows(batch))]
        if len(rows) < len(stored.rows(batch)):
            return
        if file.readinto(content := rows.data.cast("B")) == len(content) and crc32(content) == checksum:
            yield batch, rows, checksum


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        paths = (Path(folder, name) for name in sorted(names))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _first_line(stored: StoredPass, column: Column) -> bytes:
    fields = {
        "pass": stored.folder.name,
        "created": stored.description.get("created"),
        "images": stored.images,
        "batch_size": stored.batch_size,
        "readout": column.name,
        "row": column.row,
        "dtype": column.dtype,
    }
    return json.dumps(fields).encode() + b"\n"


def _plan_file(folder: Path, token: int) -> Path:
    return folder / FOLDER / f"{token:016x}" / "plan.json"


def _wait_for(path: Path) -> None:
    started = time.monotonic()
    while not path.exists():
        if time.monotonic() - started > SEEN_SECONDS:
            raise not_shared(path.parents[2], "what the leading process wrote there does not appear here")
        time.sleep(0.05)
        for parent in reversed(path.parents[:5]):
            with suppress(OSError):
                os.listdir(parent)  # noqa: PTH208
