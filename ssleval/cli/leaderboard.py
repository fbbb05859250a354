"""`ssleval leaderboard`: results ranked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from ssleval.cli.options import Json, print_rows, say
from ssleval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssleval.results.ranking import Board


def leaderboard_(
    results: Annotated[Path, Argument(help="Folder of result files.")] = Path("results"),
    out: Annotated[
        Path | None, Option(help="Write leaderboard.csv, _long.csv and .md into this folder.")
    ] = None,
    published: Annotated[bool, Option(help="Add what papers print for the same protocol, unranked.")] = False,
    overall: Annotated[bool, Option(help="Models x boards, ranked by family of tasks and over all.")] = False,
    suite: Annotated[
        str | None,
        Option(help="Only the boards of this suite, after its average where it has one: dinov2_table8."),
    ] = None,
    incomplete: Annotated[
        bool,
        Option(help="With --overall: rank models that lack boards over those they have."),
    ] = False,
    format_: Annotated[
        Literal["markdown", "csv", "latex", "json"],
        Option("--format", help="How to print it; latex is the table of --overall."),
    ] = "markdown",
    as_json: Json = False,
) -> None:
    """Rank comparable results together, with intervals and ties; Markdown on stdout.

    Examples:
      ssleval leaderboard
      ssleval leaderboard results --published --out boards
      ssleval leaderboard --overall --format latex
      ssleval leaderboard --suite dinov2_table8
    """
    form = "json" if as_json else format_
    if incomplete and not overall:
        raise ConfigError("--incomplete is about models that --overall ranks; add --overall")
    if overall and (published or out):
        raise ConfigError("--overall ranks measured results on stdout; leave out --published and --out")
    from ssleval.core.heap import cycles_left
    from ssleval.results import leaderboard, read_all
    from ssleval.results.ranking import boards

    with cycles_left():
        ranked = boards(read_all(results))
    if suite is not None:
        ranked = _of_suite(suite, ranked, averaged=not overall and form != "latex")
    if published:
        from ssleval.results.papers import read_figures

        ranked = leaderboard.with_published(ranked, read_figures().mapped)
    if overall or form == "latex":
        _print_overall(ranked, form, incomplete=incomplete)
    elif form == "json":
        print_rows(leaderboard.records(ranked))
    elif form == "csv":
        typer.echo(leaderboard.csv_text(leaderboard.wide_rows(ranked)), nl=False)
    else:
        typer.echo(leaderboard.markdown(ranked), nl=False)
    for path in leaderboard.write_tables(ranked, out) if out else ():
        say(f"wrote {path}")


def _of_suite(suite: str, ranked: "list[Board]", *, averaged: bool) -> "list[Board]":
    """Return the boards of a suite, after those of its average where it is asked for."""
    from ssleval.results.average import averages
    from ssleval.run.suiteboards import boards_of
    from ssleval.run.suites import read_lines

    lines, has_average = boards_of(suite, ranked)
    if not any(lines.values()):
        raise DataError(f"no result was measured as a line of {suite} says; `ssleval run --suite {suite}`")
    groups = {place: line.group for place, line in read_lines(suite)[0].items()}
    means, lacking = averages(Path(suite).stem, lines, groups) if averaged and has_average else ([], {})
    for model, missing in lacking.items():
        say(f"no average of {model}: it lacks {missing}")
    return [*means, *(board for found in lines.values() for board in found)]


def _print_overall(ranked: "list[Board]", form: str, *, incomplete: bool) -> None:
    from ssleval.results import matrix
    from ssleval.results.overall import overall

    found = overall(ranked, incomplete=incomplete)
    if form == "json":
        print_rows(matrix.records(found))
    else:
        write = {"markdown": matrix.markdown, "csv": matrix.csv, "latex": matrix.latex}[form]
        typer.echo(write(found), nl=False)
