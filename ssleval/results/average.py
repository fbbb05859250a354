"""The score of a suite: a model's mean over its boards, with an interval. Imports no torch.

Every board counts the same. The interval of the mean is formed of those of the boards: its ends lie as far
from it as the root of the sum of the squared distances of their ends, divided by their number. Distances on
boards of the same images are added up first, as if errors were the same there. Models whose mean paired
difference, by the same rule, is not separated from zero share a rank.

Where boards have groups, the score is the mean of the groups' means, as of VTAB. Its interval, and that of
differences, is about the choice of sets: those of every group are drawn again, as `other_boards` does.

Source: Zou & Donner 2008, Statistics in Medicine 27, 1693-1702 (intervals of sums from intervals).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import starmap

import numpy as np
from jaxtyping import Float

from ssleval.core import Samples, digest
from ssleval.core.text import some
from ssleval.errors import DataError
from ssleval.metrics.paired import paired_test
from ssleval.metrics.ranks import mean_rank, other_boards
from ssleval.results.leaderboard import titles
from ssleval.results.ranking import Board, Entry, SamplesReader, headline_samples
from ssleval.results.record import Result, Score


def averages(
    suite: str,
    lines: Mapping[str, Sequence[Board]],
    groups: Mapping[str, str] | None = None,
    read: SamplesReader = headline_samples,
) -> tuple[list[Board], dict[str, str]]:
    """Return boards of means, one for each set of comparable boards, and what other models lack.

    Args:
        suite: its name.
        lines: the boards of every line of the suite, by the name of the line.
        groups: the group of every line; None, or '' of all: none.
        read: returns the samples of some results of one board.

    Raises:
        DataError: a model has two results for a line, or a score is no fraction of which more is better.
    """
    title_of = titles([board for boards in lines.values() for board in boards])
    cells: dict[str, dict[str, tuple[Board, Entry]]] = defaultdict(dict)
    for line, board, entry in _entries(lines):
        _refuse_unlike_a_fraction(suite, board)
        title = title_of[entry.label, entry.result.weights_sha256]
        if line in cells[title]:
            twin = cells[title][line][1].result
            raise DataError(
                f"{suite}: {title} has two results for {line}, {twin.path} and {entry.result.path}; "
                "they differ in data or in how images are decoded; move one of them away"
            )
        cells[title][line] = board, entry
    same: dict[tuple[str, ...], list[list[tuple[Board, Entry]]]] = defaultdict(list)
    for has in cells.values():
        if len(has) == len(lines):
            row = [has[line] for line in lines]
            same[tuple(board.protocol for board, _ in row)].append(row)
    of_line = [(groups or {}).get(line, "") for line in lines]
    make = partial(_board_of_groups, groups=of_line) if any(of_line) else partial(_board, read=read)
    boards = [make(suite, rows) for rows in same.values()]
    lacking = {title: some([line for line in lines if line not in has]) for title, has in cells.items()}
    return boards, {title: missing for title, missing in lacking.items() if len(cells[title]) < len(lines)}


def _entries(lines: Mapping[str, Sequence[Board]]) -> Iterator[tuple[str, Board, Entry]]:
    for line, boards in lines.items():
        for board in boards:
            for entry in board.entries:
                yield line, board, entry


def _refuse_unlike_a_fraction(suite: str, board: Board) -> None:
    score = board.entries[0].result.metrics[board.headline]
    if score.unit != "fraction" or not score.higher_is_better:
        raise DataError(
            f"{suite} has no average: {board.headline} of {board.name} is no fraction of which more is better"
        )


def _board(suite: str, rows: Sequence[Sequence[tuple[Board, Entry]]], read: SamplesReader) -> Board:
    """Return the board of models with results on the same boards, best mean first."""
    rows = sorted(rows, key=lambda row: (-float(np.mean(list(starmap(_value, row)))), row[0][1].label))
    columns = [[row[place][1].result for row in rows] for place in range(len(rows[0]))]
    samples = [read(column) for column in columns]
    images = [tuple(column[0].ids) for column in samples]
    ranks = [1]
    for place in range(1, len(rows)):
        leader = ranks[-1] - 1
        pairs = [
            (column[0], held[leader], held[place]) for column, held in zip(columns, samples, strict=True)
        ]
        ranks.append(place + 1 if _apart(pairs, images) else ranks[-1])
    entries = tuple(
        Entry(_result(suite, row, images), row[0][1].label, rank, ranks.count(rank) > 1)
        for row, rank in zip(rows, ranks, strict=True)
    )
    protocol = digest([board.protocol for board, _ in rows[0]])[:8]
    return Board("average", suite, f"mean of {len(columns)} boards", protocol, entries)


def _board_of_groups(
    suite: str, rows: Sequence[Sequence[tuple[Board, Entry]]], groups: Sequence[str]
) -> Board:
    """Return the board of models by the mean of the means of groups, best first."""
    members = {
        name: [place for place, one in enumerate(groups) if one == name] for name in dict.fromkeys(groups)
    }
    scores = {id(row): np.array([_value(*cell) for cell in row]) for row in rows}
    value = {key: _of_groups(found, members.values()) for key, found in scores.items()}
    rows = sorted(rows, key=lambda row: (-value[id(row)][0], row[0][1].label))
    ranks = [1]
    for place in range(1, len(rows)):
        gap = scores[id(rows[ranks[-1] - 1])] - scores[id(rows[place])]
        _, low, high = _of_groups(gap, members.values())
        ranks.append(ranks[-1] if low <= 0 <= high else place + 1)
    entries: list[Entry] = []
    for row, rank in zip(rows, ranks, strict=True):
        found = {"mean": (value[id(row)], len(groups))} | {
            name: (_of_groups(scores[id(row)], [of]), len(of)) for name, of in members.items()
        }
        metrics = {
            name: Score(mean, (max(0.0, low), min(1.0, high)), count)
            for name, ((mean, low, high), count) in found.items()
        }
        result = replace(_result(suite, row, [()] * len(groups)), metrics=metrics)
        entries.append(Entry(result, row[0][1].label, rank, ranks.count(rank) > 1))
    title = f"mean of {len(members)} groups of boards"
    return Board(
        "average", suite, title, digest([board.protocol for board, _ in rows[0]])[:8], tuple(entries)
    )


def _of_groups(
    scores: Float[np.ndarray, " b"], members: Iterable[Sequence[int]]
) -> tuple[float, float, float]:
    """Return the mean of the means of groups, and the ends of its interval for other sets of each group."""
    parts = [scores[list(places)] for places in members]
    value = float(np.mean([part.mean() for part in parts]))
    drawn = [other_boards(mean_rank, part[:, None], seed=seed)[:, 0] for seed, part in enumerate(parts)]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return value, float(low), float(high)


def _value(board: Board, entry: Entry) -> float:
    return entry.result.metrics[board.headline].value


def _apart(pairs: Sequence[tuple[Result, Samples, Samples]], images: Sequence[tuple[str, ...]]) -> bool:
    """Return whether the mean difference of two models over boards is separated from zero."""
    gaps = [paired_test(one.metrics[one.headline].metric(one.headline), *two) for one, *two in pairs]
    halves = [gap.interval()[1] - gap.value for gap in gaps]
    return abs(float(np.mean([gap.value for gap in gaps]))) > _half(halves, images)


def _half(halves: Sequence[float], images: Sequence[tuple[str, ...]]) -> float:
    """Return how far an end of the mean's interval lies from it."""
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for half, shown in zip(halves, images, strict=True):
        sums[shown] += half
    return float(np.sqrt(sum(half**2 for half in sums.values()))) / len(halves)


def _result(suite: str, row: Sequence[tuple[Board, Entry]], images: Sequence[tuple[str, ...]]) -> Result:
    scores = [entry.result.metrics[board.headline] for board, entry in row]
    mean = float(np.mean([score.value for score in scores]))
    low = mean - _half([score.value - score.ci95[0] for score in scores], images)
    high = mean + _half([score.ci95[1] - score.value for score in scores], images)
    first = row[0][1].result
    return Result(
        model=first.model,
        task="average",
        dataset=suite,
        key="",
        metrics={"mean": Score(mean, (max(0.0, low), min(1.0, high)), len(row))},
        protocol={},
        backbone=first.backbone,
        data={},
        weights_sha256=first.weights_sha256,
        settings=first.settings,
    )
