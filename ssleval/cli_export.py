"""`ssleval export`: write what others can read."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export_app"]

export_app = typer.Typer(no_args_is_help=True, help="Write what others can read.")


@export_app.callback()
def _group() -> None:
    # Without a callback typer makes an application of one command that command.
    pass


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
