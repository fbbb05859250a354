"""Preallocated ``.npy`` files written row by row; an unfinished array is an ordinary ``.npy`` file too.

Rows are written with positioned writes, never through a memory map: dirty pages of a map count as memory of
the process, and on a full disk the process is killed instead of getting an error.
"""

import math
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ssleval.errors import DataError


class RowFile:
    """One array on disk: its path, full shape and type."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.header = _header(shape, self.dtype)
        self.row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self.size = len(self.header) + shape[0] * self.row_bytes

    def intact_rows(self) -> int:
        """Return how many leading rows lie within the file; 0 where it is absent or holds another array."""
        if not self.path.is_file():
            return 0
        with self.path.open("rb") as file:
            if file.read(len(self.header)) != self.header:
                return 0
        present = max(0, self.path.stat().st_size - len(self.header))
        return min(self.shape[0], present // self.row_bytes)

    def allocate(self) -> None:
        """Give the file its header and full size; rows in it are kept, missing rows read as zero."""
        rows = self.intact_rows()
        if rows == self.shape[0] and self.path.exists() and self.path.stat().st_size == self.size:
            return
        keep = rows * self.row_bytes
        with disk(self.path), self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.write(self.header)
            file.truncate(len(self.header) + keep)
            file.truncate(self.size)

    def write(self, descriptor: int, first: int, rows: Shaped[np.ndarray, "m ..."]) -> None:
        """Write rows from row ``first`` on through an open descriptor of this file."""
        content = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B")
        write_at(descriptor, content, len(self.header) + first * self.row_bytes)

    def read_rows(self, rows: range) -> Shaped[np.ndarray, "m ..."]:
        """Read rows, which must lie within the file (`intact_rows`), into memory."""
        count = len(rows) * self.row_bytes // self.dtype.itemsize
        offset = len(self.header) + rows.start * self.row_bytes
        values = np.fromfile(self.path, self.dtype, count, offset=offset)
        return values.reshape(len(rows), *self.shape[1:])

    def read(self) -> Shaped[np.ndarray, "n ..."]:
        """Return a read-only memory map; an empty array cannot be mapped and is returned as it is."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data``, which a disk may take in several steps."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


@contextmanager
def disk(path: Path) -> Generator[None]:
    """Turn errors of the disk (full, over quota, read-only) into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}; free space or choose another cache folder and run again: "
            "features extracted so far are kept"
        ) from error


def fits(folder: Path, size: int) -> None:
    """Refuse to allocate ``size`` bytes in ``folder`` where less is free."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: features need {size / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; run "
            "`ssleval cache prune` or choose another cache folder"
        )


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    header = BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()
