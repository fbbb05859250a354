"""`ssleval run`: measure models with tasks on datasets."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssleval.cli.options import CacheDir, Json, Results, cache_folder, complain, say, silent
from ssleval.errors import ConfigError, SslevalError

if TYPE_CHECKING:
    from ssleval.results import Result


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
    from ssleval.run.sweep import Sweep, sweep

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
    note = silent if quiet else say
    if dry_run:
        from ssleval.run.estimate import estimate

        for line in estimate(asked, context, results, force=force):
            typer.echo(json.dumps(line.to_dict()) if as_json else str(line))
        return
    failed = 0
    with _interruptible():
        for outcome in sweep(asked, context, results, force=force, note=note):
            if isinstance(outcome, SslevalError):
                failed += 1
                complain(outcome)
            else:
                typer.echo(_json_line(outcome) if as_json else _line(outcome))
    if failed:
        raise SystemExit(2)


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


def _batch_size(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size {text}: a number of images, or auto")
    return int(text)


def _line(result: "Result") -> str:
    from ssleval.results.numbers import with_interval

    scores = (
        f"{name} {with_interval(score.value, score.ci95, score.unit)}"
        f"{'' if score.unit == 'fraction' else f' {score.unit}'}"
        for name, score in result.metrics.items()
    )
    n = next(iter(result.metrics.values())).n
    kept = "  (stored before; --force measures again)" if result.cached else ""
    return f"{result.model}  {result.task}/{result.dataset}  n={n}{kept}\n  " + "\n  ".join(scores)


def _json_line(result: "Result") -> str:
    everything = result.to_dict()
    first = ("schema", "model", "task", "dataset", "key", "path", "cached", "metrics")
    ordered: dict[str, Any] = {name: everything[name] for name in first} | everything
    return json.dumps(ordered)
