"""Models x tasks x datasets: one pass over the images for all tasks, decoded once for several models."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ssleval.backbones.zoo import load, match_models
from ssleval.core import Context, Dataset, DatasetOptions
from ssleval.core.backbone import Backbone
from ssleval.core.devices import place
from ssleval.core.task import Task
from ssleval.core.text import DECODING_LIMITS, IDENTICAL, NOT_MEASURED
from ssleval.datasets.catalog import open_dataset, split_names
from ssleval.errors import ConfigError, NotApplicableError, SslevalError
from ssleval.features import FeatureSource, KeptImages, current_shard, local_device, prepare_together
from ssleval.results import Result
from ssleval.run.jobs import Job, make_jobs, with_tasks
from ssleval.run.leaks import OWN, read_known
from ssleval.run.measure import Ahead, Note, outcomes_of, plan_ahead, silent
from ssleval.run.memory import has_room
from ssleval.run.parts import Part, share
from ssleval.run.settings import parse_settings
from ssleval.run.suites import Measurement, read_suite

_SHOWN = 1 << 28
"""Bytes of decoded images on which models in memory together are compared with their stored features."""


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
    models_at_once: int = 0
    """How many models are in memory, fed by images that are decoded once; 0: as many as fit."""
    drop_leaks: str = ""
    """``own``, or a file of `ssleval leaks --out`: scores without leaked images stand beside the others."""

    def compared(self) -> dict[str, Any]:
        """Return what several processes must be asked alike; places on disk may differ between machines."""
        places = {"models", "checkpoint", "options"}
        asked = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in places}
        exif = {"exif": True} if self.options.exif else {}
        return {**asked, "card": dict(self.card), "full_hash": self.options.full_hash, **exif}


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a sweep measures with every model: each dataset opened once, each task resolved once."""

    groups: tuple[tuple[Job, ...], ...]
    """Those on the same pictures together."""
    errors: tuple[SslevalError, ...]
    """Why other measurements are no jobs."""

    def applicable(self, note: Note, *, named: bool = False) -> tuple[tuple[Job, ...], ...]:
        """Return the groups; errors are raised, but measurements without a meaning are said to ``note``.

        Those that were ``named`` one by one are errors, too.
        """
        for error in self.errors:
            if named or not isinstance(error, NotApplicableError):
                raise error
            note(f"{NOT_MEASURED}{error}")
        return self.groups


@dataclass(slots=True)
class _Model:
    """One model in memory, and what it is measured with."""

    name: str
    jobs: Jobs
    backbone: Backbone | SslevalError
    """The error that stands in its way."""
    ahead: Sequence[Iterable[Ahead | SslevalError]] = ()
    """By group of its jobs."""


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
        asked_for = {**asked.compared(), "models": models(asked), **context.recorded(), "force": force}
        shard.same("options", asked_for)
        every = jobs_by_model(asked, note)
        # What several datasets share is extracted anew once.
        since = shard.from_leader("beginning", time.time) if force else 0.0
        context = replace(context, device=local_device(context.device), since=since)
        where = place(context.device, int(context.num_workers))
        note = _once(note, where)
        named = asked.suite is None
        plan = partial(plan_ahead, context=context, folder=folder, force=force, note=note, named=named)
        for loaded in _loaded_at_once(every, asked, context, note):
            if where and any(isinstance(one.backbone, Backbone) for one in loaded):
                note(where)
            _plan(loaded, partial(plan, source_of=partial(FeatureSource, shown=KeptImages(_SHOWN))))
            # Each is let go of once it is measured.
            while loaded:
                yield from _of_model(loaded.popleft(), asked, folder, note)


def _loaded_at_once(
    every: Iterable[tuple[str, Jobs]], asked: Sweep, context: Context, note: Note
) -> Iterator[deque["_Model"]]:
    """Yield the models that are in memory together; the caller takes all out before the next are loaded."""
    together: deque[_Model] = deque()
    for name, jobs in every:
        loaded = [one.backbone for one in together if isinstance(one.backbone, Backbone)]
        if loaded and not has_room(name, loaded, asked.models_at_once, context.device):
            # A name for a model would keep it in memory.
            loaded.clear()
            yield together
            together = deque()
        together.append(_load(name, jobs, asked, context, note))
    if together:
        yield together


def _load(name: str, jobs: Jobs, asked: Sweep, context: Context, note: Note) -> "_Model":
    try:
        return _Model(name, jobs, load_asked(name, asked, context, note))
    except SslevalError as error:
        return _Model(name, jobs, error)


def _plan(loaded: Iterable["_Model"], plan: Callable[..., Iterator[Ahead | SslevalError]]) -> None:
    """Plan what models are measured with: in their turn, but several at once, to extract for all of them."""
    several = [one for one in loaded if isinstance(one.backbone, Backbone)]
    for one in several:
        one.ahead = [plan(one.backbone, group) for group in one.jobs.groups]
    if len(several) > 1:
        for one in several:
            one.ahead = [list(group) for group in one.ahead]
        planned = (ahead for one in several for group in one.ahead for ahead in group)
        prepare_together([(ahead.source, ahead.requests()) for ahead in planned if isinstance(ahead, Ahead)])


def _of_model(
    model: "_Model", asked: Sweep, folder: Path | None, note: Note
) -> Iterator[Result | SslevalError]:
    if isinstance(model.backbone, SslevalError):
        yield model.backbone
        return
    named = asked.suite is None
    left_out: list[NotApplicableError] = []
    yielded = False
    for outcome in _outcomes(model, folder, note):
        if isinstance(outcome, NotApplicableError) and not named:
            left_out.append(outcome)
            note(f"{NOT_MEASURED}{outcome}")
        else:
            yielded = True
            yield outcome
    # A part of a model's jobs does not tell.
    if left_out and not yielded and asked.part is None:
        yield NotApplicableError(f"{asked.suite}: no line has a meaning for {model.name}: {left_out[0]}")


def _once(note: Note, where: str) -> Note:
    """Return ``note`` without repetitions of what a sweep says once; of decoding limits, only the first."""
    told: set[str] = set()

    def filtered(text: str) -> None:
        limits = text.startswith(DECODING_LIMITS)
        subject = DECODING_LIMITS if limits else text
        if subject not in told:
            note(text)
        if limits or text == where or text.startswith(IDENTICAL):
            told.add(subject)

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
        return dataset.limited(asked.limit)

    jobs, errors = make_jobs(measurements(asked), opened, asked.limit)
    leaks = asked.drop_leaks if asked.drop_leaks in {"", OWN} else read_known(Path(asked.drop_leaks))
    groups: dict[str, list[Job]] = {}
    for job in (replace(job, drop_leaks=leaks) for job in jobs):
        groups.setdefault(job.dataset.pictures or job.dataset_name, []).append(job)
    return Jobs(tuple(map(tuple, groups.values())), tuple(errors))


def _outcomes(model: "_Model", folder: Path | None, note: Note) -> Iterator[Result | SslevalError]:
    yield from model.jobs.errors
    for group in model.ahead:
        try:
            for ahead in group:
                if isinstance(ahead, SslevalError):
                    yield ahead
                else:
                    yield from outcomes_of(ahead, folder, note=note)
        except SslevalError as error:
            yield error


def _listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("no task was named")
    return names
