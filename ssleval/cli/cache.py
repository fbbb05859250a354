"""`ssleval cache`: look after the feature store."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ssleval.cli.options import CacheDir, Json, cache_folder
from ssleval.errors import ConfigError

if TYPE_CHECKING:
    from ssleval.features.cache import Freed

cache_app = typer.Typer(no_args_is_help=True, help="Look after the feature store.")


@cache_app.command(name="info")
def cache_info(cache: CacheDir = None, as_json: Json = False) -> None:
    """List what is stored, last used first."""
    from ssleval.cli.tables import stored, table
    from ssleval.features.cache import info

    found = [stored(entry) for entry in info(cache_folder(cache))]
    if as_json:
        for row in found:
            typer.echo(json.dumps(row))
    else:
        table(found)


@cache_app.command(name="verify")
def cache_verify(cache: CacheDir = None) -> None:
    """Compare all features with their checksums; damaged batches are extracted again by the next run."""
    from ssleval.features.cache import verify

    damage = verify(cache_folder(cache))
    for one in damage:
        typer.echo(
            f"{one.key[:12]} {one.column}: rows {one.rows.start}..{one.rows.stop - 1} damaged and dropped"
        )
    typer.echo(f"{len(damage)} damaged batches")


@cache_app.command(name="clear")
def cache_clear(
    cache: CacheDir = None, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> None:
    """Remove everything that no process is writing."""
    from ssleval.features.cache import clear

    folder = cache_folder(cache)
    if not yes:
        typer.confirm(f"Remove all features in {folder}?", abort=True, err=True)
    _freed(clear(folder))


@cache_app.command(name="prune")
def cache_prune(
    max_size: Annotated[str, typer.Option(help="Bytes, or with K, M, G, T: 20G.")], cache: CacheDir = None
) -> None:
    """Remove what was unused for longest until the rest fits."""
    from ssleval.features.cache import prune

    _freed(prune(cache_folder(cache), _bytes(max_size)))


def _bytes(text: str) -> int:
    units = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    number, unit = (text[:-1], units[text[-1].upper()]) if text[-1:].upper() in units else (text, 1)
    if not number.isdecimal():
        raise ConfigError(f"--max-size {text}: bytes, or a whole number with K, M, G or T")
    return int(number) * unit


def _freed(freed: "Freed") -> None:
    busy = f"; {freed.busy} in use were left alone" if freed.busy else ""
    typer.echo(f"removed {freed.passes} passes, {freed.size / 1e6:.1f} MB{busy}")
