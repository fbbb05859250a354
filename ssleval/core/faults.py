"""Faults of code that others wrote, a model file or a plug-in: an error of one line that names the place."""

import os
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from traceback import clear_frames, walk_tb

from ssleval.errors import ContractError, SslevalError

_OURS = str(Path(__file__).parents[1]) + os.sep
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib")})
_LONGEST = 500
"""Characters of a reason; torch lists every key of a state dictionary."""


@contextmanager
def faults_of(owner: str, *, foreign: bool, passing: tuple[type[BaseException], ...] = ()) -> Generator[None]:
    """Raise what code of others raises inside as a ContractError: ``owner: FILE:LINE: TYPE: reason``.

    Leaving Python is among it: with exit code 0, nothing would have been measured and nobody told. Ctrl-C,
    errors of ssleval and those of ``passing`` are raised as they are.

    Args:
        owner: what the message calls the code.
        foreign: whether the code is of others. If not, only errors that passed a line of others count.
        passing: further errors that the caller handles.
    """
    leave, process = os._exit, os.getpid()

    def refuse(code: int) -> None:
        # A forked child may leave as it likes.
        if os.getpid() != process:
            leave(code)
        raise SystemExit(f"os._exit({code})")

    if foreign:
        os._exit = refuse  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    except (SslevalError, KeyboardInterrupt, GeneratorExit, *passing):
        raise
    except BaseException as error:
        if not (foreign or place(error)):
            raise
        raise ContractError(f"{owner}: {located(error)}") from error
    finally:
        os._exit = leave


def forget_frames(error: BaseException) -> None:
    """Drop the local variables of all calls that an error, and those before it, ended.

    What they hold would outlive Python's own end: threads of a process group then abort the process.
    """
    chain: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and one not in chain:
            chain.append(one)
            clear_frames(one.__traceback__)
            left += [one.__cause__, one.__context__]


def is_foreign(code: object) -> bool:
    """Return whether a class, a function, or the class of an object is not of this package."""
    module = getattr(code, "__module__", None) or type(code).__module__
    return not str(module).startswith("ssleval.")


def located(error: BaseException) -> str:
    """Return ``FILE:LINE: TYPE: reason``, on one line."""
    reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
    return ": ".join(filter(None, (place(error), type(error).__name__, reason)))


def place(error: BaseException) -> str:
    """Return ``FILE:LINE`` of the last line of others that an error passed, '' where there is none.

    Lines of installed libraries are none: the line that called them says more.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    others = [
        f"{file}:{line}" for file, line in lines if not file.startswith((_OURS, *_INSTALLED, "<", "/dev/"))
    ]
    return others[-1] if others else ""
