"""What evaluating a task would take: small parts of it are run, and what a part costs is extrapolated.

The time of a task grows with its amounts (`Task.amounts`), each of which is raised by itself until it tells.
Features that are not stored are made up; a task that runs the model itself runs it, on real images.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from ssleval.core import Dataset, Split
from ssleval.core.task import Inputs, Task
from ssleval.errors import SslevalError
from ssleval.features import FeatureSource
from ssleval.run.measure import Plan

_TELLING = 0.4
"""Seconds by which an amount must lengthen a rehearsal."""
_LONG = 2.0
"""Seconds of a first rehearsal that need no second one, for which everything is loaded."""
_IN_ORDER = ("video", "pairs", "views", "captions")
"""Targets whose neighbouring items belong together; of others, items are taken evenly."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of evaluation, and what goes through the model in them."""

    seconds: float = 0.0
    images: float = 0.0
    forwards: float = 0.0

    def plus(self, other: "Cost", factor: float) -> "Cost":
        """Return this and ``factor`` times the other."""
        return Cost(*(getattr(self, one.name) + factor * getattr(other, one.name) for one in fields(Cost)))


def rehearse(plan: Plan, source: FeatureSource) -> Cost:
    """Return what evaluating a plan would cost once its features are stored.

    Raises:
        SslevalError: what the evaluation itself would raise.
    """
    amounts, card = plan.job.task.amounts(plan.job.dataset), plan.job.dataset.card
    least = {name: min(low, full) for name, (low, full) in amounts.items()}
    full = {name: high for name, (_, high) in amounts.items()}
    # More images than there are, of several looks at each, cannot be rehearsed.
    there = {"train": card.lengths.get(card.train_split, 0), "test": card.lengths[card.test_split]}
    most = {name: min(high, there.get(name, high)) for name, high in full.items()}
    total = base = _smallest(plan, source, least, full)
    for name in amounts:
        size, cost, factor = least[name], base, 2
        while size < most[name] and (told := cost.seconds - base.seconds) < _TELLING:
            if size > least[name]:
                factor = int(min(16, max(2, _TELLING / max(told, 1e-3))))
            size = min(factor * size, most[name])
            cost = _rehearsed(plan, source, {**least, name: size})
        if size > least[name]:
            more = cost.plus(base, -1.0)
            more = replace(more, seconds=max(0.0, more.seconds))
            total = total.plus(more, (full[name] - least[name]) / (size - least[name]))
    return total


def _smallest(plan: Plan, source: FeatureSource, least: dict[str, int], full: Mapping[str, int]) -> Cost:
    """Return the cost of the smallest part that can be run; ``least`` becomes its amounts."""
    while True:
        try:
            cost = _rehearsed(plan, source, least)
        except SslevalError:
            # Too few items for a score, or steps for a schedule; with all of them the error is true.
            if all(least[name] == full[name] for name in least):
                raise
            least |= {name: min(2 * amount, full[name]) for name, amount in least.items()}
        else:
            return cost if cost.seconds > _LONG else _rehearsed(plan, source, least)


def _rehearsed(plan: Plan, source: FeatureSource, amounts: Mapping[str, int]) -> Cost:
    job, card = plan.job, plan.job.dataset.card
    splits = {"train": card.train_split, "test": card.test_split}
    dataset = _cut(job.dataset, {splits[name]: amounts[name] for name in splits if name in amounts})
    settings = {name: amount for name, amount in amounts.items() if name not in splits}
    task: Task = replace(job.task, **settings) if settings else job.task  # pyright: ignore[reportArgumentType]
    stand_in = source.rehearsal(plan.requests)
    inputs = Inputs(stand_in, dataset, task.requests(dataset), replace(source.context, progress=False))
    started = time.perf_counter()
    task.evaluate(inputs)
    watched = stand_in.backbone
    seconds = time.perf_counter() - started + watched.skipped_seconds
    return Cost(seconds, float(watched.images), float(watched.forwards))


def _cut(dataset: Dataset, lengths: Mapping[str, int]) -> Dataset:
    """Return the same data with so many items of some splits."""
    card = dataset.card

    def open_split(name: str) -> Split:
        split, count = dataset.split(name), lengths.get(name)
        if count is None or count >= len(split):
            return split
        if card.target in _IN_ORDER:
            return split.subset(np.arange(count))
        return split.subset(np.linspace(0, len(split) - 1, count).astype(np.int64))

    shorter = {name: min(length, lengths.get(name, length)) for name, length in card.lengths.items()}
    return replace(dataset, card=replace(card, lengths=shorter), open=open_split)
