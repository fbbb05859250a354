"""Group comparable results into boards and rank them. Imports no torch.

Results of a *board* have the same task, protocol, scored split, data and pixels, and are ranked by their
headline metric. Models share a rank if their samples do not separate them from its first model: the 95 %
interval of the paired difference on shared items includes zero.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssleval.core import Samples
from ssleval.metrics.paired import leaders
from ssleval.results.papers import Figure
from ssleval.results.record import (
    Result,
    by_comparable,
    grouped,
    read_samples_of,
    refuse_unlike,
    samples_file,
)
from ssleval.results.samplefiles import bytes_of

_BYTES_AT_ONCE = 4_000_000
"""Size of the files of samples that are read together; in memory they are several times as large."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a board."""

    result: Result
    label: str
    """The model's name, and what distinguishes this result from others of the same model."""
    rank: int
    tied: bool
    """Whether other results have the same rank."""


@dataclass(frozen=True, slots=True)
class Board:
    """Comparable results, best first."""

    task: str
    dataset: str
    split: str
    protocol: str
    """Digest of task settings and data; part of every table, so that two boards are never mixed up."""
    entries: tuple[Entry, ...]
    published: tuple[Figure, ...] = ()
    """Figures that papers print for this protocol on these images; never ranked."""

    @property
    def headline(self) -> str:
        """Name of the metric that ranks."""
        return self.entries[0].result.headline

    @property
    def name(self) -> str:
        """Return ``task/dataset``."""
        return f"{self.task}/{self.dataset}"


SamplesReader = Callable[[Sequence[Result]], list[Samples]]


def headline_samples(results: Sequence[Result]) -> list[Samples]:
    """Return the samples of results of one board: only the columns that their headline metric needs."""
    columns: Mapping[str, str] = results[0].leading.statistic.get("columns", {})
    return read_samples_of(results, tuple(columns.values()))


def boards(results: Iterable[Result], read: SamplesReader = headline_samples) -> list[Board]:
    """Group comparable results and rank each group; of equal keys the newest counts.

    ``read`` returns the samples of some results of one board; it is called at most once for each result.
    """
    latest = {result.key: result for result in sorted(results, key=lambda result: result.created)}
    ranked = [_board(digest, group, read) for digest, group in by_comparable(latest.values()).items()]
    return sorted(ranked, key=lambda board: (board.name, board.protocol))


def _board(protocol: str, group: list[Result], read: SamplesReader) -> Board:
    refuse_unlike(group)
    name = group[0].headline
    sign = -1 if group[0].metrics[name].higher_is_better else 1
    group = sorted(group, key=lambda result: (sign * result.metrics[name].value, result.model))
    ranks, by_model = _ranks(group, name, read), grouped(group, lambda result: result.model)
    sizes, best = Counter(ranks), group[0]
    entries = tuple(
        Entry(result, _label(result, by_model[result.model]), rank, sizes[rank] > 1)
        for result, rank in zip(group, ranks, strict=True)
    )
    return Board(best.task, best.dataset, str(best.data.get("test_split", "")), protocol, entries)


def _ranks(group: Sequence[Result], name: str, read: SamplesReader) -> list[int]:
    """Return the rank of every result; ``group`` is sorted, best first."""
    if len(group) == 1:
        return [1]
    metric = group[0].metrics[name].metric(name)
    (leader,), ranks = read(group[:1]), [1]
    for batch in _batches(group[1:]):
        start = len(ranks)
        runs = [leader, *read(batch)]
        places = leaders(metric, runs)
        ranks += [start + place if place else ranks[-1] for place in places[1:]]
        leader = runs[places[-1]]
    return ranks


def _batches(group: Sequence[Result]) -> Iterator[list[Result]]:
    """Yield results whose samples are read together: at least one, and files of `_BYTES_AT_ONCE` at most."""
    batch: list[Result] = []
    room = _BYTES_AT_ONCE
    for result in group:
        size = bytes_of(samples_file(result))
        if batch and size > room:
            yield batch
            batch, room = [], _BYTES_AT_ONCE
        batch.append(result)
        room -= size
    if batch:
        yield batch


def _label(result: Result, same_model: Sequence[Result]) -> str:
    parts = [f"limit {result.settings['limit']}"] if result.settings.get("limit") else []
    if len({other.weights_sha256 for other in same_model}) > 1:
        parts.append(f"weights {result.weights_sha256[:8]}")
    for name, default in (("precision", "fp32"), ("pixels", "exact"), ("seed", 0)):
        value = result.settings.get(name, default)
        if value != default or len({str(other.settings.get(name)) for other in same_model}) > 1:
            parts.append(f"{name} {value}")
    if len({str(other.backbone.get("mean")) for other in same_model}) > 1:
        parts.append(f"mean {', '.join(f'{value:g}' for value in result.backbone.get('mean', ()))}")
    return f"{result.model} ({', '.join(parts)})" if parts else result.model
