"""Measure models: plan, extract, evaluate, record. Everything the command line does is a call here.

For one model the requests of all tasks on the same pictures are merged and extracted in one pass; a task
whose result is already stored under the same key is neither extracted for nor evaluated again.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ssleval.backbones.zoo import load
from ssleval.core import Context, DatasetOptions, FeatureRequest, Metric, Samples, digest
from ssleval.core.backbone import WRAP, Backbone
from ssleval.core.faults import faults_of, is_foreign
from ssleval.core.task import Inputs, Task
from ssleval.core.text import NOT_MEASURED, counted
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files.identical import identical_note
from ssleval.errors import ConfigError, ContractError, NotApplicableError, SslevalError
from ssleval.features import (
    Extracted,
    FeatureSource,
    Pass,
    PeerError,
    Shard,
    current_shard,
    fingerprints_of,
    local_device,
)  # fmt: skip
from ssleval.metrics.intervals import estimates
from ssleval.metrics.recorded import describe
from ssleval.results import Result, Score, record
from ssleval.run.jobs import Job, by_precision, make_jobs, with_tasks
from ssleval.run.leaks import can_drop, known_of, leak_requests, own_of, refuse_answers, sides_of, without
from ssleval.run.provenance import hardware, versions
from ssleval.run.suites import Measurement

Note: TypeAlias = Callable[[str], None]
"""Takes what is said to people beside the results."""
SourceOf: TypeAlias = Callable[[Backbone, Context], FeatureSource]


@dataclass(frozen=True, slots=True)
class Plan:
    """One job for one model, worked out once: what it reads, and under which key its result is stored."""

    job: Job
    requests: tuple[FeatureRequest, ...]
    passes: tuple[Pass, ...]
    """Those that serve the requests."""
    fingerprints: Mapping[str, str]
    """By ``DATASET/SPLIT``, of all data the score depends on."""
    key: str
    """Digest of all that decides a score: equal keys promise equal scores."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What one model at one precision is measured with, and which results are stored already."""

    source: FeatureSource
    plans: list[Plan]
    errors: list[SslevalError]
    """Why other jobs cannot be measured."""
    done: Mapping[str, Result]
    """By key."""

    def requests(self) -> list[FeatureRequest]:
        """Return what those read, and what near-duplicates are looked for in."""
        return [request for plan in self.plans for request in self.requests_of(plan)]

    def requests_of(self, plan: Plan) -> tuple[FeatureRequest, ...]:
        """Return the part of one plan."""
        return (() if plan.key in self.done else plan.requests) + leak_requests(self.source, plan.job)


def silent(_: str) -> None:
    """Say nothing."""


def evaluate(
    model: str | torch.nn.Module,
    tasks: str | Sequence[str],
    *,
    dataset: str = "scenes",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    checkpoint: Path | str | None = None,
    card: Mapping[str, Any] | None = None,
    limit: int | None = None,
    options: DatasetOptions | None = None,
    context: Context | None = None,
    results: Path | str | None = None,
    force: bool = False,
) -> list[Result]:
    """Evaluate one model with some tasks on one dataset.

    Args:
        model: a name (zoo alias, ``source:identifier``, ``random:NAME``) or a constructed backbone;
            `ssleval.wrap` makes one of a torch module.
        tasks: task names.
        dataset: a registered name or ``source:location``.
        settings: fields of tasks in place of their defaults, ``{"knn": {"temperature": 0.1}}``.
        checkpoint: local weights for the named architecture.
        card: how images are prepared, in place of what the named model says, as `ssleval.load` takes it.
        limit: keep this many images of every split, for a quick try.
        options: where data lies and how it is fingerprinted.
        context: device, precision, batch size and the like.
        results: folder for result files and samples; None stores nothing and reads nothing back.
        force: measure again what is already stored, from images on.

    Raises:
        SslevalError: anything the caller can mend; the message says what and how.
    """
    context = context or Context()
    with current_shard().agreed("evaluate"):
        context = replace(context, device=local_device(context.device))
        jobs = jobs_on(dataset, tasks, settings or {}, limit, options or DatasetOptions())
        if isinstance(model, str):
            backbone = load(model, checkpoint=checkpoint, card=card, seed=context.seed, device=context.device)
        elif checkpoint is not None or card:
            raise ConfigError("checkpoint and card are for a model that is named, not for one that is built")
        elif not isinstance(model, Backbone):
            raise ConfigError(f"model is a {type(model).__name__}, {WRAP}")
        else:
            backbone = model.to(context.device)
            backbone.forget_hashes()
        folder = None if results is None else Path(results)
        return list(measure(backbone, jobs, context, folder, force=force))


