"""Options and messages that several commands share."""

import json
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer import Option

from ssleval.core.cachefolder import VARIABLE, default_cache
from ssleval.core.escape import terminal_line
from ssleval.core.text import IDENTICAL, NOT_MEASURED
from ssleval.errors import ConfigError

if TYPE_CHECKING:
    from ssleval.core import Context, DatasetOptions

A = TypeVar("A")
Results = Annotated[Path, Option(help="Folder of result files.")]
CacheDir = Annotated[
    Path | None, Option(help=f"Cache folder; default: {VARIABLE}, else the user's cache folder.")
]
DataRoot = Annotated[Path, Option(help="Folder that holds named datasets.")]
Checkpoint = Annotated[Path | None, Option(help="Local weights for the named architecture.")]
Key = Annotated[str, Option(help="Network of a checkpoint: teacher, student, any prefix.")]
Device = Annotated[str, Option(help="cpu, cuda, cuda:1, mps; auto: an accelerator, else cpu.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"], Option(help="fp32, bf16 or fp16 forward passes.")]
Exif = Annotated[
    bool, Option(help="Turn images as their EXIF orientation says; published protocols ignore it.")
]
FullHash = Annotated[bool, Option(help="Fingerprint file contents, not only sizes.")]
Limit = Annotated[int | None, Option(help="Keep this many images of every split.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object a line.")]


@dataclass(frozen=True, slots=True)
class Card:
    """Options on how images are prepared, in place of what the model's card says."""

    image_mean: Annotated[
        str | None, Option(help="Mean of RGB in [0, 1] that the weights expect: 0.5,0.5,0.5.")
    ] = None
    image_std: Annotated[str | None, Option(help="Standard deviation, with --image-mean.")] = None
    image_size: Annotated[int | None, Option(help="Side of the square the model was made for.")] = None
    patch_size: Annotated[int | None, Option(help="Pixels of a patch's side.")] = None
    resize: Annotated[
        int | None, Option(help="Pixels of the short side before the crop to the image size.")
    ] = None
    resize_mode: Annotated[
        str | None, Option("--resize-mode", help="short keeps the aspect, square resizes both sides.")
    ] = None
    interpolation: Annotated[str | None, Option(help="nearest, bilinear, bicubic or lanczos.")] = None

    def stated(self) -> dict[str, Any]:
        """Return the fields of a card that the command line states."""
        values = asdict(self)
        values = {"mean": values.pop("image_mean"), "std": values.pop("image_std"), **values}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Data:
    """Options on where data and features lie."""

    data_root: DataRoot = Path("data")
    cache: CacheDir = None

    @property
    def folder(self) -> Path:
        """The cache folder."""
        return self.cache or default_cache()

    def options(self, **more: Any) -> "DatasetOptions":
        """Return where data lies; ``more`` are further fields of it."""
        from ssleval.core import DatasetOptions

        return DatasetOptions(self.data_root, cache=self.folder, **more)


@dataclass(frozen=True, slots=True)
class Running(Data):
    """Options on where data lies and how models run on it."""

    device: Device = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "published"],
        Option(help="fp32, bf16 or fp16 forward passes; published: as each protocol's own code."),
    ] = "fp32"
    num_workers: Annotated[
        str, Option(help="Processes that decode images; auto: all cores beside an accelerator.")
    ] = "auto"
    pixels: Annotated[
        Literal["exact", "fast"],
        Option(help="exact: decoded and resized by PIL; fast: by torchvision, 2 grey levels off."),
    ] = "exact"
    limit: Limit = None
    quiet: Annotated[bool, Option(help="No progress, no notes; what was not measured is still said.")] = False

    def context(self, **more: Any) -> "Context":
        """Return how to compute; ``more`` are further fields of it."""
        from ssleval.core import Context

        return Context(
            self.device,
            self.precision,
            num_workers=number("--num-workers", self.num_workers, 0, "auto"),
            cache=self.folder,
            progress=not self.quiet,
            pixels=self.pixels,
            **more,
        )


@dataclass(frozen=True, slots=True)
class Extracting(Running):
    """The same for commands that follow no protocol."""

    precision: Precision = "fp32"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of its parameters that are dataclasses as options of its own."""
    parameters: list[Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for parameter in signature(command).parameters.values():
        own = [parameter]
        kind: Any = parameter.annotation
        if hasattr(kind, "__dataclass_fields__"):
            own = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in signature(kind).parameters.values()]
            groups[parameter.name] = kind, [one.name for one in own]
        parameters += own

    @wraps(command)
    def called(**values: Any) -> None:
        made = {name: kind(**{one: values.pop(one) for one in own}) for name, (kind, own) in groups.items()}
        command(**values, **made)

    called.__signature__ = Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def number(option: str, text: str, least: int, auto: A) -> int | A:
    """Return the number that an option states; ``auto`` for that word."""
    if text == "auto":
        return auto
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise ConfigError(f"{option} {text}: a whole number of at least {least}, or auto")
    return int(text)


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
