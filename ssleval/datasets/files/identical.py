"""Which files of one split are, byte for byte, files of another.

Equal files have equal sizes, so that only files whose size both splits have are opened, and only those whose
ends are equal are read whole. What came out is kept in the cache by the fingerprints of both splits.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ssleval.core import Split, digest
from ssleval.core.files import file_sha256, write_text_atomically
from ssleval.core.text import IDENTICAL, counted, some
from ssleval.errors import DataError

_Name: TypeAlias = Callable[[int], str]
_THREADS = 16
_END = 4096
"""Bytes at the end of a file: those of compressed images are rarely alike."""


def identical_files(first: Split, second: Split, cache: Path) -> list[tuple[int, int]]:
    """Return the rows of ``first`` whose file is in ``second`` as well, sorted, and its first row there.

    Splits whose images are no files, one each, have none.

    Raises:
        DataError: a file cannot be read.
    """
    names = first.file, second.file
    if names[0] is None or names[1] is None or not (len(first) and len(second)):
        return []
    roots = [os.path.abspath(name(0)) for name in (names[0], names[1])]  # noqa: PTH100
    place = cache / "identical" / f"{digest([first.fingerprint, second.fingerprint, roots])[:40]}.json"
    kept = _kept(place, len(first), len(second))
    if kept is None:
        kept = _compared(names[0], range(len(first)), names[1], range(len(second)))
        with suppress(OSError):
            write_text_atomically(place, json.dumps(kept))
    return kept


def identical_note(name: str, train: tuple[str, Split], test: tuple[str, Split], cache: Path) -> str:
    """Return a line on the files of the split ``test`` that are in ``train`` as well; '' where none is."""
    pairs = identical_files(test[1], train[1], cache)
    if not pairs:
        return ""
    shown = [f"{test[1].ids[row]} = {train[1].ids[other]}" for row, other in pairs]
    return (
        f"{IDENTICAL}{counted(len(pairs), 'image')} of {name}/{test[0]} lie in {train[0]} as well, byte for "
        f"byte: {some(shown, 3)}"
    )


def _kept(place: Path, first: int, second: int) -> list[tuple[int, int]] | None:
    with suppress(OSError, msgspec.DecodeError):
        pairs = msgspec.json.decode(place.read_bytes(), type=list[tuple[int, int]])
        if all(0 <= row < first and 0 <= other < second for row, other in pairs):
            return pairs
    return None


def _compared(
    first: _Name, rows: Sequence[int], second: _Name, others: Sequence[int]
) -> list[tuple[int, int]]:
    one, two = dict[int, Any](), dict[int, Any]()
    for mark in (os.path.getsize, _end, file_sha256):
        one, two = _marks(mark, first, rows), _marks(mark, second, others)
        both = set(one.values()) & set(two.values())
        rows, others = ([row for row, value in marks.items() if value in both] for marks in (one, two))
    # The first of equal ones: of equal placeholders, all pairs would be their number squared.
    places = {two[other]: other for other in reversed(others)}
    return [(row, places[one[row]]) for row in sorted(rows)]


def _marks(mark: Callable[[str], Any], name: _Name, rows: Sequence[int]) -> dict[int, Any]:
    """Return what ``mark`` says of the file of every row."""
    try:
        # Each call waits for the server of a network file system.
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(rows, pool.map(mark, map(name, rows)), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; the list of images names it") from error


def _end(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        return file.read(_END)
