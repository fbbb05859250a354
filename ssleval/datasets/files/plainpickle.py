"""Read pickles that hold nothing but plain values and number arrays, running none of their code.

A pickle names functions for the reader to call. Here every name but those of NumPy's arrays is refused, and
those few stand for inert records of our own, from which arrays are made when their type is a plain number:
no file decides what is called.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.core.files import DAMAGED_PICKLE
from ssleval.errors import DataError


def read_plain_pickle(path: Path) -> Any:
    """Return the dicts, lists, strings, numbers and arrays of numbers that a pickle holds.

    Raises:
        DataError: no such file, a damaged one, or one that names anything else.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; it comes with the images")
    try:
        with path.open("rb") as file:
            # latin1 is how Python 3 reads the strings and arrays of Python 2.
            return _plain(_Reader(file, encoding="latin1").load())
    except DAMAGED_PICKLE as error:
        raise DataError(f"{path}: not a whole pickle of plain values ({error}); fetch it again") from error


@dataclass
class _Type:
    """Stands for ``numpy.dtype``."""

    name: Any
    align: Any = False
    copy: Any = False
    order: str = "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        if not isinstance(self.name, str) or not re.fullmatch(r"[biuf][1248]", self.name):
            raise ValueError(f"values of type {self.name!r}, expected numbers")
        return np.dtype(self.order + self.name)


class _Array:
    """Stands for ``numpy.ndarray``."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _shaped(data, kind, shape, "F" if fortran else "C")


def _shaped(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
        raise TypeError("an array of objects, expected numbers")
    return np.frombuffer(bytes(data), kind.numpy()).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> Any:
    made = _Array()
    made.value = _shaped(data, kind, shape, order)
    return made


def _scalar(kind: Any, data: Any) -> Any:
    return _shaped(data, kind, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("bytes in an encoding other than latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_KNOWN: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
    # What old pickles call for an empty array.
    ("__builtin__", "bytes"): _no_bytes,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        # NumPy 2 calls its core _core.
        known = _KNOWN.get((module_name.replace("numpy._core", "numpy.core"), global_name))
        if known is None:
            raise DataError(
                f"a pickle asks for {module_name}.{global_name}; only plain values and arrays of numbers are "
                "read from pickles, since any other could run code"
            )
        return known


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    raise TypeError(f"a {type(value).__name__}")
