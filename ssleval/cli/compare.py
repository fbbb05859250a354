"""`ssleval compare`: is the difference real?"""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ssleval.cli.options import Json, Results, print_rows, say


def compare_(
    first: Annotated[str, Argument(help="A result file, a folder of one model, or a model's name.")],
    second: Annotated[str, Argument(help="The same, of the model it is compared with.")],
    results: Results = Path("results"),
    every_metric: Annotated[bool, Option(help="All metrics, not only the one that ranks.")] = False,
    as_json: Json = False,
) -> None:
    """Test the second model against the first on shared items; say how small a difference would show.

    Examples:
      ssleval compare dino_vits16 dinov2_vits14
      ssleval compare results/pixels results/dino_scenes --every-metric
    """
    from ssleval.results.compare import compare, markdown, pairings, unlike_precision
    from ssleval.results.lookup import stored_results

    sides = [stored_results(name, results) for name in (first, second)]
    rows = compare(*sides, every_metric=every_metric)
    for pair in pairings(*sides):
        if unlike := unlike_precision(pair):
            say(f"{pair.name}: {unlike}; that is part of the difference")
    names = [Path(name).name if Path(name).exists() else name for name in (first, second)]
    if as_json:
        print_rows(row.to_dict() for row in rows)
    else:
        typer.echo(markdown(rows, *(names if names[0] != names[1] else [first, second])), nl=False)
