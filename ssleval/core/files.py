"""Files as wholes: written completely or not at all, and hashed."""

import errno
import hashlib
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAMAGED_PICKLE: tuple[type[Exception], ...] = (
    pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError,
    AssertionError, AttributeError, TypeError, OverflowError,
)  # fmt: skip
"""All that the readers of pickles and of `torch.save` raise on truncated and altered files."""
_FULL = 1 << 20
"""Bytes that are as good as none: writers fail some buffers before the last byte."""


def write_atomically(path: Path, save: Callable[[Path], Any]) -> None:
    """Have ``save`` write a temporary file beside ``path``, then rename it to ``path``.

    A process killed at any time leaves the old file, or none, at ``path``. The data is on the disk before the
    rename. Missing parent folders are created; the file has mode 0644. The temporary name starts with ``.``
    and the name of ``path``, and does not end in its suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        save(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(path)
    except Exception as error:
        _raise_named(error, draft, path)
        raise
    finally:
        # Also after success: renaming a hard link onto another link of the same file leaves both.
        draft.unlink(missing_ok=True)


def _raise_named(error: Exception, draft: Path, path: Path) -> None:
    """Raise an OSError that names ``path`` for an error of the system that names the draft or nothing."""
    if isinstance(error, OSError) and error.errno and error.filename in {None, str(draft)}:
        raise OSError(error.errno, error.strerror, str(path)) from error
    # torch and safetensors report a full disk in words of their own.
    full = "No space left" in str(error) or shutil.disk_usage(path.parent).free < _FULL
    if full and not isinstance(error, OSError):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of the content of a file, as hexadecimal digits."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
