"""Models x tasks x datasets, one model in memory at a time, one pass over the images for all tasks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ssleval.backbones.zoo import load, match_models
from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.core.backbone import Backbone
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ConfigError, NotApplicableError, SslevalError
from ssleval.features import current_shard, local_device
from ssleval.results import Result
from ssleval.run.measure import Job, make_job, measure
from ssleval.run.settings import build_task, parse_settings
from ssleval.run.suites import Measurement, read_suite


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to measure, as spelt on the command line."""

    models: str
    """Comma list of names and globs."""
    tasks: str = "knn"
    datasets: str = "scenes"
    suite: str | None = None
    """Takes the place of tasks and datasets."""
    split: str | None = None
    settings: tuple[str, ...] = ()
    """``TASK.FIELD=VALUE`` texts."""
    checkpoint: Path | None = None
    key: str = "teacher"
    limit: int | None = None
    options: DatasetOptions = field(default_factory=DatasetOptions)


def sweep(
    asked: Sweep,
    context: Context,
    folder: Path | None,
    *,
    force: bool = False,
    note: Callable[[str], None],
) -> Iterator[Result | SslevalError]:
    """Yield a result for every model, dataset and task, or the error that stood in its way.

    What is wrong with the request as a whole (an unknown name, a bad setting) is raised before anything
    is loaded; what is wrong with one model or one dataset does not stop the others. A line of a suite that
    has no meaning for a model is said to ``note`` and left out; only where that is all lines is it an error.
    """
    names = models(asked)
    groups = batches(asked)
    context = replace(context, device=local_device(context.device))
    for name in names:
        try:
            backbone = load_asked(name, asked, context)
        except SslevalError as error:
            yield error
            continue
        left_out: list[NotApplicableError] = []
        yielded = False
        for jobs in groups:
            for outcome in _measured(backbone, jobs, asked, context, folder, force=force, note=note):
                if isinstance(outcome, NotApplicableError) and asked.suite is not None:
                    left_out.append(outcome)
                    note(f"not applicable: {outcome}")
                else:
                    yielded = True
                    yield outcome
        if left_out and not yielded and current_shard().leads:
            yield NotApplicableError(f"{asked.suite}: no line has a meaning for {name}: {left_out[0]}")


def models(asked: Sweep) -> list[str]:
    """Return the names of the models, globs expanded.

    Raises:
        ConfigError: one checkpoint for several models.
    """
    names = match_models(asked.models)
    if asked.checkpoint is not None and len(names) > 1:
        raise ConfigError(f"--checkpoint fits one model, not {len(names)}: {', '.join(names[:4])}")
    return names


def load_asked(name: str, asked: Sweep, context: Context) -> Backbone:
    """Return one model on its device."""
    return load(name, checkpoint=asked.checkpoint, key=asked.key, seed=context.seed, device=context.device)


def batches(asked: Sweep) -> list[list[Measurement]]:
    """Return the measurements, those on the same pictures together; every task is built once to check it."""
    settings = parse_settings(asked.settings)
    if asked.suite is not None:
        found = read_suite(asked.suite)
    else:
        pairs = [(task, data) for data in _listed(asked.datasets) for task in _listed(asked.tasks)]
        found = [Measurement(task, data, {}) for task, data in pairs]
    unused = sorted(set(settings) - {one.task for one in found})
    if unused:
        raise ConfigError(f"--set {unused[0]}...: that task is not among those asked for")
    merged = [
        Measurement(one.task, one.dataset, {**one.settings, **settings.get(one.task, {})}) for one in found
    ]
    for one in merged:
        build_task(one.task, one.settings)
    groups: dict[str, list[Measurement]] = {}
    for one in merged:
        groups.setdefault(_pictures(one.dataset, asked), []).append(one)
    return list(groups.values())


def _pictures(dataset: str, asked: Sweep) -> str:
    try:
        return open_dataset(dataset, asked.options).pictures or dataset
    except SslevalError:  # said when the dataset is opened to be measured
        return dataset


def open_asked(name: str, asked: Sweep) -> Dataset:
    """Return a dataset with the split and the limit that were asked for."""
    dataset = open_dataset(name, asked.options)
    dataset = dataset if asked.split is None else dataset.evaluated_on(asked.split)
    return dataset if asked.limit is None else dataset.limited(asked.limit)


def _jobs_of(measurements: list[Measurement], asked: Sweep) -> tuple[list[Job], list[SslevalError]]:
    """Return the jobs of some measurements, every dataset opened once, and why others are none."""
    jobs: list[Job] = []
    errors: list[SslevalError] = []
    for name in dict.fromkeys(one.dataset for one in measurements):
        try:
            dataset = open_asked(name, asked)
        except SslevalError as error:
            errors.append(error)
            continue
        for one in (line for line in measurements if line.dataset == name):
            try:
                jobs.append(make_job(one.task, name, dataset, one.settings, asked.limit))
            except NotApplicableError as error:
                errors.append(NotApplicableError(f"{one.task} on {name}: {error}"))
            except SslevalError as error:
                errors.append(error)
    return jobs, errors


def applicable_jobs(
    measurements: list[Measurement], asked: Sweep, note: Callable[[str], None] | None = None
) -> list[Job]:
    """Return the jobs of some measurements, without those that have no meaning, which are said to ``note``.

    Raises:
        SslevalError: the first other reason why a measurement is no job.
    """
    jobs, errors = _jobs_of(measurements, asked)
    for error in errors:
        if not isinstance(error, NotApplicableError):
            raise error
        if note is not None:
            note(f"not applicable: {error}")
    return jobs


def _measured(
    backbone: Backbone,
    measurements: list[Measurement],
    asked: Sweep,
    context: Context,
    folder: Path | None,
    *,
    force: bool,
    note: Callable[[str], None],
) -> Iterator[Result | SslevalError]:
    jobs, errors = _jobs_of(measurements, asked)
    yield from errors
    failures: list[SslevalError] = []
    try:
        for result in measure(
            backbone, jobs, context, folder, force=force, note=note, failed=failures.append
        ):
            yield from _taken(failures)
            yield result
        yield from _taken(failures)
    except SslevalError as error:
        yield from _taken(failures)
        yield error


def _taken(errors: list[SslevalError]) -> Iterator[SslevalError]:
    while errors:
        yield errors.pop(0)


def _listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no task or dataset was named")
    return names
