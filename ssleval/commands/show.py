"""`ssleval show`: pictures where people would rather look than read."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["show_app"]

show_app = typer.Typer(no_args_is_help=True, help="Draw pictures where people would rather look than read.")

Out = Annotated[Path, typer.Option("--out", help="PNG file to write.")]


@show_app.command(name="scenes")
def show_scenes(out: Out = Path("scenes.png")) -> None:
    """Draw the contact sheet of the embedded set: every kind of picture and of ground truth."""
    from ssleval.scenes.sheet import draw_sheet

    draw_sheet(out)
    typer.echo(str(out))


@show_app.command(name="train")
def show_train(
    folder: Annotated[Path, typer.Argument(help="What ssleval train --out was given.")],
    out: Out = Path("curves.png"),
) -> None:
    """Draw the curves of a training: losses, signs of collapse, evaluations, schedules."""
    from ssleval.train.curves import draw_curves

    draw_curves(folder, out)
    typer.echo(str(out))
