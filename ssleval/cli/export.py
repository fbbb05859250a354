"""`ssleval export`: write files in the layouts that other tools read."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from ssleval.cli.commands import Command, Group
from ssleval.cli.options import CacheDir, tell
from ssleval.core.cachefolder import default_cache

export_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Write checkpoints and data in layouts that other tools read."
)


@export_app.command(name="checkpoint", cls=Command)
def export_checkpoint(
    source: Annotated[Path, Argument(help="A checkpoint of ssleval train, such as OUT/checkpoints/last.pt.")],
    out: Annotated[Path, Option(help="File to write.")],
) -> None:
    """Write a training checkpoint in the layout of official DINO: student, teacher and epoch.

    Examples:
      ssleval export checkpoint run/checkpoints/last.pt --out dino.pth
      ssleval export checkpoint run/checkpoints/last.pt --out shared/dino.pth
    """
    from ssleval.train.export import export_checkpoint

    export_checkpoint(source, out)
    tell(str(out))


@export_app.command(name="scenes", cls=Command)
def export_scenes(
    folder: Annotated[Path, Argument(help="A new or empty folder.")],
    pictures: Annotated[
        Literal["png", "jpg"], Option(help="png is exact; jpg for tools that read nothing else.")
    ] = "png",
    cache: CacheDir = None,
) -> None:
    """Write the embedded set as ImageFolder, VOC masks, 16-bit millimetre depth and DAVIS clips.

    Examples:
      ssleval export scenes my_folder
      ssleval export scenes my_folder --pictures jpg
    """
    from ssleval.datasets.scenes.export import export

    count = export(folder, cache or default_cache(), pictures)
    tell(f"{folder}: {count} files")
