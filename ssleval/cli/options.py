"""Options and messages that several commands share."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

from ssleval.core.cachefolder import VARIABLE

Results: TypeAlias = Annotated[Path, typer.Option("--results", help="Folder of result files.")]
CacheDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--cache", help=f"Cache folder; default: {VARIABLE}, else the user's cache folder."),
]
DataRoot: TypeAlias = Annotated[Path, typer.Option("--data-root", help="Folder that holds named datasets.")]
Checkpoint: TypeAlias = Annotated[
    Path | None, typer.Option("--checkpoint", help="Local weights for the named architecture.")
]
Key: TypeAlias = Annotated[
    str, typer.Option("--key", help="Network of a training checkpoint: teacher, student.")
]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
Precision: TypeAlias = Annotated[
    Literal["fp32", "bf16", "fp16"], typer.Option("--precision", help="fp32, bf16 or fp16 forward passes.")
]
Workers: TypeAlias = Annotated[
    int, typer.Option("--num-workers", min=0, help="Processes that decode images.")
]
Limit: TypeAlias = Annotated[
    int | None, typer.Option("--limit", help="Keep this many images of every split.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", help="No progress, no notes; what was not measured is still said.")
]

NOT_MEASURED = "not applicable:"
"""How a note begins that says why a task was not measured."""


def print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows on stdout, one JSON object a line."""
    for row in rows:
        typer.echo(json.dumps(row))


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    say(f"ssleval: {' '.join(str(error).split())}")


def say(text: str) -> None:
    """Print a note on stderr."""
    typer.echo(text, err=True)


def notes(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints notes; a quiet one prints only which tasks were not measured."""

    def note(text: str) -> None:
        if not quiet or text.startswith(NOT_MEASURED):
            say(text)

    return note
