"""Options and messages that several commands share."""

import json
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Option

from ssleval.core.cachefolder import VARIABLE
from ssleval.core.escape import terminal_line
from ssleval.core.text import IDENTICAL, NOT_MEASURED
from ssleval.errors import ConfigError

Results = Annotated[Path, Option("--results", help="Folder of result files.")]
CacheDir = Annotated[
    Path | None,
    Option("--cache", help=f"Cache folder; default: {VARIABLE}, else the user's cache folder."),
]
DataRoot = Annotated[Path, Option("--data-root", help="Folder that holds named datasets.")]
Checkpoint = Annotated[Path | None, Option("--checkpoint", help="Local weights for the named architecture.")]
ImageMean = Annotated[
    str | None, Option("--image-mean", help="Mean of RGB in [0, 1] that the weights expect: 0.5,0.5,0.5.")
]
ImageStd = Annotated[str | None, Option("--image-std", help="Standard deviation, with --image-mean.")]
ImageSize = Annotated[int | None, Option("--image-size", help="Side of the square the model was made for.")]
PatchSize = Annotated[int | None, Option("--patch-size", help="Pixels of a patch's side.")]
Resize = Annotated[
    int | None, Option("--resize", help="Pixels of the short side before the crop to the image size.")
]
ResizeMode = Annotated[
    str | None, Option("--resize-mode", help="short keeps the aspect, square resizes both sides.")
]
Interpolation = Annotated[
    str | None, Option("--interpolation", help="nearest, bilinear, bicubic or lanczos.")
]
Key = Annotated[str, Option("--key", help="Network of a checkpoint: teacher, student, any prefix.")]
Device = Annotated[str, Option("--device", help="cpu, cuda, cuda:1, mps; auto: an accelerator, else cpu.")]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], Option("--precision", help="fp32, bf16 or fp16 forward passes.")
]
AnyPrecision = Annotated[
    Literal["fp32", "bf16", "fp16", "published"],
    Option("--precision", help="fp32, bf16 or fp16 forward passes; published: as each protocol's own code."),
]
Workers = Annotated[
    str, Option("--num-workers", help="Processes that decode images; auto: all cores beside an accelerator.")
]
Pixels = Annotated[
    Literal["exact", "fast"],
    Option("--pixels", help="exact: decoded and resized by PIL; fast: by torchvision, 2 grey levels off."),
]
Exif = Annotated[
    bool, Option("--exif", help="Turn images as their EXIF orientation says; published protocols ignore it.")
]
FullHash = Annotated[bool, Option("--full-hash", help="Fingerprint file contents, not only sizes.")]
Limit = Annotated[int | None, Option("--limit", help="Keep this many images of every split.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object a line.")]
Quiet = Annotated[bool, Option("--quiet", help="No progress, no notes; what was not measured is still said.")]


def number(option: str, text: str, least: int) -> int | None:
    """Return the number that an option states, None for ``auto``."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise ConfigError(f"{option} {text}: a whole number of at least {least}, or auto")
    return int(text)


def workers(text: str) -> int | Literal["auto"]:
    """Return what ``--num-workers`` states."""
    stated_number = number("--num-workers", text, 0)
    return "auto" if stated_number is None else stated_number


def stated(**fields: str | int | None) -> dict[str, Any]:
    """Return the fields of a card that a command line states."""
    return {name: value for name, value in fields.items() if value is not None}


def without(words: Iterable[str], names: Container[str]) -> list[str]:
    """Return the words of a command line without some options that take a value, and without their values."""
    kept: list[str] = []
    is_value = False
    for word in words:
        option, equals, _ = word.partition("=")
        if not is_value and option not in names:
            kept.append(word)
        is_value = not is_value and option in names and not equals
    return kept


def print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows on stdout, one JSON object a line."""
    for row in rows:
        typer.echo(json.dumps(row))


def complain(error: Exception | str) -> None:
    """Print an error as one line on stderr."""
    say(f"ssleval: {' '.join(str(error).split())}")


def say(line: str) -> None:
    """Print a note on stderr: one line, in which names of others cannot act. Nobody needs to read it."""
    with suppress(OSError):
        typer.echo(terminal_line(line), err=True)


def tell(line: str) -> None:
    """Print a line on stdout as `say` does on stderr; tables and JSON are escaped where they are made."""
    typer.echo(terminal_line(line))


def notes(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints notes; a quiet one prints only what nobody should miss."""

    def note(text: str) -> None:
        if not quiet or text.startswith((NOT_MEASURED, IDENTICAL)):
            say(text)

    return note
