"""Listings of large sets in the cache folder, so that a later start does not list them again.

A listing is used only where each of its folders, or shards, still has the times of modification and of
change, the inode and the size that it had just before it was read. A file system may give the same time to
what happens shortly afterwards: what had changed within `RECENT` before it was read is not stored.
"""

import os
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
from jaxtyping import Int64

from ssleval.core import DatasetOptions, digest
from ssleval.core.files import write_atomically
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.places import say

VERSION = 1
"""Raised when sets are listed in another way, or listings are stored in another."""

LEAST = 1_000
"""Items of a set that is worth a listing: fewer are listed within a hundredth of a second."""

RECENT = 2_000_000_000
"""Nanoseconds: no common file system has coarser times."""

LARGEST, LARGEST_IN_ALL = 1 << 30, 4 << 30
"""Bytes of one listing, and of all: those unused for longest are removed. ImageNet takes 60 MB."""

Mark: TypeAlias = tuple[str, int, int, int, int]
"""Absolute path of a folder or shard, times of modification and of change in nanoseconds, inode, size."""

T = TypeVar("T")


class Listing(msgspec.Struct, frozen=True):
    """What is stored of one set."""

    marks: list[Mark]
    texts: list[tuple[bytes, bytes]]
    """Columns as `Names.stored` returns them."""
    numbers: list[bytes]
    """Columns of int64."""
    fingerprint: str

    def read(self) -> tuple[list[Names], list[Int64[np.ndarray, "_"]]]:
        """Return the columns of names and of numbers; ValueError where they are none."""
        columns = [np.frombuffer(column, np.int64) for column in self.numbers]
        return [Names.restored(*texts) for texts in self.texts], columns


def mark(path: str | os.PathLike[str]) -> Mark:
    """Return what tells whether a folder or shard changed; taken before it is read."""
    path = os.path.abspath(path)  # noqa: PTH100
    status = os.stat(path)  # noqa: PTH116
    return path, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


class Kept:
    """Where the listing of the set ``subject`` is kept, made before the set is read.

    With ``options.full_hash`` what was stored is removed.
    """

    def __init__(self, options: DatasetOptions, *subject: Any) -> None:
        self.begun = now()
        self.path = options.cache / "listings" / digest([VERSION, sys.byteorder, *subject])
        if options.full_hash:
            self.drop()

    def read(self, build: Callable[[Listing], T | None]) -> T | None:
        """Return what ``build`` makes of the stored listing; None where there is none to trust.

        ``build`` raises ValueError where columns do not fit together. A damaged listing is said on stderr.
        """
        try:
            if not self.path.is_file():
                return None
            content = self.path.read_bytes() if self.path.stat().st_size <= LARGEST else b""
        except OSError:
            return None
        try:
            listing = _decoded(content)
            if not all(map(_is_same, listing.marks)):
                return None
            built = build(listing)
        except (ValueError, msgspec.DecodeError) as error:
            say(f"{self.path}: damaged ({error}); the set is listed again")
            return None
        with suppress(OSError):
            os.utime(self.path)
        return built

    def write(
        self, marks: Sequence[Mark], names: Sequence[Names], columns: Sequence[np.ndarray], fingerprint: str
    ) -> None:
        """Store a listing, unless it is too young, small or large.

        Where the cache cannot be written nothing is stored.
        """
        changed = max((max(mark[1:3]) for mark in marks), default=0)
        if changed > self.begun - RECENT or max(map(len, columns)) < LEAST:
            return
        texts, numbers = [each.stored() for each in names], [column.tobytes() for column in columns]
        # A name that is no UTF-8 cannot be stored.
        with suppress(OSError, UnicodeError):
            content = msgspec.msgpack.encode(Listing(list(marks), texts, numbers, fingerprint))
            if len(content) < LARGEST:
                check = zlib.crc32(content).to_bytes(4, "little")
                write_atomically(self.path, lambda draft: draft.write_bytes(check + content))
                _prune(self.path.parent)

    def drop(self) -> None:
        """Remove the listing, where there is one."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def now() -> int:
    """Return the time in nanoseconds, as file systems state it."""
    return time.time_ns()


def _decoded(content: bytes) -> Listing:
    check, packed = content[:4], memoryview(content)[4:]
    if zlib.crc32(packed).to_bytes(4, "little") != check:
        raise ValueError("wrong checksum")
    return msgspec.msgpack.decode(packed, type=Listing)


def _is_same(stored: Mark) -> bool:
    try:
        return mark(stored[0]) == stored
    except (OSError, ValueError):
        return False


def _prune(folder: Path) -> None:
    left = LARGEST_IN_ALL
    sizes = {path: path.stat() for path in folder.iterdir()}
    for path in sorted(sizes, key=lambda path: -sizes[path].st_mtime):
        left -= sizes[path].st_size
        if left < 0:
            path.unlink(missing_ok=True)
