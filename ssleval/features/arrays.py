"""Preallocated ``.npy`` files written row by row, so that an unfinished array is a file like any other.

Rows are written with positioned writes and never through a memory map: dirty pages of a map count as
memory of the process, and a full disk then kills it instead of raising.
"""

import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from ssleval.errors import DataError


class RowFile:
    """One array on disk: its place, the shape of all of it, and its type."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.header = _header(shape, self.dtype)
        self.row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self.size = len(self.header) + shape[0] * self.row_bytes

    def intact_rows(self) -> int:
        """Return how many leading rows the file has room for; 0 where it is absent or another array."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            if file.read(len(self.header)) != self.header:
                return 0
        present = max(0, self.path.stat().st_size - len(self.header))
        return min(self.shape[0], present // self.row_bytes)

    def allocate(self) -> None:
        """Give the file its header and full size; rows it has already are kept, missing ones read zero."""
        rows = self.intact_rows()
        if rows == self.shape[0] and self.path.exists() and self.path.stat().st_size == self.size:
            return
        keep = rows * self.row_bytes
        with disk(self.path), self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.write(self.header)
            file.truncate(len(self.header) + keep)
            file.truncate(self.size)

    def write(self, descriptor: int, first: int, rows: Shaped[np.ndarray, "m ..."]) -> None:
        """Write rows beginning at row ``first`` through an open descriptor of this file."""
        left = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B")
        place = len(self.header) + first * self.row_bytes
        while left:
            written = os.pwrite(descriptor, left, place)
            left, place = left[written:], place + written

    def read_rows(self, rows: range) -> Shaped[np.ndarray, "m ..."]:
        """Read some rows into memory; they must be there (`intact_rows`)."""
        count = len(rows) * self.row_bytes // self.dtype.itemsize
        place = len(self.header) + rows.start * self.row_bytes
        found = np.fromfile(self.path, self.dtype, count, offset=place)
        return found.reshape(len(rows), *self.shape[1:])

    def read(self) -> Shaped[np.ndarray, "n ..."]:
        """Map the array read-only; an empty one, which cannot be mapped, is simply returned."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


@contextmanager
def disk(path: Path) -> Generator[None, None, None]:
    """Turn what a disk can refuse (full, quota, read-only) into one line that names the file.

    Raises:
        DataError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}; free space or choose another cache folder and run again: "
            "what was extracted is kept"
        ) from error


def fits(folder: Path, size: int, free: int) -> None:
    """Refuse to begin arrays of ``size`` bytes in ``folder`` where only ``free`` bytes are left.

    Raises:
        DataError: it would not fit.
    """
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
