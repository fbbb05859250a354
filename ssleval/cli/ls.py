"""`ssleval ls`: what there is to choose from."""

import json
from typing import Annotated, Literal

import typer

from ssleval.cli.options import Json


def ls_(
    what: Annotated[Literal["models", "tasks", "datasets", "suites"], typer.Argument(help="What to list.")],
    as_json: Json = False,
) -> None:
    """List models, tasks, datasets or suites, with what there is to know before choosing."""
    from ssleval.cli.tables import rows, table

    found = rows(what)
    if as_json:
        for row in found:
            typer.echo(json.dumps(row))
    else:
        table(found)
