"""Options and messages that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option("--results", help="Folder for result files.")]
CacheDir = Annotated[Path | None, typer.Option("--cache", envvar="SSLEVAL_CACHE", help="Feature store.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def cache_folder(asked: Path | None) -> Path:
    """Return the folder asked for, or the user's cache folder."""
    from ssleval.core import Context

    return asked or Context().cache


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    typer.echo(f"ssleval: {' '.join(str(error).split())}", err=True)


def say(text: str) -> None:
    """Print a note on stderr."""
    typer.echo(text, err=True)


def silent(text: str) -> None:
    """Print nothing, where notes were declined."""
    del text
