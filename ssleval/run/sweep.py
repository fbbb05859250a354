"""Models x tasks x datasets, one model in memory at a time, one pass over the images for all tasks."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from ssleval.backbones.zoo import load, match_models
from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.core.backbone import Backbone
from ssleval.core.devices import place
from ssleval.core.task import Task
from ssleval.core.text import DECODING_LIMITS, NOT_MEASURED
from ssleval.datasets.catalog import open_dataset, split_names
from ssleval.errors import ConfigError, NotApplicableError, SslevalError
from ssleval.features import current_shard, local_device
from ssleval.results import Result
from ssleval.run.jobs import Job, make_jobs, with_tasks
from ssleval.run.measure import Note, outcomes, silent
from ssleval.run.parts import Part, share
from ssleval.run.settings import parse_settings
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
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """How images are prepared, as `load` takes it."""
    part: Part | None = None
    """The share to measure; None: all."""

    def compared(self) -> dict[str, Any]:
        """Return what several processes must be asked alike; places on disk may differ between machines."""
        places = {"models", "checkpoint", "options"}
        asked = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in places}
        return {**asked, "card": dict(self.card), "full_hash": self.options.full_hash}


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a sweep measures with every model: each dataset opened once, each task resolved once."""

    groups: tuple[tuple[Job, ...], ...]
    """Those on the same pictures together."""
    errors: tuple[SslevalError, ...]
    """Why other measurements are no jobs."""

    def applicable(self, note: Note = silent) -> tuple[tuple[Job, ...], ...]:
        """Return the groups; measurements without a meaning are said to ``note``, other errors raised."""
        for error in self.errors:
            if not isinstance(error, NotApplicableError):
                raise error
            note(f"{NOT_MEASURED}{error}")
        return self.groups


def sweep(
    asked: Sweep, context: Context, folder: Path | None, *, force: bool = False, note: Note
) -> Iterator[Result | SslevalError]:
    """Yield a result for every model, dataset and task, or the error that stood in its way.

    What is wrong with the request as a whole (an unknown name, a bad setting) is raised before anything
    is loaded; what is wrong with one model or one dataset does not stop the others. A task asked for by name
    that has no meaning for a model is an error. A line of a suite without one is said to ``note`` and left
    out; only where that is all lines is it an error.
    """
    shard = current_shard()
    note = note if shard.leads else silent
    with shard.agreed("sweep"):
        every = jobs_by_model(asked, note)
        names = [name for name, _ in every]
        shard.same("options", {**asked.compared(), "models": names, **context.recorded(), "force": force})
        # What several datasets share is extracted anew once.
        since = shard.from_leader("beginning", time.time) if force else 0.0
        context = replace(context, device=local_device(context.device), since=since)
        where = place(context.device, int(context.num_workers))
        note = _once(_once(note, DECODING_LIMITS), where)
        for name, jobs in every:
            yield from _of_model(name, asked, jobs, context, folder, force=force, note=note, where=where)


def _of_model(
    name: str,
    asked: Sweep,
    jobs: Jobs,
    context: Context,
    folder: Path | None,
    *,
    force: bool,
    note: Note,
    where: str,
) -> Iterator[Result | SslevalError]:
    try:
        backbone = load_asked(name, asked, context, note)
    except SslevalError as error:
        yield error
        return
    if where:
        note(where)
    named = asked.suite is None
    left_out: list[NotApplicableError] = []
    yielded = False
    for outcome in _outcomes(backbone, jobs, context, folder, force=force, note=note, named=named):
        if isinstance(outcome, NotApplicableError) and not named:
            left_out.append(outcome)
            note(f"{NOT_MEASURED}{outcome}")
        else:
            yielded = True
            yield outcome
    # A part of a model's jobs does not tell.
    if left_out and not yielded and asked.part is None:
        yield NotApplicableError(f"{asked.suite}: no line has a meaning for {name}: {left_out[0]}")


def _once(note: Note, beginning: str) -> Note:
    """Return ``note`` without the later of notes with this ``beginning``."""
    told: list[str] = []

    def filtered(text: str) -> None:
        if not (text.startswith(beginning) and told):
            note(text)
        told.extend([text] * text.startswith(beginning))

    return filtered


def models(asked: Sweep) -> list[str]:
    """Return the names of the models, globs expanded; one checkpoint or card is refused for several."""
    names = match_models(asked.models)
    if (asked.checkpoint is not None or asked.card) and len(names) > 1:
        raise ConfigError(
            f"--checkpoint, --image-mean and the like fit one model, not {len(names)}: {', '.join(names[:4])}"
        )
    return names


def jobs_by_model(asked: Sweep, note: Note = silent) -> list[tuple[str, Jobs]]:
    """Return each model that is measured, with its jobs; an empty part is said to ``note``."""
    names, jobs = models(asked), jobs_of(asked)
    mine = share(asked.part, names, jobs.groups)
    if not mine:
        # Where all datasets open, there might have been something to do.
        jobs.applicable(note)
        note(f"part {asked.part} is empty: there are fewer units, each a model on a set of pictures")
    return [(name, replace(jobs, groups=groups)) for name, groups in mine]


def load_asked(name: str, asked: Sweep, context: Context, note: Note = silent) -> Backbone:
    """Return one model on its device; what decided about its weights is said to ``note``."""
    with current_shard().agreed(f"loading {name}"):
        return load(
            name,
            checkpoint=asked.checkpoint,
            key=asked.key,
            card=asked.card,
            seed=context.seed,
            device=context.device,
            note=note,
        )


def measurements(asked: Sweep) -> list[tuple[Measurement, Task]]:
    """Return the measurements that were asked for, each with its task."""
    if asked.suite is not None:
        lines = read_suite(asked.suite)
    else:
        names, kinds = split_names(asked.datasets), _listed(asked.tasks)
        lines = [Measurement(task, data) for data in names for task in kinds]
        if not lines:
            raise ConfigError("no dataset was named")
    return with_tasks(lines, parse_settings(asked.settings))


def jobs_of(asked: Sweep) -> Jobs:
    """Return the jobs that were asked for."""

    @cache
    def opened(name: str) -> Dataset:
        dataset = open_dataset(name, asked.options)
        dataset = dataset if asked.split is None else dataset.evaluated_on(asked.split)
        return dataset if asked.limit is None else dataset.limited(asked.limit)

    jobs, errors = make_jobs(measurements(asked), opened, asked.limit)
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.dataset.pictures or job.dataset_name, []).append(job)
    return Jobs(tuple(map(tuple, groups.values())), tuple(errors))


def _outcomes(
    backbone: Backbone,
    jobs: Jobs,
    context: Context,
    folder: Path | None,
    *,
    force: bool,
    note: Note,
    named: bool,
) -> Iterator[Result | SslevalError]:
    yield from jobs.errors
    for group in jobs.groups:
        try:
            yield from outcomes(backbone, group, context, folder, force=force, note=note, named=named)
        except SslevalError as error:
            yield error


def _listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no task was named")
    return names