def jobs_on(
    dataset: str,
    tasks: str | Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    limit: int | None,
    options: DatasetOptions,
) -> list[Job]:
    """Return the jobs of some tasks on one dataset, all arguments as in `evaluate`."""
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    lines = with_tasks([Measurement(name, dataset, {}) for name in names], settings)
    opened = open_dataset(dataset, options).limited(limit)
    jobs, errors = make_jobs(lines, lambda _: opened, limit)
    for error in errors:
        if not jobs or not isinstance(error, NotApplicableError):
            raise error
    return jobs


def measure(
    backbone: Backbone,
    jobs: Sequence[Job],
    context: Context,
    folder: Path | None,
    *,
    force: bool = False,
    note: Note = silent,
    source_of: SourceOf = FeatureSource,
) -> Iterator[Result]:
    """Yield the result of every job, in order; what is stored already is read back. An error ends it.

    Under ``torchrun`` all processes extract, each its share, and the first evaluates and records; in a task
    that runs the model itself all take part. All yield the same. A job that has no meaning for the model is
    skipped and said to ``note``. ``source_of`` makes what features come from.
    """
    for ahead in plan_ahead(
        backbone, jobs, context, folder, force=force, note=note, named=False, source_of=source_of
    ):
        if isinstance(ahead, SslevalError):
            raise ahead
        for outcome in outcomes_of(ahead, folder, note=note, spare=False):
            if isinstance(outcome, SslevalError):
                raise outcome
            yield outcome


def plan_ahead(
    backbone: Backbone,
    jobs: Sequence[Job],
    context: Context,
    folder: Path | None,
    *,
    force: bool,
    note: Note,
    named: bool,
    source_of: SourceOf = FeatureSource,
) -> Iterator[Ahead | SslevalError]:
    """Yield what lies ahead of `outcomes_of`, for each precision, or the error that stood in its way.

    A job that has no meaning for the model is an error where the jobs were ``named`` one by one.
    """
    shard, model = current_shard(), backbone.card.name
    if force and not context.since:
        # One time for all: clocks of machines differ.
        context = replace(context, since=shard.from_leader(f"beginning {model}", time.time))
    for own, group in by_precision(jobs, context):
        try:
            with shard.agreed(f"identity of {model}"):
                source = source_of(backbone, own)
            plans, errors = plan_all(source, group, note, named=named)
            stored = partial(_done, None if force else folder, source, plans)
            ahead = Ahead(source, plans, errors, shard.from_leader(f"results of {model}", stored))
        except SslevalError as error:
            ahead = error
        yield ahead


def outcomes_of(
    ahead: Ahead, folder: Path | None, *, note: Note, spare: bool = True
) -> Iterator[Result | SslevalError]:
    """Yield the result of every job that was planned, in order, or its error.

    ``spare`` goes on with the other jobs where images of one cannot be read.
    """
    source, done, shard = ahead.source, ahead.done, current_shard()
    yield from ahead.errors
    prepared = True
    try:
        source.prepare(ahead.requests())
    except SslevalError:
        if not spare:
            raise
        # The job whose images they are meets the error again by itself.
        prepared = False
    if source.counts:
        total, left = sum(source.counts.values(), Extracted()), [plan.key not in done for plan in ahead.plans]
        note(
            f"{source.backbone.card.name}: {total.images:,} images in {total.forwards:,} forward passes, "
            f"for {counted(sum(left), 'task')}"
        )
        if limits := total.decoding_limits(source.context):
            note(limits)
    for plan in ahead.plans:
        try:
            if not prepared:
                source.prepare(ahead.requests_of(plan))
            outcome = _outcome(source, plan, folder, done.get(plan.key), shard)
        except SslevalError as error:
            outcome = error
        yield outcome


def _done(folder: Path | None, source: FeatureSource, plans: Iterable[Plan]) -> dict[str, Result]:
    stored = (None if folder is None else find_stored(folder, source, plan) for plan in plans)
    return {result.key: result for result in stored if result is not None}


def _outcome(
    source: FeatureSource, plan: Plan, folder: Path | None, stored: Result | None, shard: Shard
) -> Result:
    """Return the result of a job, in all processes what the first has; an error of one is raised in all."""
    point = f"{plan.job.name} on {plan.job.dataset_name}"
    with ExitStack() as turn:
        if stored is None and folder is not None:
            stored = shard.from_leader(f"turn of {point}", lambda: _turn(source, plan, folder, turn))
        result = stored
        with shard.agreed(point):
            if stored is not None and shard.leads:
                source.confirm(plan.requests)
                result = _completed(stored, plan.job)
            elif stored is None and shard.leads:
                result = _measured(source, plan, folder)
            elif stored is None and not all(request.readouts for request in plan.requests):
                # The task runs the model itself, in all processes.
                _evaluated(source, plan)
            if shard.leads and result is not None and plan.job.drop_leaks:
                result = _without_leaks(source, plan.job, result)
    return shard.exchange(point, result)[0]  # pyright: ignore[reportReturnType]


