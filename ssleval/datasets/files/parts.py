"""Parts of large files, such as images in shards, read one after the other."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from ssleval.datasets.files.index import Mark
from ssleval.errors import DataError


class Parts:
    """Reads parts of files that were listed; can be pickled.

    Every thread keeps the file open that it read last, and no other: the system reads ahead within one
    opening only, and network file systems ask their server at each.
    """

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.marks = marks
        self._last = threading.local()

    def __reduce__(self) -> tuple[type["Parts"], tuple[Sequence[Mark]]]:
        return Parts, (self.marks,)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes of file ``number``; DataError where it changed since it was listed."""
        file: _Open | None = getattr(self._last, "file", None)
        if file is None or file.number != number:
            file = self._last.file = _Open(number, self.marks[number])
        return os.pread(file.descriptor, size, offset)


class _Open:
    """An open file, closed with its last reference."""

    def __init__(self, number: int, mark: Mark) -> None:
        path, modified, _, _, size = mark
        self.number = number
        self.descriptor = os.open(Path(path), os.O_RDONLY)
        status = os.fstat(self.descriptor)
        if (status.st_mtime_ns, status.st_size) != (modified, size):
            raise DataError(f"{path}: changed since it was listed; run again, which lists all anew")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)
