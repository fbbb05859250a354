"""How a command ends: every error is one line and an exit code, and nothing is lost of what was printed."""

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from traceback import print_exc
from typing import Any

import typer

from ssleval.cli.options import complain
from ssleval.cli.usage import USAGE_ERROR, usage
from ssleval.core.faults import located, place
from ssleval.errors import ConfigError, SslevalError

_MENDABLE = 2
_FAULT = 70
"""`EX_SOFTWARE` of sysexits.h."""
INTERRUPTED = 130
"""What typer makes of Ctrl-C, and shells of a process that was interrupted."""
_PIPE_CLOSED = 141
"""What a shell reports of a process that wrote to a closed pipe, such as `| head`."""
_MEMORY = ("can't allocate memory", "out of memory", "DataLoader worker")
"""Marks of errors that torch raises where memory is short, of the machine or shared by its processes."""


@contextmanager
def ended(*, traceback: bool) -> Generator[None]:
    """Turn what is raised inside into a line on stderr and an exit code; ``traceback`` raises it as it is."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(_pipe_closed()) from None
    except SystemExit as stop:
        # typer exits with 1 where nobody reads on, which would mean that a gate failed.
        if isinstance(stop.__context__, BrokenPipeError):
            raise SystemExit(_pipe_closed()) from None
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # pyright: ignore[reportAttributeAccessIssue]
            raise SystemExit(_MENDABLE) from None
        if traceback:
            raise
        told = _told(error)
        if told is None:
            print_exc()
            raise SystemExit(_FAULT) from None
        # Of several processes, the first says what all have met.
        if not getattr(error, "silent", False):
            complain(told)
        raise SystemExit(_MENDABLE) from None


def open_streams() -> None:
    """Replace standard streams that are closed by ones to nowhere, and print what their encoding lacks.

    Otherwise the next file that is opened would be stderr, and warnings of libraries would be written there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        # A file name that is no UTF-8 is a name all the same.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def refuse_unusable(arguments: Sequence[str]) -> None:
    """Refuse arguments that no command takes: empty ones, of shell variables that are not set, and NUL."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        option = name if equals and name.startswith("--") else before if before.startswith("--") else ""
        if not argument or (equals and not value and name.startswith("--")):
            raise ConfigError(
                f"{option or 'an argument'} is empty; leave it out, or check what it was set from"
            )
        if "\0" in argument:
            raise ConfigError(f"{option or 'an argument'} holds a NUL character: {argument!r}")


def _told(error: Exception) -> str | None:
    """Return what to say of an error that is no fault of ours; None of one that is."""
    for kind, say_of in _SAYINGS.items():
        if isinstance(error, kind):
            return say_of(error)
    if any(mark in str(error) for mark in _MEMORY):
        return _of_memory(error)
    # Faults of others, and values beyond what Python and the system take.
    mendable = "embedded null" in str(error) or place(error)
    return _with_place(error) if mendable else None


def _of_the_system(error: OSError) -> str:
    names = " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None)
    if not error.strerror:
        return str(error)
    return f"{names}: {error.strerror}" if names else f"{error.strerror}; --traceback shows where"


def _of_memory(error: Exception) -> str:
    return f"out of memory ({located(error)}); try a smaller --batch-size, --num-workers or --limit"


def _with_place(error: Exception) -> str:
    return f"{located(error)}; --traceback shows where"


_SAYINGS: dict[type[Exception], Callable[[Any], str]] = {
    USAGE_ERROR: usage,
    typer.Abort: lambda _: "not confirmed; nothing was done",
    SslevalError: str,
    OSError: _of_the_system,
    MemoryError: _of_memory,
    RecursionError: lambda _: "something is nested too deeply to be read; --traceback shows where",
    OverflowError: _with_place,
    UnicodeError: _with_place,
}


def _pipe_closed() -> int:
    """Leave nothing that Python would try to write when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    return _PIPE_CLOSED
