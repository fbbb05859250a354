"""The work of a sweep in units, and the share of one of several jobs: ``3/60`` is the third of sixty.

A unit is one model on sets that share a pass over images: two jobs never wait for the same pass. Which units
a part holds depends on the request and on the version of ssleval alone, not on what is stored or where it
runs, so that jobs need not know of each other.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import groupby
from typing import NamedTuple, TypeAlias

from ssleval.backbones.zoo import packaged_zoo
from ssleval.core import BackboneCard
from ssleval.errors import ConfigError, NotApplicableError
from ssleval.run.jobs import Job

Groups: TypeAlias = tuple[tuple[Job, ...], ...]
"""Jobs of one model; those on the same pictures together."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of ``count`` shares."""

    number: int
    """From 1."""
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class Unit(NamedTuple):
    """What is never divided: one model, and jobs that read the same passes."""

    model: str
    groups: Groups

    def __str__(self) -> str:
        datasets = dict.fromkeys(job.dataset_name for group in self.groups for job in group)
        return f"{self.model} on {', '.join(datasets)}"


def read_part(text: str) -> Part:
    """Return the part that ``NUMBER/COUNT`` names; ConfigError: it names none."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        last = count or 60
        raise ConfigError(
            f"--part {text}: write NUMBER/COUNT, counted from 1, as 1/{last} to {last}/{last}; "
            "where an index begins at 0, add 1"
        )
    return Part(number, count)


def units_of(models: Sequence[str], groups: Groups) -> list[Unit]:
    """Return the units of a sweep, in its order."""
    sets = _apart(groups)
    return [Unit(model, own) for model in models for own in sets]


def shares(units: Sequence[Unit], count: int) -> list[list[Unit]]:
    """Return the units of each of ``count`` parts.

    If the cards tell the cost of every unit, the costliest comes first and goes to the part with the least
    so far; else the parts take turns.
    """
    cards = packaged_zoo()
    costs = [_cost(unit, cards) for unit in units]
    order = range(len(units))
    if all(costs):
        order = sorted(order, key=lambda index: -costs[index])
    else:
        costs = [1.0] * len(units)
    loads = [(0.0, part) for part in range(count)]
    heapify(loads)
    taken: list[list[int]] = [[] for _ in range(count)]
    for index in order:
        load, part = loads[0]
        taken[part].append(index)
        heapreplace(loads, (load + costs[index], part))
    return [[units[index] for index in sorted(mine)] for mine in taken]


def share(part: Part | None, models: Sequence[str], groups: Groups) -> list[tuple[str, Groups]]:
    """Return the models that a part measures, each with its jobs; without a part, all with all."""
    if part is None:
        return [(model, groups) for model in models]
    mine = shares(units_of(models, groups), part.count)[part.number - 1]
    return [
        (model, tuple(group for unit in own for group in unit.groups))
        for model, own in groupby(mine, key=lambda unit: unit.model)
    ]


def _apart(groups: Groups) -> list[Groups]:
    """Return the groups in sets of which no two read the same pictures of the same split."""
    if len(groups) == 1:
        return [groups]
    found: dict[int, tuple[set[tuple[str, str]], Groups]] = {}
    for index, group in enumerate(groups):
        read = _read(group)
        touching = [place for place, (other, _) in found.items() if other & read]
        joined = [found.pop(place) for place in touching]
        own = (*(one for _, before in joined for one in before), group)
        found[min([*touching, index])] = (read.union(*(other for other, _ in joined)), own)
    return [found[place][1] for place in sorted(found)]


def _read(group: tuple[Job, ...]) -> set[tuple[str, str]]:
    """Return the pictures and splits whose features a group reads."""
    read: set[tuple[str, str]] = set()
    for job in group:
        # The run says why, at its place.
        with suppress(NotApplicableError):
            requests = job.task.requests(job.dataset)
            read |= {
                (one.dataset.pictures or one.dataset.card.name, one.split) for one in requests if one.readouts
            }
    return read


def _cost(unit: Unit, cards: Mapping[str, BackboneCard]) -> float:
    """Return about how much a unit computes, from cards alone; 0 where they do not tell.

    Images of folders are not counted: a copy elsewhere might have more, and the parts would differ.
    """
    card = cards.get(unit.model.removeprefix("random:"))
    datasets = {job.dataset_name: job.dataset for group in unit.groups for job in group}
    if card is None or any(":" in name and not one.pictures for name, one in datasets.items()):
        return 0.0
    # The same pictures are seen once.
    images = {one.pictures or name: sum(one.card.lengths.values()) for name, one in datasets.items()}
    tokens = (card.image_size / card.patch_size) ** 2
    return max(0.1, card.parameters) * tokens * sum(images.values())
