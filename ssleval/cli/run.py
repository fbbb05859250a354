"""`ssleval run`: measure models with tasks on datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from ssleval.cli import options
from ssleval.cli.options import complain, notes, print_rows, say, tell
from ssleval.core.cachefolder import default_cache
from ssleval.errors import SslevalError

if TYPE_CHECKING:
    from ssleval.results import Result


def run_(
    model: Annotated[str, Option(help="Names, comma list or globs: dinov2_vitb14, 'dino_*', timm:NAME.")],
    task: Annotated[str, Option(help="Task names, comma list.")] = "knn",
    dataset: Annotated[str, Option(help="Names or source:location, comma list.")] = "scenes",
    split: Annotated[str | None, Option(help="Score this split instead of the usual one.")] = None,
    suite: Annotated[
        str | None, Option(help="A suite (ls suites) or YAML file instead of task and dataset.")
    ] = None,
    data_root: options.DataRoot = Path("data"),
    checkpoint: options.Checkpoint = None,
    key: options.Key = "teacher",
    image_mean: options.ImageMean = None,
    image_std: options.ImageStd = None,
    image_size: options.ImageSize = None,
    patch_size: options.PatchSize = None,
    resize: options.Resize = None,
    resize_mode: options.ResizeMode = None,
    interpolation: options.Interpolation = None,
    set_: Annotated[list[str] | None, Option("--set", help="TASK.FIELD=VALUE; may be repeated.")] = None,
    device: options.Device = "auto",
    precision: options.AnyPrecision = "fp32",
    batch_size: Annotated[str, Option(help="Images per forward pass, or auto.")] = "auto",
    num_workers: options.Workers = "auto",
    pixels: options.Pixels = "exact",
    limit: options.Limit = None,
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    skip_corrupt: Annotated[
        bool, Option("--skip-corrupt", help="Leave out and count broken images.")
    ] = False,
    full_hash: Annotated[
        bool, Option("--full-hash", help="Fingerprint file contents, not only sizes.")
    ] = False,
    download: Annotated[bool, Option("--download", help="Let libraries download datasets.")] = False,
    results: options.Results = Path("results"),
    cache: options.CacheDir = None,
    force: Annotated[bool, Option("--force", help="Measure again what is already stored.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what it would cost, and stop.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure models with tasks on datasets; print a score with its interval for each.

    Examples:
      ssleval run --model pixels,dino_scenes --task knn,linear
      ssleval run --model dinov2_vits14 --suite dinov2_paper --data-root /data --device cuda
    """
    from ssleval.core import Context, DatasetOptions
    from ssleval.run.sweep import Sweep, sweep

    card = options.stated(
        mean=image_mean, std=image_std, image_size=image_size, patch_size=patch_size, resize=resize,
        resize_mode=resize_mode, interpolation=interpolation,
    )  # fmt: skip
    folder = cache or default_cache()
    context = Context(
        device, precision, options.number("--batch-size", batch_size, 1) or 0, options.workers(num_workers),
        seed, skip_corrupt, folder, progress=not quiet, pixels=pixels,
    )  # fmt: skip
    data, settings = DatasetOptions(data_root, full_hash, download, folder), tuple(set_ or ())
    request = Sweep(model, task, dataset, suite, split, settings, checkpoint, key, limit, data, card)
    from ssleval.run.estimate import Estimate, estimate

    failed, produce = False, estimate if dry_run else sweep
    try:
        for outcome in produce(request, context, results, force=force, note=notes(quiet=quiet)):
            if isinstance(outcome, SslevalError):
                failed = True
                complain(outcome)
            elif isinstance(outcome, Estimate):
                print_rows([outcome.to_dict()]) if as_json else tell(str(outcome))
            else:
                print_rows([_json_fields(outcome)]) if as_json else _tell(outcome)
    except KeyboardInterrupt:
        # Caught here because typer makes an unexplained exit of it further up.
        say("ssleval: interrupted; finished work is kept, the same command goes on from there")
        raise SystemExit(130) from None
    if failed:
        raise SystemExit(2)


def _tell(result: "Result") -> None:
    from ssleval.results.numbers import with_interval

    kept = "  (stored before; --force measures again)" if result.cached else ""
    n = result.metrics[result.headline].n
    tell(f"{result.model}  {result.task}/{result.dataset}  n={n}{kept}")
    for name, score in result.metrics.items():
        unit = "" if score.unit == "fraction" else f" {score.unit}"
        note = f"  ({score.note})" if score.note else ""
        tell(f"  {name} {with_interval(score.value, score.ci95, score.unit)}{unit}{note}")


def _json_fields(result: "Result") -> dict[str, Any]:
    fields: dict[str, Any] = result.to_dict()
    first = ("schema", "model", "task", "dataset", "key", "path", "cached", "metrics")
    return {name: fields[name] for name in first} | fields