def _without_leaks(source: FeatureSource, job: Job, result: Result) -> Result:
    """Return the result with the scores of the images that have no copy among those that are fitted on."""
    name, dataset = job.dataset_name, job.dataset
    test = sides_of(name, dataset)[1]
    kept = job.drop_leaks
    leaked, said = own_of(source, name, dataset) if isinstance(kept, str) else known_of(kept, test)
    samples = record.read_samples(result)
    left = without(samples, leaked, test.split.ids, f"{job.name} on {name}")
    known = [metric for metric in job.task.metrics if metric.name in result.metrics]
    scores = {metric: asdict(score) for metric, score in _scores(job, known, left).items()}
    return record.with_leaks(result, {**said, "dropped": len(samples) - len(left), "metrics": scores})


def _turn(source: FeatureSource, plan: Plan, folder: Path, turn: ExitStack) -> Result | None:
    """Wait while another process measures the same, and return what is stored then; None where nothing is."""
    model, job = source.backbone.card.name, plan.job
    turn.enter_context(record.measuring(folder, plan.key, f"{model} with {job.name} on {job.dataset_name}"))
    return None if source.context.since else find_stored(folder, source, plan)


def plan_all(
    source: FeatureSource, jobs: Sequence[Job], note: Note = silent, *, named: bool = False
) -> tuple[list[Plan], list[SslevalError]]:
    """Return a plan for every job that has a meaning for the model, and the errors of other jobs.

    Jobs without a meaning are said to ``note``; where no job has one, or jobs were ``named`` one by one,
    that is an error as well. A task that had to be suited to the model is also said.
    """
    plans: list[Plan] = []
    errors: list[SslevalError] = []
    left_out: list[str] = []
    identical: list[str] = []
    for job in jobs:
        try:
            with current_shard().agreed(f"plan of {job.name} on {job.dataset_name}"):
                plan = _plan(source, job)
                same = list(_identical(plan, source.context.cache))
            plans.append(plan)
            identical += same
            if changed := _changed(job.task, job.task.suited(source.gives)):
                model = source.backbone.card.name
                note(f"{job.name} on {job.dataset_name}: {changed}, which is what {model} has")
        except NotApplicableError as error:
            left_out.append(f"{job.name} on {job.dataset_name}: {error}")
        except SslevalError as error:
            errors.append(error)
    for line in dict.fromkeys(identical):
        note(line)
    if named:
        return plans, [*errors, *map(NotApplicableError, left_out)]
    if left_out and not plans:
        return [], [*errors, NotApplicableError("; ".join(left_out))]
    for line in left_out:
        note(f"{NOT_MEASURED}{line}")
    return plans, errors


def _identical(plan: Plan, cache: Path) -> Iterator[str]:
    """Yield lines on files that the scored split shares with the one that is fitted on or looked up in.

    Of domains, of which each is both, on those of any two.
    """
    own, name = plan.job.dataset, plan.job.dataset_name
    card, test = own.card, own.card.test_split
    read = {(one.dataset.card.name, one.split): one.dataset for one in plan.requests}
    scored = card.name, test
    if not card.domains and scored not in read:
        return
    others = [place for place in read if card.domains or place != scored]
    end = "; --drop-leaks scores without them" if can_drop(card) else ""
    for pair in combinations(others, 2) if card.domains else ((one, scored) for one in others[:1]):
        # The request of a clip is for its frames, which are no files.
        first, second = (
            (
                split,
                (own if title == card.name and split in card.lengths else read[title, split]).split(split),
            )
            for title, split in pair
        )
        if line := identical_note(name, first, second, cache):
            yield line + end


def find_stored(folder: Path, source: FeatureSource, plan: Plan) -> Result | None:
    """Return the result of a plan's key that lies in ``folder``, if there is one."""
    job = plan.job
    return record.find(folder, source.backbone.card.name, job.name, job.dataset_name, plan.key)


