"""`ssleval leaderboard`: results ranked."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ssleval.cli.options import Json, print_rows, say


def leaderboard_(
    results: Annotated[Path, Argument(help="Folder of result files.")] = Path("results"),
    out: Annotated[
        Path | None, Option(help="Write leaderboard.csv, _long.csv and .md into this folder.")
    ] = None,
    published: Annotated[
        bool, Option("--published", help="Add what papers print for the same protocol, unranked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rank comparable results together, with intervals and ties; Markdown on stdout.

    Examples:
      ssleval leaderboard
      ssleval leaderboard results --published --out boards
    """
    from ssleval.core.heap import cycles_left
    from ssleval.results import leaderboard, read_all
    from ssleval.results.ranking import boards

    with cycles_left():
        ranked = boards(read_all(results))
    if published:
        from ssleval.results.papers import read_figures

        ranked = leaderboard.with_published(ranked, read_figures().mapped)
    if as_json:
        print_rows(leaderboard.records(ranked))
    else:
        typer.echo(leaderboard.markdown(ranked), nl=False)
    for path in leaderboard.write_tables(ranked, out) if out else ():
        say(f"wrote {path}")
