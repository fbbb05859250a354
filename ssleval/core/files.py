"""Files as wholes."""

import hashlib
import os
import pickle
import struct

DAMAGED_PICKLE: tuple[type[Exception], ...] = (
    pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError,
    AssertionError, AttributeError, TypeError, OverflowError,
)  # fmt: skip
"""All that the readers of pickles and of `torch.save` raise on truncated and altered files."""


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of the content of a file, as hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
