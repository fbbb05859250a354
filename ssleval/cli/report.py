"""`ssleval report`: one page for people."""

from pathlib import Path
from typing import Annotated

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import Results, tell
from ssleval.core.text import counted


@options.grouped
def report_(
    *,
    results: Results = Path("results"),
    out: Annotated[Path, Option(help="The page, one HTML file.")] = Path("report.html"),
    training: Annotated[
        list[Path] | None, Option(help="Folder of a training run to draw; may be repeated.")
    ] = None,
    pictures: Annotated[
        Path | None, Option(help="Folder of pictures of models, MODEL/WHAT.png, as `show` draws them.")
    ] = None,
    images: Annotated[
        list[str] | None, Option(help="Open this dataset for thumbnails and class names; may be repeated.")
    ] = None,
    thumbnails: Annotated[int, Option(min=0, help="Thumbnails a board, of disputed items.")] = 48,
    data: options.Data,
    detail_mb: Annotated[
        float, Option(min=0, help="Megabytes of single items; scores are always kept.")
    ] = 2.0,
    title: Annotated[str, Option(help="Headline of the page.")] = "ssleval report",
) -> None:
    """Write one page that works offline: tables, cost, self- against weakly supervised, single items.

    Examples:
      ssleval report --out report.html
      ssleval report --results results --training run --images scenes --title 'Ours against DINOv2'
    """
    from ssleval.display.report import Options, write_report

    opened, runs = tuple(images or ()), tuple(training or ())
    shown = Options(title, runs, pictures, opened, thumbnails, detail_mb, data.options())
    tell(f"{out}: {counted(write_report(results, out, shown), 'result')}")
