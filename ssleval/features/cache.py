"""The folder of all passes: where each one lies, who may write it, how it is checked and thrown away."""

import os
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ssleval.errors import ConfigError
from ssleval.features.arrays import disk
from ssleval.features.store import Column, StoredPass


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored pass, as listings show it."""

    key: str
    model: str
    dataset: str
    split: str
    images: int
    readouts: Mapping[str, float]
    """Readout to the part of it that is done, 0 to 1."""
    size: int
    """Bytes of all files, at their full length."""
    used: float
    """When it was last read or written, in seconds since the epoch."""
    complete: bool
    """Whether every readout begun is done."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something `verify` found and dropped: the next run extracts it again."""

    key: str
    column: str
    batch: int
    rows: range


@dataclass(frozen=True, slots=True)
class Freed:
    """What `clear` or `prune` removed."""

    passes: int
    size: int
    """Bytes."""
    busy: int
    """Passes left alone because a process is writing them."""


def folder_of(cache: Path, key: str) -> Path:
    """Return the folder of a pass."""
    return cache / "features" / key


@contextmanager
def lock(cache: Path, key: str) -> Generator[None, None, None]:
    """Hold a pass for writing; wait, and say so on stderr, while another process has it."""
    held = _lock(cache, key)
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"ssleval: waiting for another process that extracts pass {key[:12]}", file=sys.stderr)  # noqa: T201
        held.acquire()
    try:
        yield
    finally:
        held.release()


def touch(stored: StoredPass) -> None:
    """Note that a pass was used now; `prune` removes those unused for longest first."""
    path = stored.folder / "pass.json"
    if os.access(path, os.W_OK):
        os.utime(path)


def info(cache: Path) -> list[Entry]:
    """Return every pass in ``cache``, last used first.

    Raises:
        DataError: a description is damaged; the message names it.
    """
    opened = (StoredPass.open(folder) for folder in _folders(cache))
    return sorted((_entry(one) for one in opened if one is not None), key=lambda one: -one.used)


def verify(cache: Path) -> list[Damage]:
    """Compare every finished batch with its checksum and drop the record of those that differ.

    A pass that is being written is waited for.

    Raises:
        DataError: a description is damaged; the message names it.
    """
    found: list[Damage] = []
    for folder in _folders(cache):
        with lock(cache, folder.name):
            stored = StoredPass.open(folder)
            if stored is not None:
                found += [damage for column in stored.columns() for damage in _damaged(stored, column)]
    return found


def clear(cache: Path) -> Freed:
    """Remove every pass that nobody is writing."""
    return _remove(cache, _folders(cache))


def prune(cache: Path, max_bytes: int) -> Freed:
    """Remove passes unused for longest until the rest is at most ``max_bytes``.

    Raises:
        ConfigError: a negative size.
    """
    if max_bytes < 0:
        raise ConfigError(f"cache size limit {max_bytes}: it must not be negative")
    ordered = sorted(_folders(cache), key=_used)
    excess = sum(_size(folder) for folder in ordered) - max_bytes
    total = Freed(0, 0, 0)
    for folder in ordered:
        if total.size >= excess:
            break
        freed = _remove(cache, [folder])
        total = Freed(total.passes + freed.passes, total.size + freed.size, total.busy + freed.busy)
    return total


def _remove(cache: Path, folders: list[Path]) -> Freed:
    passes = size = busy = 0
    for folder in folders:
        held = _lock(cache, folder.name)
        try:
            held.acquire(timeout=0)
        except Timeout:
            busy += 1
            continue
        try:
            freed = _size(folder)
            # Description first: a folder without one is never read, whenever we are stopped.
            (folder / "pass.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
        finally:
            held.release()
        passes, size = passes + 1, size + freed
    return Freed(passes, size, busy)


def _lock(cache: Path, key: str) -> FileLock:
    # Beside the passes, not in them: a lock that is deleted while someone waits for it locks nothing.
    path = cache / "locks" / f"{key}.lock"
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def _folders(cache: Path) -> list[Path]:
    root = cache / "features"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.exists() else []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _used(folder: Path) -> float:
    path = folder / "pass.json"
    return path.stat().st_mtime if path.exists() else 0.0


def _entry(stored: StoredPass) -> Entry:
    readouts = {
        column.name: 1 - len(stored.pending(column)) / max(1, stored.batches) for column in stored.columns()
    }
    return Entry(
        key=stored.folder.name,
        model=stored.description["model"],
        dataset=stored.description["dataset"],
        split=stored.description["split"],
        images=stored.images,
        readouts=readouts,
        size=_size(stored.folder),
        used=_used(stored.folder),
        complete=all(done == 1 for done in readouts.values()),
    )


def _damaged(stored: StoredPass, column: Column) -> Iterator[Damage]:
    data, journal = stored.data(column), stored.journal(column)
    if journal.intact_rows() != stored.batches:
        return
    records, valid = np.array(journal.read()), stored.valid()
    for batch in np.flatnonzero(records).tolist():
        rows = stored.rows(batch)
        if not stored.intact(column, batch, int(records[batch])):
            stored.forget(column, batch)
            yield Damage(stored.folder.name, column.name, batch, rows)
            continue
        decoded = ~np.isnan(data.read_rows(rows).reshape(len(rows), -1)[:, 0])
        if (decoded != valid[rows.start : rows.stop]).any():
            stored.mark(rows.start, decoded)
            yield Damage(stored.folder.name, "valid", batch, rows)
