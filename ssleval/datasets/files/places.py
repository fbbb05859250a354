"""Where listed files lie: one file has many spellings, and must not be two items."""

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath

from ssleval.core.escape import terminal_line
from ssleval.errors import ConfigError


def located(source: str, location: str, form: str = "PATH") -> Path:
    """Return the path behind the colon of ``source:PATH``; a ConfigError where nothing stands there."""
    if not location:
        raise ConfigError(f"{source}: needs a path; write {source}:{form}")
    return Path(location).expanduser()


def places(root: Path) -> Callable[[str], str]:
    """Return a function from a path relative to ``root`` to one spelling of it, also through linked folders.

    A link to a single file is a file of its own: stores that keep equal content once are full of them.
    """
    real = cache(os.path.realpath)

    def place(path: str) -> str:
        folder, name = os.path.split(root / path)
        return f"{real(folder)}/{name}"

    return place


def leads_out(path: str) -> bool:
    """Return whether a path that a table states is absolute, or leads out of the folder it is below."""
    return path.startswith("/") or ".." in PurePosixPath(path).parts


def say_shared(owner: str, first: str, second: str, what: str) -> None:
    """Say on stderr that two splits share files: deliberate in a trial, and otherwise a score too good."""
    say(f"{owner}: {what} in both {first} and {second}; scores may be too good")


def say(note: str) -> None:
    """Print a note about data on stderr."""
    print(terminal_line(f"ssleval: {note}"), file=sys.stderr)  # noqa: T201
