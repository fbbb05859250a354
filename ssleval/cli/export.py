"""`ssleval export`: what is ours, in the layouts that other tools read."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ssleval.cli.options import CacheDir, cache_folder

export_app = typer.Typer(no_args_is_help=True, help="Write what is ours in layouts that other tools read.")


@export_app.command(name="checkpoint")
def export_checkpoint(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint of ssleval train, such as OUT/checkpoints/last.pt.")
    ],
    out: Annotated[Path, typer.Option(help="File to write.")],
) -> None:
    """Write a training checkpoint in the layout of official DINO: student, teacher and epoch."""
    from ssleval.train.export import export_checkpoint

    export_checkpoint(source, out)
    typer.echo(str(out))


@export_app.command(name="scenes")
def export_scenes(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    pictures: Annotated[
        Literal["png", "jpg"], typer.Option(help="png is exact; jpg for tools that look for that name only.")
    ] = "png",
    cache: CacheDir = None,
) -> None:
    """Write the embedded set as ImageFolder, VOC masks, 16-bit millimetre depth and DAVIS clips."""
    from ssleval.datasets.scenes.export import export

    count = export(folder, cache_folder(cache), pictures)
    typer.echo(f"{folder}: {count} files")
