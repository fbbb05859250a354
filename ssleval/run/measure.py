"""Measure models: plan, extract, evaluate, record. Everything the command line does is a call here.

For one model the requests of all tasks on the same pictures are merged and extracted in one pass; a task
whose result is already stored under the same key is neither extracted for nor evaluated again.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssleval.backbones.zoo import load
from ssleval.core import Context, Dataset, DatasetOptions, FeatureRequest, Samples, digest
from ssleval.core.backbone import Backbone
from ssleval.core.task import Task
from ssleval.datasets.catalog import open_dataset
from ssleval.errors import ContractError, NotApplicableError, SslevalError
from ssleval.features import Extracted, FeatureSource, current_shard
from ssleval.metrics.recorded import describe
from ssleval.metrics.stats import bootstrap
from ssleval.results import Result, Score, record
from ssleval.run.provenance import hardware, versions
from ssleval.run.settings import build_task


@dataclass(frozen=True, slots=True)
class Job:
    """One task on one dataset, as asked for."""

    name: str
    """The task's name."""
    task: Task
    dataset_name: str
    """As the user spelt it."""
    dataset: Dataset
    limit: int | None = None
    """How many images of each split are kept; already applied to ``dataset``."""


def evaluate(
    model: str | Backbone,
    tasks: str | Sequence[str],
    *,
    dataset: str = "scenes",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    checkpoint: Path | str | None = None,
    limit: int | None = None,
    options: DatasetOptions | None = None,
    context: Context | None = None,
    results: Path | str | None = None,
    force: bool = False,
) -> list[Result]:
    """Evaluate one model with some tasks on one dataset.

    Args:
        model: a name (zoo alias, ``source:identifier``, ``random:NAME``) or a constructed backbone.
        tasks: task names.
        dataset: a registered name or ``source:location``.
        settings: fields of tasks in place of their defaults, ``{"knn": {"temperature": 0.1}}``.
        checkpoint: local weights for the named architecture.
        limit: keep this many images of every split, for a quick try.
        options: where data lies and how it is fingerprinted.
        context: device, precision, batch size and the like.
        results: folder for result files and samples; None stores nothing and reads nothing back.
        force: measure again what is already stored.

    Raises:
        SslevalError: anything the caller can mend; the message says what and how.
    """
    context = context or Context()
    opened = open_dataset(dataset, options or DatasetOptions())
    opened = opened if limit is None else opened.limited(limit)
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    jobs = [make_job(name, dataset, opened, (settings or {}).get(name), limit) for name in names]
    if isinstance(model, str):
        backbone = load(model, checkpoint=checkpoint, seed=context.seed, device=context.device)
    else:
        backbone = model.to(context.device)
    return list(measure(backbone, jobs, context, None if results is None else Path(results), force=force))


def make_job(
    task: str, dataset_name: str, dataset: Dataset, settings: Mapping[str, Any] | None, limit: int | None
) -> Job:
    """Return one task on one opened dataset, its settings worked out for it."""
    return Job(task, build_task(task, settings).resolved(dataset), dataset_name, dataset, limit)


def measure(
    backbone: Backbone,
    jobs: Sequence[Job],
    context: Context,
    folder: Path | None,
    *,
    force: bool = False,
    note: Callable[[str], None] | None = None,
    failed: Callable[[SslevalError], None] | None = None,
) -> Iterator[Result]:
    """Yield the result of every job, in order; what is stored already is read back.

    Under ``torchrun`` all processes extract, each its share, and the first evaluates and records.
    A job that has no meaning for the model is skipped and said to ``note``; where no job has one, a
    NotApplicableError is raised. Any other error of a job is told to ``failed``, and the others go on;
    without ``failed`` it is raised.
    """
    source = FeatureSource(backbone, context)
    asked = _applicable(source, jobs, note, failed)
    keys = {id(job): _key(source, job, requests) for job, requests in asked}
    done = {} if folder is None or force else _stored(folder, backbone, jobs, keys)
    _prepare(source, [each for job, each in asked if id(job) not in done], spare=failed is not None)
    if not current_shard().leads:
        return
    if note is not None and source.counts:
        total = sum(source.counts.values(), Extracted())
        note(
            f"{backbone.card.name}: {total.images:,} images in {total.forwards:,} forward passes, "
            f"for {len(asked) - len(done)} tasks"
        )
    for job, requests in asked:
        try:
            result = done.get(id(job)) or _measured(source, job, requests, keys[id(job)], folder)
        except SslevalError as error:
            if failed is None:
                raise
            failed(error)
        else:
            yield result


def is_stored(source: FeatureSource, job: Job, requests: Sequence[FeatureRequest], folder: Path) -> bool:
    """Return whether a result of this job's key lies in ``folder``."""
    key = _key(source, job, requests)
    return record.find(folder, source.backbone.card.name, job.name, job.dataset_name, key) is not None


