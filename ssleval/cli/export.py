"""`ssleval export`: write files in the layouts that other tools read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from ssleval.cli.commands import Command, Group
from ssleval.cli.options import CacheDir, Results, say, tell
from ssleval.core.cachefolder import default_cache
from ssleval.core.text import counted, some
from ssleval.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ssleval.results.ranking import Board

export_app = typer.Typer(
    cls=Group, no_args_is_help=True, help="Write results, checkpoints and data for other tools."
)


@export_app.command(name="checkpoint", cls=Command)
def export_checkpoint(
    source: Annotated[Path, Argument(help="A checkpoint of ssleval train, such as OUT/checkpoints/last.pt.")],
    out: Annotated[Path, Option(help="File to write.")],
) -> None:
    """Write a training checkpoint in the layout of official DINO: student, teacher and epoch.

    Examples:
      ssleval export checkpoint run/checkpoints/last.pt --out dino.pth
      ssleval export checkpoint run/checkpoints/last.pt --out shared/dino.pth
    """
    from ssleval.train.export import export_checkpoint

    export_checkpoint(source, out)
    tell(str(out))


@export_app.command(name="scenes", cls=Command)
def export_scenes(
    folder: Annotated[Path, Argument(help="A new or empty folder.")],
    pictures: Annotated[
        Literal["png", "jpg"], Option(help="png is exact; jpg for tools that read nothing else.")
    ] = "png",
    cache: CacheDir = None,
) -> None:
    """Write the embedded set as ImageFolder, VOC masks, 16-bit millimetre depth and DAVIS clips.

    Examples:
      ssleval export scenes my_folder
      ssleval export scenes my_folder --pictures jpg
    """
    from ssleval.datasets.scenes.export import export

    count = export(folder, cache or default_cache(), pictures)
    tell(f"{folder}: {count} files")


@export_app.command(name="results", cls=Command)
def export_results(
    folder: Annotated[Path, Argument(help="Folder to write into.")],
    to: Annotated[
        Literal["hf", "csv", "site"],
        Option(help="Files for the Hugging Face Hub, tables, or a static site."),
    ],
    results: Results = Path("results"),
    title: Annotated[str, Option(help="site: headline.")] = "Leaderboard",
    incomplete: Annotated[
        bool, Option(help="csv, site: rank models that lack boards over those they have.")
    ] = False,
    model: Annotated[str, Option(help="hf: only this model's results, or a folder of them.")] = "",
    benchmark: Annotated[
        list[str] | None,
        Option(
            help="hf: TASK/DATASET=OWNER/NAME:TASK_ID, the Hub's benchmark that a board is; may be repeated."
        ),
    ] = None,
    percent: Annotated[bool, Option(help="hf: these benchmarks count fractions in percent.")] = False,
    source: Annotated[str, Option(help="hf: address where readers find more, such as your site.")] = "",
    upload: Annotated[
        str, Option(help="hf: OWNER/NAME to open a pull request in; nothing is sent otherwise.")
    ] = "",
) -> None:
    """Write results for others: a model card and `.eval_results`, CSV and LaTeX, or a site.

    Examples:
      ssleval export results public --to site --title 'Our models'
      ssleval export results hub --to hf --model dino_scenes
    """
    from ssleval.display.publishing.public import public_boards
    from ssleval.results import read_all
    from ssleval.results.lookup import stored_results

    if to != "hf" and (model or benchmark or percent or source or upload):
        raise ConfigError("--model, --benchmark, --percent, --source and --upload are of --to hf")
    if to == "hf" and incomplete:
        raise ConfigError("--incomplete is of --to csv and site: a model card ranks nothing")
    ranked = public_boards(stored_results(model, results) if model else read_all(results))
    if to == "hf":
        _to_hub(ranked, folder, benchmark or [], percent=percent, source=source, upload=upload)
    elif to == "site":
        from ssleval.display.publishing.site import write_site

        pages = write_site(ranked, folder, title, incomplete=incomplete)
        tell(f"{folder}: {counted(pages, 'page')}; {folder / 'index.html'} is the first")
    else:
        _to_tables(ranked, folder, incomplete=incomplete)


def _to_hub(
    ranked: "list[Board]", folder: Path, named: list[str], *, percent: bool, source: str, upload: str
) -> None:
    from ssleval.display.publishing.hub import hub_files, parse_benchmark
    from ssleval.display.publishing.public import file_names, write_files
    from ssleval.display.publishing.upload import propose

    if percent and not named:
        raise ConfigError("--percent is about the unit of a --benchmark")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: not empty; name a new folder, so that nothing older is published")
    benchmarks = dict(parse_benchmark(text, percent=percent) for text in named)
    if len(benchmarks) < len(named):
        raise ConfigError("--benchmark: a board is named twice")
    if source and not source.startswith(("https://", "http://")):
        raise ConfigError(f"--source {source}: expected an address, such as https://OWNER.github.io/board")
    files = hub_files(ranked, benchmarks, source, note=say)
    if upload and len(files) != 1:
        raise ConfigError(
            f"--upload {upload}: takes one model, and there are {some(list(files))}; name it by --model"
        )
    stems = file_names(files)
    for title, texts in files.items():
        write_files(folder / stems[title], texts)
        tell(f"{folder / stems[title]}: {', '.join(texts)}")
    if upload:
        (texts,) = files.values()
        tell(f"pull request: {propose(upload, texts)}")


def _to_tables(ranked: "list[Board]", folder: Path, *, incomplete: bool) -> None:
    from ssleval.display.publishing.public import tables, write_files
    from ssleval.results.overall import overall

    found = None
    try:
        found = overall(ranked, incomplete=incomplete)
    except DataError as error:
        say(f"no overall ranking: {error}")
    files = tables(ranked, found)
    write_files(folder, files)
    tell(f"{folder}: {', '.join(files)}")
