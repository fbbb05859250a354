"""Memory kept or left alone for a while, where giving it back costs more than it brings.

The C library gives large blocks back as soon as they are freed. The next batch then asks for the same again,
and the system clears it page by page: up to a tenth of a batch's time on a CPU. Python looks through all
objects for cycles whenever there are more of them: an eighth of the time in which thousands of results are
read, which hold none.
"""

import ctypes
import gc
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""
_USUAL = 32 << 20
"""The largest block that the library comes to reuse by itself; it trims at twice that."""
_LARGEST = 1 << 30


class _Heap:
    """The one of this process: a training that evaluates itself asks for it twice."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0

    def enter(self, library: Any) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                _reuse(library, _LARGEST)

    def leave(self, library: Any) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                _reuse(library, _USUAL)
                library.malloc_trim(0)


_HEAP = _Heap()


@contextmanager
def freed_memory_kept() -> Generator[None]:
    """Keep freed memory inside, and give back what is unused after the outermost use.

    Other C libraries than glibc go on as they are.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _HEAP.enter(library)
    try:
        yield
    finally:
        _HEAP.leave(library)


@contextmanager
def cycles_left() -> Generator[None]:
    """Look for no cycles of objects inside."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _reuse(library: Any, largest: int) -> None:
    # Some versions refuse more than what is usual, and would then map every block above the smallest size.
    if not library.mallopt(_MMAP_THRESHOLD, largest):
        library.mallopt(_MMAP_THRESHOLD, _USUAL)
    library.mallopt(_TRIM_THRESHOLD, min(2 * largest, (1 << 31) - 1))


@cache
def _glibc() -> Any:
    """Return the C library this process runs on, where it is glibc."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
