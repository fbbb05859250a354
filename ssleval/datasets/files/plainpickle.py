"""Read pickles that hold plain values and arrays of numbers, and run no code of theirs.

Loading a pickle calls whatever functions it names. Here every name is refused but those that NumPy stores
arrays and numbers with. These few give inert classes of this module in place of NumPy's own, whose
``__setstate__`` trusts the offsets and sizes that a file states.
"""

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.core.files import DAMAGED_PICKLE
from ssleval.errors import DataError

_LARGEST = 1 << 26
"""Bytes of a file that is read; the published annotations have less than a hundredth of it."""


def read_plain_pickle(path: Path) -> Any:
    """Return the dicts, lists, strings, numbers and arrays of numbers in a pickle; DataError for all else."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; it comes with the images")
    size = path.stat().st_size
    try:
        if size > _LARGEST:
            raise ValueError(f"{size:,} bytes, at most {_LARGEST:,} are read")
        with path.open("rb") as file:
            # latin1 is how Python 3 reads the strings and arrays of Python 2.
            stored = _Unpickler(file, encoding="latin1").load()
        return _plain(stored, iter(range(size)))
    except DAMAGED_PICKLE as error:
        raise DataError(f"{path}: not a whole pickle of plain values ({error}); fetch it again") from error


class _Type:
    """In place of ``numpy.dtype``: the type of a plain number."""

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[biuf][1248]", name):
            raise ValueError(f"values of type {name!r}, expected numbers")
        self.numpy = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        self.numpy = self.numpy.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """In place of ``numpy.ndarray``; made whole by `_frombuffer`, made empty and then filled by others."""

    def __init__(self, *parts: Any) -> None:
        self.value: Any = _shaped(*parts) if len(parts) == 4 else np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _shaped(data, kind, shape, "F" if fortran else "C")


def _shaped(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
        raise TypeError("an array of objects, expected numbers")
    return np.frombuffer(content, kind.numpy).reshape(shape, order="F" if order == "F" else "C")


def _scalar(kind: Any, data: Any) -> Any:
    return _shaped(data, kind, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("bytes in an encoding other than latin1")
    return text.encode("latin1")


_ALLOWED: Mapping[str, Callable[..., Any]] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _Array,
    "_codecs.encode": _encode,
    # What old pickles call for an empty array.
    "__builtin__.bytes": lambda: b"",
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        # NumPy 2 calls its core _core.
        allowed = _ALLOWED.get(name.replace("numpy._core", "numpy.core"))
        if allowed is None:
            raise DataError(
                f"a pickle asks for {name}; only plain values and arrays of numbers are read from pickles, "
                "since any other could run code"
            )
        return allowed


def _plain(value: Any, left: Iterator[int]) -> Any:
    """Return ``value`` in plain types. A value takes a byte or more; lists that repeat take fewer bytes."""
    if next(left, None) is None:
        raise ValueError("it repeats itself; more values than bytes")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_plain(key, left): _plain(content, left) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(content, left) for content in value]
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise TypeError(f"a {type(value).__name__}")
