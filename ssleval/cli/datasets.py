"""`ssleval datasets`: look after copies of datasets."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ssleval.cli.commands import Command, Group
from ssleval.cli.options import DataRoot, Json, print_rows, tell

datasets_app = typer.Typer(cls=Group, no_args_is_help=True, help="Look after copies of datasets.")


@datasets_app.command(name="check", cls=Command)
def datasets_check(
    name: Annotated[str, Argument(help="A name of `ssleval ls datasets`, or source:location.")],
    data_root: DataRoot = Path("data"),
    limit: Annotated[int, Option(min=0, help="Read this many items of every split; 0 reads all.")] = 0,
    as_json: Json = False,
) -> None:
    """Read every image and target of a copy, without a model; exit with 1 when something is wrong.

    Examples:
      ssleval datasets check voc2012 --data-root /data
      ssleval datasets check imagenet1k --data-root /data --limit 1000
    """
    from ssleval.checks.copies import examine_copy
    from ssleval.core import DatasetOptions

    wrong = False
    for finding in examine_copy(name, DatasetOptions(data_root), limit):
        wrong = wrong or bool(finding.faults)
        if as_json:
            print_rows([{"dataset": name, **finding.to_dict()}])
        else:
            for line in finding.lines():
                tell(line)
    if wrong:
        raise SystemExit(1)
