"""The cache folder: paths and locks of passes, listing, verification and removal."""

import os
import shutil
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from ssleval.core.locks import acquire
from ssleval.errors import ConfigError, DataError
from ssleval.features import parts
from ssleval.features.arrays import disk
from ssleval.features.store import Column, StoredPass, decodable


class Entry(NamedTuple):
    """One stored pass, as `ssleval cache info` lists it."""

    key: str
    model: str
    dataset: str
    split: str
    images: int
    readouts: Mapping[str, float]
    """The fraction of every readout that is done."""
    size: int
    """Bytes of all files, at full length."""
    used: float
    """When it was last read or written, in seconds since the epoch."""

    @property
    def complete(self) -> bool:
        """Whether every readout is done."""
        return all(done == 1 for done in self.readouts.values())


class Damage(NamedTuple):
    """What `verify` found damaged and dropped: the next run extracts it again."""

    key: str
    column: str
    """A readout, ``valid``, or the file without which the whole pass was removed."""
    batch: int
    rows: range
    """Those of the batch; none where the whole pass was removed."""


class Freed(NamedTuple):
    """The passes that `clear` or `prune` removed."""

    passes: int
    size: int
    """Bytes."""
    busy: int
    """Passes kept because a process is writing them."""


def folder_of(cache: Path, key: str) -> Path:
    """Return the folder of a pass."""
    return cache / "features" / key


@contextmanager
def lock(cache: Path, key: str, label: str = "") -> Generator[None]:
    """Lock a pass for writing; while another process has it, wait and report that on stderr.

    ``label`` names model and data for that report.
    """
    file_lock = _lock(cache, key)
    named = f"{label} (pass {key[:12]})" if label else f"pass {key[:12]}"
    with disk(Path(file_lock.lock_file)):
        held = acquire(file_lock, f"extracts {named}")
    with held:
        yield


def info(cache: Path) -> list[Entry]:
    """Return every pass in ``cache`` that can be read, most recently used first."""
    opened = (stored for stored in map(_opened, _folders(cache)) if isinstance(stored, StoredPass))
    return sorted(map(_entry, opened), key=lambda entry: -entry.used)


def damaged(cache: Path) -> list[DataError]:
    """Return what is wrong with the passes whose description cannot be read."""
    return [error for error in map(_opened, _folders(cache)) if isinstance(error, DataError)]


def verify(cache: Path) -> list[Damage]:
    """Drop the records of finished batches that differ from their checksum; wait for passes being written.

    Before that, what several processes that were killed have left is merged.
    A pass whose description or marks cannot be read is removed.
    """
    damages: list[Damage] = []
    for folder in _folders(cache):
        with lock(cache, folder.name):
            stored = _opened(folder)
            if isinstance(stored, StoredPass):
                parts.merge(stored)
                damages += [damage for column in stored.columns() for damage in _damaged(stored, column)]
            elif stored is not None:
                damages.append(_removed(folder, "pass.json"))
            elif (folder / "pass.json").exists():
                damages.append(_removed(folder, "valid.npy"))
    return damages


def clear(cache: Path) -> Freed:
    """Remove every pass that no process is writing, and the listings of large sets."""
    shutil.rmtree(cache / "listings", ignore_errors=True)
    return _remove(cache, _folders(cache))


def prune(cache: Path, max_bytes: int) -> Freed:
    """Remove the least recently used passes until the rest is at most ``max_bytes``."""
    if max_bytes < 0:
        raise ConfigError(f"cache size limit {max_bytes}: it must not be negative")
    folders = sorted(_folders(cache), key=_used)
    return _remove(cache, folders, sum(_size(folder) for folder in folders) - max_bytes)


def _remove(cache: Path, folders: list[Path], excess: int = sys.maxsize) -> Freed:
    passes = size = busy = 0
    for folder in folders:
        if size >= excess:
            break
        try:
            held = _lock(cache, folder.name).acquire(timeout=0)
        except Timeout:
            busy += 1
            continue
        with held:
            passes, size = passes + 1, size + _size(folder)
            # The description first: without one, a folder that is only partly removed is never read.
            (folder / "pass.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
    return Freed(passes, size, busy)


def _lock(cache: Path, key: str) -> FileLock:
    # Outside the folders of passes: a lock file deleted while a process waits for it locks nothing.
    path = cache / "locks" / f"{key}.lock"
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def _folders(cache: Path) -> list[Path]:
    root = cache / "features"
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.exists() else []


def _size(folder: Path) -> int:
    # Of links themselves; a temporary file may be renamed meanwhile.
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths if path.exists() or path.is_symlink())


def _used(folder: Path) -> float:
    path = folder / "pass.json"
    return path.stat().st_mtime if path.exists() else 0.0


def _entry(stored: StoredPass) -> Entry:
    readouts = {
        column.name: 1 - len(stored.pending(column)) / max(1, stored.batches) for column in stored.columns()
    }
    model, dataset, split = (stored.description[name] for name in ("model", "dataset", "split"))
    size, used = _size(stored.folder), _used(stored.folder)
    return Entry(stored.folder.name, model, dataset, split, stored.images, readouts, size, used)


def _opened(folder: Path) -> StoredPass | DataError | None:
    try:
        return StoredPass.open(folder)
    except DataError as error:
        return error


def _removed(folder: Path, name: str) -> Damage:
    shutil.rmtree(folder)
    return Damage(folder.name, name, 0, range(0))


def _damaged(stored: StoredPass, column: Column) -> Iterator[Damage]:
    data, journal = stored.data(column), stored.journal(column)
    if journal.intact_rows() != stored.batches:
        return
    records, marks = np.array(journal.read()), stored.marks()
    for batch in np.flatnonzero(records).tolist():
        rows = stored.rows(batch)
        if not stored.intact(column, batch, int(records[batch])):
            stored.forget(column, batch)
            yield Damage(stored.folder.name, column.name, batch, rows)
            continue
        decoded = decodable(data.read_rows(rows))
        if (decoded != marks[rows.start : rows.stop]).any():
            stored.mark(rows.start, decoded)
            yield Damage(stored.folder.name, "valid", batch, rows)