def _prepare(source: FeatureSource, asked: Sequence[Sequence[FeatureRequest]], *, spare: bool) -> None:
    """Extract for all jobs in as few passes as there can be."""
    try:
        source.prepare([request for requests in asked for request in requests])
    except SslevalError:
        # The job whose images they are meets the error again by itself, unless it needs other processes.
        if not spare or current_shard().world > 1:
            raise


def _applicable(
    source: FeatureSource,
    jobs: Sequence[Job],
    note: Callable[[str], None] | None,
    failed: Callable[[SslevalError], None] | None,
) -> list[tuple[Job, tuple[FeatureRequest, ...]]]:
    asked: list[tuple[Job, tuple[FeatureRequest, ...]]] = []
    left_out: list[str] = []
    for job in jobs:
        try:
            job.task.check(source.backbone)
            requests = job.task.requests(job.dataset)
            source.check(requests)
            asked.append((job, requests))
        except NotApplicableError as error:
            left_out.append(f"{job.name} on {job.dataset_name}: {error}")
        except SslevalError as error:
            if failed is None:
                raise
            failed(error)
    if left_out and not asked:
        raise NotApplicableError("; ".join(left_out))
    if note is not None:
        for line in left_out:
            note(f"not applicable: {line}")
    return asked


def _stored(
    folder: Path, backbone: Backbone, jobs: Sequence[Job], keys: Mapping[int, str]
) -> dict[int, Result]:
    found = {
        id(job): record.find(folder, backbone.card.name, job.name, job.dataset_name, keys[id(job)])
        for job in jobs
        if id(job) in keys
    }
    return {job: result for job, result in found.items() if result is not None}


def _key(source: FeatureSource, job: Job, requests: Sequence[FeatureRequest]) -> str:
    """Digest of all that decides a score. Where and when, and prose in cards, are not among it."""
    backbone = source.backbone
    return digest(
        {
            "schema": record.SCHEMA,
            "model": backbone.card.name,
            "features": source.identity(),
            "task": [job.name, job.task.version, _protocol(job)],
            "dataset": [job.dataset_name, job.dataset.card.test_split, _fingerprints(source, requests)],
            "settings": _settings(source.context, job),
        }
    )


def _measured(
    source: FeatureSource, job: Job, requests: Sequence[FeatureRequest], key: str, folder: Path | None
) -> Result:
    context = source.context
    # After construction of the backbone, which draws random numbers too.
    random.seed(context.seed)
    np.random.seed(context.seed)
    torch.manual_seed(context.seed)
    started = time.perf_counter()
    samples = job.task.evaluate(source, job.dataset, context)
    evaluated = time.perf_counter() - started
    result = Result(
        model=source.backbone.card.name,
        task=job.name,
        dataset=job.dataset_name,
        key=key,
        metrics=_scores(job, samples),
        protocol=_protocol(job),
        backbone=asdict(source.backbone.card),
        data=_data(source, job, requests),
        weights_sha256=source.backbone.weights_sha256,
        settings=_settings(context, job),
        skipped=source.skipped(requests),
        versions=versions(),
        hardware=hardware(context.device),
        timings={**source.timings(requests), "evaluate_seconds": round(evaluated, 3)},
        cost=source.cost(requests),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return result if folder is None else record.write(folder, result, samples)


def _scores(job: Job, samples: Samples) -> dict[str, Score]:
    if not len(samples):
        raise ContractError(f"{job.name} on {job.dataset_name} returned no samples")
    metrics = job.task.metrics
    intervals = bootstrap(metrics, samples)
    return {
        metric.name: Score(
            value=metric.score(samples),
            ci95=intervals[metric.name],
            n=len(samples),
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            statistic=describe(metric.statistic),
        )
        for metric in metrics
    }


def _protocol(job: Job) -> dict[str, Any]:
    fields: dict[str, Any] = asdict(job.task)  # pyright: ignore[reportArgumentType]
    return {**fields, "version": job.task.version}


def _settings(context: Context, job: Job) -> dict[str, Any]:
    return {**context.recorded(), "limit": job.limit}


def _fingerprints(source: FeatureSource, requests: Sequence[FeatureRequest]) -> dict[str, str]:
    pairs = {(request.dataset.card.name, request.split): request for request in requests}
    return {
        f"{name}/{split}": source.open_split(request.dataset, split).fingerprint
        for (name, split), request in sorted(pairs.items(), key=lambda item: item[0])
    }


def _data(source: FeatureSource, job: Job, requests: Sequence[FeatureRequest]) -> dict[str, Any]:
    card = asdict(replace(job.dataset.card, class_names=()))
    del card["class_names"]
    return {
        **card,
        "num_classes": job.dataset.card.num_classes,
        "fingerprints": _fingerprints(source, requests),
    }
