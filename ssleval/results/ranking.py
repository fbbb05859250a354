"""Which results may be compared, and in which order they stand. Imports no torch.

A *board* holds only results that may be compared: same task, protocol, scored split and data. Ranks
follow the headline metric; models that the samples cannot separate from the first of their rank share
it (paired bootstrap on shared items, 95 %).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssleval.core import Metric, Samples
from ssleval.metrics.paired import leaders
from ssleval.metrics.recorded import statistic_from
from ssleval.results.papers import Figure
from ssleval.results.record import Result, by_comparable, read_samples_of, samples_bytes

_BYTES_AT_ONCE = 4_000_000
"""Of files of samples that are read together; unpacked, they are several times as large."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a board."""

    result: Result
    label: str
    """The model's name, and what sets this result apart from others of the same model."""
    rank: int
    tied: bool
    """Whether the samples cannot separate it from the first of its rank."""


@dataclass(frozen=True, slots=True)
class Board:
    """Results that may be compared, best first."""

    task: str
    dataset: str
    split: str
    protocol: str
    """Digest of task settings and data: part of every table, so that two boards are never mixed up."""
    entries: tuple[Entry, ...]
    published: tuple[Figure, ...] = ()
    """What papers print for this protocol on these images; never ranked."""

    @property
    def headline(self) -> str:
        """Name of the metric that ranks."""
        return next(iter(self.entries[0].result.metrics))

    @property
    def name(self) -> str:
        """Return ``task/dataset``."""
        return f"{self.task}/{self.dataset}"


def headline_samples(found: Sequence[Result]) -> list[Samples]:
    """Return the samples of results of one board, only the columns that their leading metric needs."""
    headline = next(iter(found[0].metrics.values()))
    columns: Mapping[str, str] = headline.statistic.get("columns", {})
    return read_samples_of(found, tuple(columns.values()))


def boards(
    found: Iterable[Result], samples_of: Callable[[Sequence[Result]], list[Samples]] = headline_samples
) -> list[Board]:
    """Group comparable results and rank each group; of equal keys the newest counts.

    ``samples_of`` reads the samples of some results of a board; none is handed to it twice.
    """
    latest = {one.key: one for one in sorted(found, key=lambda one: one.created)}
    ranked = [_board(key, group, samples_of) for key, group in by_comparable(latest.values()).items()]
    return sorted(ranked, key=lambda board: (board.name, board.protocol))


def _board(
    protocol: str, group: list[Result], samples_of: Callable[[Sequence[Result]], list[Samples]]
) -> Board:
    name, headline = next(iter(group[0].metrics.items()))
    sign = -1 if headline.higher_is_better else 1
    group = sorted(group, key=lambda one: (sign * one.metrics[name].value, one.model))
    ranks = _ranks(group, name, samples_of)
    sharers = Counter(ranks)
    entries = tuple(
        Entry(one, label, rank, sharers[rank] > 1)
        for one, label, rank in zip(group, _labels(group), ranks, strict=True)
    )
    first = group[0]
    split = str(first.data.get("test_split", ""))
    return Board(first.task, first.dataset, split, protocol, entries)


def _ranks(
    group: Sequence[Result], name: str, samples_of: Callable[[Sequence[Result]], list[Samples]]
) -> list[int]:
    """Return the place of the first of each one's rank, of results that stand best first."""
    if len(group) == 1:
        return [1]
    score = group[0].metrics[name]
    metric = Metric(name, statistic_from(score.statistic), score.higher_is_better, score.unit)
    (leader,), ranks = samples_of(group[:1]), [1]
    for batch in _batches(group[1:]):
        start = len(ranks)
        runs = [leader, *samples_of(batch)]
        led = leaders(metric, runs)
        ranks += [start + place if place else ranks[-1] for place in led[1:]]
        leader = runs[led[-1]]
    return ranks


def _batches(group: Sequence[Result]) -> Iterator[list[Result]]:
    """Yield results whose samples are read together: as many as take the memory meant for them, or one."""
    batch: list[Result] = []
    room = _BYTES_AT_ONCE
    for one in group:
        taken = samples_bytes(one)
        if batch and taken > room:
            yield batch
            batch, room = [], _BYTES_AT_ONCE
        batch.append(one)
        room -= taken
    if batch:
        yield batch


def _labels(group: Sequence[Result]) -> list[str]:
    twins: dict[str, list[Result]] = {}
    for one in group:
        twins.setdefault(one.model, []).append(one)
    return [_label(one, twins[one.model]) for one in group]


def _label(one: Result, twins: Sequence[Result]) -> str:
    parts = [f"limit {one.settings['limit']}"] if one.settings.get("limit") else []
    if len({other.weights_sha256 for other in twins}) > 1:
        parts.append(f"weights {one.weights_sha256[:8]}")
    for name, usual in (("precision", "fp32"), ("seed", 0)):
        if len({str(other.settings.get(name)) for other in twins}) > 1 or one.settings.get(name) != usual:
            parts.append(f"{name} {one.settings.get(name)}")
    return f"{one.model} ({', '.join(parts)})" if parts else one.model