def _plan(source: FeatureSource, job: Job) -> Plan:
    with _faults_of(job):
        source.check_needs(job.name, job.task.needs)
        task = job.task.suited(source.gives).for_model(job.dataset, source.backbone.card)
        job = replace(job, task=task)
        requests = job.task.requests(job.dataset)
    if job.drop_leaks:
        refuse_answers(job.dataset, requests)
    source.check((*requests, *leak_requests(source, job)))
    if not isinstance(job.drop_leaks, str):
        known_of(job.drop_leaks, sides_of(job.dataset_name, job.dataset)[1])
    splits = {f"{one.dataset.card.name}/{one.split}": one.dataset.split(one.split) for one in requests}
    fingerprints = {name: splits[name].fingerprint for name in sorted(splits)}
    decisive = {
        "schema": record.SCHEMA,
        "model": source.backbone.card.name,
        "features": source.identity,
        "task": [job.name, job.task.version, _protocol(job)],
        "dataset": [job.dataset_name, job.dataset.card.test_split, fingerprints],
        "settings": {**source.context.recorded(), "limit": job.limit},
    }
    parts = {**fingerprints_of(source.identity), **fingerprints_of(fingerprints)}
    current_shard().same(
        f"{source.backbone.card.name}, {job.name} on {job.dataset_name}",
        {**parts, "key": digest(decisive)[:12]},
    )
    return Plan(job, requests, source.passes(requests), fingerprints, digest(decisive))


def _changed(before: Task, after: Task) -> str:
    fields: dict[str, Any] = asdict(after)  # pyright: ignore[reportArgumentType]
    return ", ".join(f"{name}={value}" for name, value in fields.items() if value != getattr(before, name))


def _faults_of(job: Job) -> AbstractContextManager[None]:
    # Of a task that is a plug-in, and of a user's model that a task runs itself.
    owner = f"{job.name} on {job.dataset_name}"
    return faults_of(owner, foreign=is_foreign(job.task), passing=(torch.OutOfMemoryError, PeerError))


def _evaluated(source: FeatureSource, plan: Plan) -> Samples:
    context, job = source.context, plan.job
    # After construction of the backbone, which draws random numbers too.
    random.seed(context.seed)
    np.random.seed(context.seed)
    torch.manual_seed(context.seed)
    with _faults_of(job):
        return job.task.evaluate(Inputs(source, job.dataset, plan.requests, context))


def _measured(source: FeatureSource, plan: Plan, folder: Path | None) -> Result:
    context, job = source.context, plan.job
    started = time.perf_counter()
    samples = _evaluated(source, plan)
    evaluated = time.perf_counter() - started
    result = Result(
        model=source.backbone.card.name,
        task=job.name,
        dataset=job.dataset_name,
        key=plan.key,
        metrics=_scores(job, job.task.metrics, samples),
        protocol=_protocol(job),
        backbone=asdict(source.backbone.card),
        data=_data(plan),
        weights_sha256=source.backbone.weights_sha256,
        settings={**context.recorded(), "limit": job.limit},
        skipped=source.skipped(plan.passes),
        versions=versions(),
        hardware=hardware(context.device),
        timings={**source.timings(plan.passes), "evaluate_seconds": round(evaluated, 3)},
        cost=source.cost(plan.passes),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return result if folder is None else record.write(folder, result, samples)


def _completed(stored: Result, job: Job) -> Result:
    """Return a stored result with the scores that its task gives since: statistics of columns it has."""
    lacking = [metric for metric in job.task.metrics if metric.name not in stored.metrics]
    if not (lacking and record.has_samples(stored)):
        return stored
    samples = record.read_samples(stored)
    computable = [
        metric
        for metric in lacking
        if {*describe(metric.statistic)["columns"].values()} <= samples.columns.keys()
    ]
    return record.with_scores(stored, _scores(job, computable, samples))


def _scores(job: Job, metrics: Sequence[Metric], samples: Samples) -> dict[str, Score]:
    if not len(samples):
        raise ContractError(f"{job.name} on {job.dataset_name} returned no samples")
    card = job.dataset.card
    names = card.class_names or tuple(map(str, range(card.classes)))
    found = estimates(metrics, samples, class_names=names)
    return {
        metric.name: Score(
            value=found[metric.name].value,
            ci95=(found[metric.name].low, found[metric.name].high),
            n=len(samples),
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            statistic=describe(metric.statistic),
            note=found[metric.name].note,
        )
        for metric in metrics
    }


def _protocol(job: Job) -> dict[str, Any]:
    return {**job.task.recorded(), "version": job.task.version}


def _data(plan: Plan) -> dict[str, Any]:
    card = plan.job.dataset.card
    fields = asdict(replace(card, class_names=(), outputs=()))
    kept = {name: value for name, value in fields.items() if value or name not in _LEFT_OUT}
    return {**kept, "num_classes": card.num_classes, "fingerprints": dict(plan.fingerprints)}


_LEFT_OUT = ("class_names", "outputs", "exif", "domains")
"""Fields of a card that results do not record: of each class, and what came later where it is empty."""
