"""Files as wholes: written completely or not at all, and hashed."""

import errno
import hashlib
import os
import pickle
import secrets
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAMAGED_PICKLE: tuple[type[Exception], ...] = (
    pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError, LookupError,
    AssertionError, AttributeError, TypeError, OverflowError,
)  # fmt: skip
"""All that the readers of pickles and of `torch.save` raise on truncated and altered files."""
_LONGEST_STEM = 100
"""Characters of a name that its temporary file has too: file systems take 255 bytes, and more are added."""


def write_atomically(path: Path, save: Callable[[Path], Any]) -> None:
    """Have ``save`` write a temporary file beside ``path``, then rename it to ``path``.

    A process killed at any time leaves the old file, or none, at ``path``. The data is on the disk before the
    rename. Missing parent folders are created; the mode is as the umask says. A link stays,
    and the file that it leads to is replaced. The temporary name starts with ``.`` and the name of ``path``,
    and does not end in its suffix.

    Raises:
        OSError: it cannot be written, as on a full disk, or is a folder, a device or a pipe, which is left as
            it is. It names ``path``.
    """
    _refuse_special(path)
    target = Path(os.path.realpath(path))
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name[:_LONGEST_STEM]}.{secrets.token_hex(8)}")
        handle = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        draft, mode = new, stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        save(draft)
        _flush(draft)
        # Some writers put a file of their own, and of their own mode, in its place.
        draft.chmod(mode)
        draft.replace(target)
    except OSError as error:
        # The temporary name says nothing to a reader, and errors of a full disk have none.
        reason = error.strerror or error
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "a folder of its path is a file"
        raise OSError(error.errno or errno.EIO, f"not written: {reason}", str(path)) from error
    except Exception as error:
        if draft is not None:
            _refuse_full(error, draft, path)
        raise
    finally:
        # Also after success: renaming a hard link onto another link of the same file leaves both.
        if draft is not None:
            draft.unlink(missing_ok=True)


def _refuse_special(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "not written: it is a folder", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not written: it is a device or a pipe", str(path))
    if Path(os.path.realpath(path)).is_symlink():
        raise OSError(errno.ELOOP, "not written: it is a link to itself", str(path))


def _flush(draft: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())


def _refuse_full(reason: Exception, draft: Path, path: Path) -> None:
    # Writers of tensors report a full disk in words of their own, if at all; it refuses a megabyte more.
    full = os.strerror(errno.ENOSPC)
    if full in str(reason):
        raise OSError(errno.ENOSPC, f"not written: {full}", str(path)) from reason
    try:
        with draft.open("ab") as file:
            file.write(bytes(1 << 20))
        _flush(draft)
    except OSError as error:
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from reason


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of the content of a file, as hexadecimal digits."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()
