"""The command line: parse, call, print.

No decision is made here, and nothing heavy is imported before a command needs it.
"""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from traceback import print_exc
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssleval.commands.cache import CacheDir, Json, cache_app, cache_folder
from ssleval.commands.compare import compare_
from ssleval.commands.doctor import doctor
from ssleval.commands.export import export_app
from ssleval.commands.gate import gate_
from ssleval.commands.report import report_
from ssleval.commands.show import show_app
from ssleval.commands.train import train_command
from ssleval.commands.verify import verify_
from ssleval.errors import ConfigError, SslevalError

if TYPE_CHECKING:
    from ssleval.results import Result

__all__ = ["app", "main"]

_FAULT = 70
"""`EX_SOFTWARE` of sysexits.h."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Compare frozen vision backbones on a common footing.",
    epilog="Exit codes: 0 done, 1 a gate failed, 2 you can fix it (one line says how), 3 inconclusive, "
    "70 a fault in ssleval.",
)
app.add_typer(cache_app, name="cache")
app.add_typer(export_app, name="export")
app.command(name="train")(train_command)
app.command(name="doctor")(doctor)
app.add_typer(show_app, name="show")

Results = Annotated[Path, typer.Option("--results", help="Folder for result files.")]


def _version(asked: bool) -> bool:
    if asked:
        from ssleval import __version__

        typer.echo(f"ssleval {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    # `_version` acts on the one, `main` on the other, which it sees wherever it stands.
    del version, traceback


@app.command(name="run")
def run_(
    model: Annotated[
        str, typer.Option(help="Names, comma list or globs: dinov2_vitb14, 'dino_*', timm:NAME.")
    ],
    task: Annotated[str, typer.Option(help="Task names, comma list.")] = "knn",
    dataset: Annotated[str, typer.Option(help="Names or source:location, comma list.")] = "scenes",
    split: Annotated[str | None, typer.Option(help="Score this split instead of the usual one.")] = None,
    suite: Annotated[
        str | None, typer.Option(help="A suite (ls suites) or YAML file instead of task and dataset.")
    ] = None,
    data_root: Annotated[Path, typer.Option(help="Folder that holds named datasets.")] = Path("data"),
    checkpoint: Annotated[Path | None, typer.Option(help="Local weights for the named architecture.")] = None,
    key: Annotated[str, typer.Option(help="Network of a training checkpoint: teacher, student.")] = "teacher",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="TASK.FIELD=VALUE; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="fp32, bf16 or fp16 forward passes.")
    ] = "fp32",
    batch_size: Annotated[str, typer.Option(help="Images per forward pass, or auto.")] = "auto",
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Keep this many images of every split.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Leave out and count broken images.")
    ] = False,
    full_hash: Annotated[
        bool, typer.Option("--full-hash", help="Fingerprint file contents, not only sizes.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="Let libraries download datasets.")] = False,
    results: Results = Path("results"),
    cache: CacheDir = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is already stored.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> None:
    """Measure models with tasks on datasets; print a score with its interval for each."""
    from ssleval.core import Context, DatasetOptions
    from ssleval.sweep import Sweep, sweep

    folder = cache_folder(cache)
    context = Context(
        device=device,
        precision=precision,
        batch_size=_batch_size(batch_size),
        num_workers=num_workers,
        seed=seed,
        skip_corrupt=skip_corrupt,
        cache=folder,
        progress=not quiet,
    )
    asked = Sweep(
        models=model,
        tasks=task,
        datasets=dataset,
        suite=suite,
        split=split,
        settings=tuple(set_ or ()),
        checkpoint=checkpoint,
        key=key,
        limit=limit,
        options=DatasetOptions(data_root, full_hash, download, folder),
    )
    note = _silent if quiet else _note
    if dry_run:
        from ssleval.estimate import estimate

        for line in estimate(asked, context, results, force=force):
            typer.echo(json.dumps(line.to_dict()) if as_json else str(line))
        return
    failed = 0
    with _interruptible():
        for outcome in sweep(asked, context, results, force=force, note=note):
            if isinstance(outcome, SslevalError):
                failed += 1
                _complain(outcome)
            else:
                typer.echo(_json_line(outcome) if as_json else _line(outcome))
    if failed:
        raise SystemExit(2)


@app.command(name="ls")
def ls_(
    what: Annotated[Literal["models", "tasks", "datasets", "suites"], typer.Argument(help="What to list.")],
    as_json: Json = False,
) -> None:
    """List models, tasks, datasets or suites, with what there is to know before choosing."""
    from ssleval.listing import rows, table

    found = rows(what)
    if as_json:
        for row in found:
            typer.echo(json.dumps(row))
    else:
        table(found)


@app.command(name="leaderboard")
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
    from ssleval import leaderboard
    from ssleval.heap import cycles_left
    from ssleval.ranking import boards
    from ssleval.results import read_all

    with cycles_left():
        found = boards(read_all(results))
    if published:
        from ssleval.figures import read_figures

        found = leaderboard.with_published(found, read_figures().mapped)
    if as_json:
        for row in leaderboard.records(found):
            typer.echo(json.dumps(row))
    else:
        typer.echo(leaderboard.markdown(found), nl=False)
    for path in leaderboard.write_tables(found, out) if out else ():
        _note(f"wrote {path}")


app.command(name="compare")(compare_)
app.command(name="gate")(gate_)
app.command(name="report")(report_)
app.command(name="verify")(verify_)


def main() -> None:
    """Run the command line; print errors a user can mend as one line and exit with 2."""
    arguments = [_spelling(argument) for argument in sys.argv[1:]]
    traceback = "--traceback" in arguments
    try:
        app([argument for argument in arguments if argument != "--traceback"])
    except (SslevalError, OSError) as error:
        if traceback:
            raise
        _complain(error)
        raise SystemExit(2) from None
    except Exception:
        # Not the 1 that Python has for it, which means that a gate failed.
        print_exc()
        raise SystemExit(_FAULT) from None


@contextmanager
def _interruptible() -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        # Caught here because typer makes an unexplained exit of it further up.
        typer.echo(
            "ssleval: interrupted; finished work is kept, the same command goes on from there", err=True
        )
        raise SystemExit(130) from None


def _spelling(argument: str) -> str:
    # `--batch_size` and `--batch-size` are both what people type.
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def _batch_size(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size {text}: a number of images, or auto")
    return int(text)


def _line(result: "Result") -> str:
    scores = (
        f"{name} {s.value * 100:.2f} [{s.ci95[0] * 100:.2f}, {s.ci95[1] * 100:.2f}]"
        if s.unit == "fraction"
        else f"{name} {s.value:.4g} [{s.ci95[0]:.4g}, {s.ci95[1]:.4g}] {s.unit}"
        for name, s in result.metrics.items()
    )
    n = next(iter(result.metrics.values())).n
    kept = "  (stored before; --force measures again)" if result.cached else ""
    return f"{result.model}  {result.task}/{result.dataset}  n={n}{kept}\n  " + "\n  ".join(scores)


def _json_line(result: "Result") -> str:
    everything = result.to_dict()
    first = ("schema", "model", "task", "dataset", "key", "path", "cached", "metrics")
    ordered: dict[str, Any] = {name: everything[name] for name in first} | everything
    return json.dumps(ordered)


def _complain(error: Exception) -> None:
    typer.echo(f"ssleval: {' '.join(str(error).split())}", err=True)


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _silent(text: str) -> None:
    del text
