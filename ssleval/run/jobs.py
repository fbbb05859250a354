"""Jobs: one task on one dataset, its settings resolved and its needs checked, before any model is loaded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssleval.core import Context, Dataset, Precision
from ssleval.core.registry import suggestion
from ssleval.core.task import Task, refuse_dataset
from ssleval.errors import NotApplicableError, SslevalError, UnknownNameError
from ssleval.features import current_shard
from ssleval.run.settings import build_task
from ssleval.run.suites import Measurement


@dataclass(frozen=True, slots=True)
class Job:
    """One task on one dataset, ready for any model."""

    name: str
    """The task's name."""
    task: Task
    """Resolved for the dataset."""
    dataset_name: str
    """As the user spelt it."""
    dataset: Dataset
    limit: int | None = None
    """How many images of each split are kept; already applied to ``dataset``."""
    drop_leaks: Literal["", "own"] | Mapping[str, Any] = ""
    """Whether scores without leaked images stand beside: by the model's own descriptors, or those of a file
    (`leaks.read_known`)."""


def make_job(
    task: str, dataset_name: str, dataset: Dataset, settings: Mapping[str, Any] | None, limit: int | None
) -> Job:
    """Return one task on one opened dataset; errors as in `build_task`, and NotApplicableError."""
    return _job(task, build_task(task, settings), dataset_name, dataset, limit)


def make_jobs(
    measurements: Iterable[tuple[Measurement, Task]], open_: Callable[[str], Dataset], limit: int | None
) -> tuple[list[Job], list[SslevalError]]:
    """Return the jobs of some measurements and their tasks, and for each of the others why it is none."""
    jobs: list[Job] = []
    errors: list[SslevalError] = []
    unreadable: set[str] = set()
    for line, task in measurements:
        if line.dataset in unreadable:
            continue
        try:
            with current_shard().agreed(f"opening {line.dataset}"):
                dataset = open_(line.dataset)
        except SslevalError as error:
            unreadable.add(line.dataset)
            errors.append(error)
            continue
        try:
            with current_shard().agreed(f"{line.task} on {line.dataset}"):
                jobs.append(_job(line.task, task, line.dataset, dataset, limit))
        except NotApplicableError as error:
            errors.append(NotApplicableError(f"{line.task} on {line.dataset}: {error}"))
        except SslevalError as error:
            errors.append(error)
    return jobs, errors


def by_precision(jobs: Sequence[Job], context: Context) -> list[tuple[Context, Sequence[Job]]]:
    """Return the jobs that share passes, and the context of each group; several where it is ``published``."""
    if context.precision != "published":
        return [(context, jobs)]
    groups: dict[Precision, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.task.published_precision, []).append(job)
    return [(replace(context, precision=precision), group) for precision, group in groups.items()]


def with_tasks(
    measurements: Iterable[Measurement], settings: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Measurement, Task]]:
    """Return each measurement with its task; ``settings``, by task, take the place of its own."""
    measurements = list(measurements)
    named = {line.task for line in measurements}
    if unused := [name for name in settings if name not in named]:
        known = suggestion(unused[0], named)
        raise UnknownNameError(f"settings of {unused[0]!r}: that task is not among those asked for; {known}")
    stated = [{**line.settings, **settings.get(line.task, {})} for line in measurements]
    return [(line, build_task(line.task, own)) for line, own in zip(measurements, stated, strict=True)]


def _job(name: str, task: Task, dataset_name: str, dataset: Dataset, limit: int | None) -> Job:
    refuse_dataset(name, task.needs, dataset.card)
    return Job(name, task.resolved(dataset), dataset_name, dataset, limit)
