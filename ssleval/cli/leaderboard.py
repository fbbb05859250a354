"""`ssleval leaderboard`: results ranked."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ssleval.cli.options import Json, say


def leaderboard_(
    results: Annotated[Path, typer.Argument(help="Folder of result files.")] = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="Write leaderboard.csv, _long.csv and .md into this folder.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Add what papers print for the same protocol, unranked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank comparable results together, with intervals and ties; Markdown on stdout."""
    from ssleval.core.heap import cycles_left
    from ssleval.results import leaderboard, read_all
    from ssleval.results.ranking import boards

    with cycles_left():
        found = boards(read_all(results))
    if published:
        from ssleval.results.papers import read_figures

        found = leaderboard.with_published(found, read_figures().mapped)
    if as_json:
        for row in leaderboard.records(found):
            typer.echo(json.dumps(row))
    else:
        typer.echo(leaderboard.markdown(found), nl=False)
    for path in leaderboard.write_tables(found, out) if out else ():
        say(f"wrote {path}")
