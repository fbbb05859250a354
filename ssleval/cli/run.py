"""`ssleval run`: measure models with tasks on datasets."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import complain, notes, print_rows, say, tell
from ssleval.errors import ConfigError, SslevalError

if TYPE_CHECKING:
    from ssleval.core import Context
    from ssleval.results import Result
    from ssleval.run.estimate import Estimate
    from ssleval.run.sweep import Sweep

    Outcome = Estimate | Result | SslevalError


@options.grouped
def run_(
    *,
    model: Annotated[str, Option(help="Names, comma list or globs: dinov2_vitb14, 'dino_*', timm:NAME.")],
    task: Annotated[str, Option(help="Task names, comma list.")] = "knn",
    dataset: Annotated[str, Option(help="Names or source:location, comma list.")] = "scenes",
    split: Annotated[str | None, Option(help="Score this split instead of the usual one.")] = None,
    suite: Annotated[
        str | None, Option(help="A suite (ls suites) or YAML file instead of task and dataset.")
    ] = None,
    part: Annotated[
        str | None, Option(help="Measure only this share, for arrays of jobs: 3/60 is the third of sixty.")
    ] = None,
    launcher: Annotated[
        str | None, Option(help="submitit: measure in jobs of Slurm; submitit:local: in jobs here.")
    ] = None,
    launch: Annotated[
        list[str] | None, Option(help="Options of the jobs: partition=gpu,gpus_per_node=1,timeout_min=240.")
    ] = None,
    checkpoint: options.Checkpoint = None,
    key: options.Key = "teacher",
    card: options.Card,
    set_: Annotated[list[str] | None, Option("--set", help="TASK.FIELD=VALUE; may be repeated.")] = None,
    running: options.Running,
    batch_size: Annotated[str, Option(help="Images per forward pass, or auto.")] = "auto",
    exif: options.Exif = False,
    models_at_once: Annotated[
        str, Option(help="Models in memory that share decoded images; auto: as many as fit, up to 8.")
    ] = "auto",
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    skip_corrupt: Annotated[bool, Option(help="Leave out and count broken images.")] = False,
    drop_leaks: Annotated[
        str, Option(help="Also score without leaked images: a file of ssleval leaks --out, or own.")
    ] = "",
    full_hash: options.FullHash = False,
    download: Annotated[bool, Option(help="Let libraries download datasets.")] = False,
    results: options.Results = Path("results"),
    force: Annotated[bool, Option(help="Measure again what is already stored.")] = False,
    log: Annotated[
        list[str] | None,
        Option(help="Also log scores to tensorboard, wandb, mlflow or trackio; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, Option(help="Say what it would cost, and stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Measure models with tasks on datasets; print a score with its interval for each.

    Examples:
      ssleval run --model pixels,dino_scenes --task knn,linear
      ssleval run --model dinov2_vits14 --suite dinov2_paper --data-root /data --device cuda
    """
    from ssleval.features import alone, current_shard
    from ssleval.live.finished import tracked
    from ssleval.run.estimate import estimate
    from ssleval.run.parts import read_part
    from ssleval.run.sweep import Sweep, sweep

    images = options.number("--batch-size", batch_size, 1, 0)
    context = running.context(batch_size=images, seed=seed, skip_corrupt=skip_corrupt)
    data = running.options(full_hash=full_hash, download=download, exif=exif)
    request = Sweep(
        model, task, dataset, suite, split, tuple(set_ or ()), checkpoint, key, running.limit, data,
        card.stated(), None if part is None else read_part(part),
        options.number("--models-at-once", models_at_once, 1, 0), drop_leaks,
    )  # fmt: skip
    leads, note = current_shard().leads, notes(quiet=running.quiet)
    if dry_run and not leads:
        return
    produce: Callable[[], Iterable[Outcome]] = partial(
        estimate if dry_run else sweep, request, context, results, force=force, note=note
    )
    if launcher is not None or launch:
        in_jobs = _in_jobs(request, context, results, launcher, launch or (), note, force=force)
        produce = produce if dry_run else in_jobs
    tools = log or () if leads and not dry_run else ()
    with alone() if dry_run else nullcontext(), tracked(tools, results) as track:
        failed = _printed(produce, track, leads=leads, as_json=as_json)
    if failed:
        raise SystemExit(2)


def _printed(
    produce: Callable[[], "Iterable[Outcome]"],
    track: "Callable[[Result], None]",
    *,
    leads: bool,
    as_json: bool,
) -> bool:
    """Print outcomes as they come, in the first process alone; return whether one is an error."""
    from ssleval.run.estimate import Estimate

    failed = False
    try:
        for outcome in produce():
            failed |= isinstance(outcome, SslevalError)
            if not leads:
                continue
            if isinstance(outcome, SslevalError):
                complain(outcome)
            elif isinstance(outcome, Estimate):
                print_rows([outcome.to_dict()]) if as_json else tell(str(outcome))
            else:
                print_rows([_json_fields(outcome)]) if as_json else _tell(outcome)
                track(outcome)
    except KeyboardInterrupt as stop:
        # Caught here because typer makes an unexplained exit of it further up.
        if leads:
            for lost in getattr(stop, "__notes__", ()):
                say(f"ssleval: {lost}")
            say("ssleval: interrupted; finished work is kept, the same command goes on from there")
        raise SystemExit(130) from None
    return failed


def _in_jobs(
    request: "Sweep",
    context: "Context",
    results: Path,
    name: str | None,
    texts: Sequence[str],
    note: Callable[[str], None],
    *,
    force: bool,
) -> Callable[[], "Iterable[Result | SslevalError]"]:
    """Return what measures in jobs; what is wrong with the options is raised at once."""
    from ssleval.run.executors import read_launcher
    from ssleval.run.launch import launch

    if request.part is not None:
        raise ConfigError("--part: --launcher makes parts itself; --launch jobs=N says how many")
    if force:
        raise ConfigError(
            "--force: with --launcher, a job that is started again would begin anew; "
            "use another --results and --cache"
        )
    if name is None:
        raise ConfigError("--launch needs --launcher: submitit, or submitit:local")
    # Later options take the place of earlier ones. What jobs have measured is logged here, once.
    ours = ["--json", f"--results={results.absolute()}", f"--cache={context.cache.absolute()}"]
    words = [*options.without(sys.argv[1:], {"--launcher", "--launch", "--log"}), *ours]
    return partial(launch, request, context, results, read_launcher(name, texts), words, note)


def _tell(result: "Result") -> None:
    from ssleval.results.remarks import mark, own_remarks, seeded

    kept = "  (stored before; --force measures again)" if result.cached else ""
    tell(f"{result.model}  {result.task}/{result.dataset}  n={result.leading.n}{kept}")
    for name, score in result.metrics.items():
        unit = "" if score.unit == "fraction" else f" {score.unit}"
        said = own_remarks(result, name)
        note = f"  ({said})" if said else ""
        tell(f"  {name} {score.shown}{mark(result)}{unit}{note}")
    if mark(result):
        tell(f"  {seeded(result)}")


def _json_fields(result: "Result") -> dict[str, Any]:
    fields: dict[str, Any] = result.to_dict()
    first = ("schema", "model", "task", "dataset", "key", "path", "cached", "metrics")
    return {name: fields[name] for name in first} | fields
