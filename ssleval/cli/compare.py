"""`ssleval compare`: is the difference real?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from ssleval.cli.options import Json


def compare_(
    first: Annotated[str, typer.Argument(help="A result file, a folder of one model, or a model's name.")],
    second: Annotated[str, typer.Argument(help="The same, of what it is compared with.")],
    results: Annotated[Path, typer.Option(help="Where models are looked up by name.")] = Path("results"),
    every_metric: Annotated[
        bool, typer.Option("--every-metric", help="All metrics, not only the one that ranks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Test the second model against the first, on shared items; says what it could not have seen."""
    from ssleval.results.compare import compare, markdown, pairings, unlike_precision
    from ssleval.results.lookup import stored_results

    sides = [stored_results(name, results) for name in (first, second)]
    rows = compare(*sides, every_metric=every_metric)
    for pair in pairings(*sides):
        if unlike := unlike_precision(pair):
            typer.echo(f"{pair.name}: {unlike}; that is part of the difference", err=True)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row.to_dict()))
    else:
        names = [Path(name).name if Path(name).exists() else name for name in (first, second)]
        names = names if names[0] != names[1] else [first, second]
        typer.echo(markdown(rows, *names), nl=False)
