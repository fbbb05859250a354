"""`ssleval cache`: look after the feature store."""

import re
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from ssleval.cli.commands import Command, Group
from ssleval.cli.options import CacheDir, Json, complain, print_rows, tell
from ssleval.core.cachefolder import default_cache
from ssleval.core.escape import terminal_line
from ssleval.errors import ConfigError

if TYPE_CHECKING:
    from ssleval.features.cache import Freed

cache_app = typer.Typer(cls=Group, no_args_is_help=True, help="Look after the feature store.")


@cache_app.command(name="info", cls=Command)
def cache_info(cache: CacheDir = None, as_json: Json = False) -> None:
    """List the stored passes, last used first.

    Examples:
      ssleval cache info
      ssleval cache info --cache /scratch/ssleval --json
    """
    from ssleval.cli.tables import stored, table
    from ssleval.features.cache import damaged, info

    folder = cache or default_cache()
    (print_rows if as_json else table)([stored(entry) for entry in info(folder)])
    errors = damaged(folder)
    for error in errors:
        complain(error)
    if errors:
        raise SystemExit(2)


@cache_app.command(name="verify", cls=Command)
def cache_verify(cache: CacheDir = None) -> None:
    """Compare all features with their checksums; the next run extracts damaged batches again.

    Examples:
      ssleval cache verify
      ssleval cache verify --cache /scratch/ssleval
    """
    from ssleval.features.cache import verify

    damages = verify(cache or default_cache())
    for key, column, _, rows in damages:
        what = f"rows {rows.start}..{rows.stop - 1} damaged and dropped" if rows else "damaged; pass removed"
        tell(f"{key[:12]} {column}: {what}")
    tell(f"{len(damages)} damaged batches")


@cache_app.command(name="clear", cls=Command)
def cache_clear(
    cache: CacheDir = None, yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False
) -> None:
    """Remove everything that no process is writing.

    Examples:
      ssleval cache clear
      ssleval cache clear --yes
    """
    from ssleval.features.cache import clear

    folder = cache or default_cache()
    if not yes:
        question = terminal_line(f"Remove all features in {folder}? (--yes does not ask)")
        typer.confirm(question, abort=True, err=True)
    _freed(clear(folder))


@cache_app.command(name="prune", cls=Command)
def cache_prune(
    max_size: Annotated[str, Option(help="Bytes, or with K, M, G, T: 20G, 20GB.")], cache: CacheDir = None
) -> None:
    """Remove what was unused for longest until the rest fits.

    Examples:
      ssleval cache prune --max-size 20G
      ssleval cache prune --max-size 0
    """
    from ssleval.features.cache import prune

    _freed(prune(cache or default_cache(), _bytes(max_size)))


def _bytes(text: str) -> int:
    size = re.fullmatch(r"(\d{1,18})([KMGT]?)B?", text, re.ASCII | re.IGNORECASE)
    if size is None:
        raise ConfigError(f"--max-size {text}: bytes, or a whole number with K, M, G or T, such as 20GB")
    return int(size[1]) * 1000 ** " KMGT".index(size[2].upper() or " ")


def _freed(freed: "Freed") -> None:
    busy = f"; {freed.busy} in use were left alone" if freed.busy else ""
    tell(f"removed {freed.passes} passes, {freed.size / 1e6:.1f} MB{busy}")
