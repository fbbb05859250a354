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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import starmap
from typing import TypeAlias

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

Row: TypeAlias = Sequence[tuple[Board, Entry]]
"""One model's entries, in the order of the lines of a suite."""


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
    entries = [(line, board, entry) for line in lines for board in lines[line] for entry in board.entries]
    for line, board, entry in entries:
        _refuse_unlike_a_fraction(suite, board)
        title = title_of[entry.label, entry.result.weights_sha256]
        if line in cells[title]:
            twin = cells[title][line][1].result
            raise DataError(
                f"{suite}: {title} has two results for {line}, {twin.path} and {entry.result.path}; "
                "they differ in data or in how images are decoded; move one of them away"
            )
        cells[title][line] = board, entry
    same: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for has in cells.values():
        if len(has) == len(lines):
            row = [has[line] for line in lines]
            same[tuple(board.protocol for board, _ in row)].append(row)
    of_line = [(groups or {}).get(line, "") for line in lines]
    make = partial(_board_of_groups, groups=of_line) if any(of_line) else partial(_board, read=read)
    boards = [make(suite, rows) for rows in same.values()]
    lacking = {title: some([line for line in lines if line not in has]) for title, has in cells.items()}
    return boards, {title: missing for title, missing in lacking.items() if len(cells[title]) < len(lines)}


def _refuse_unlike_a_fraction(suite: str, board: Board) -> None:
    score = board.entries[0].result.metrics[board.headline]
    if score.unit != "fraction" or not score.higher_is_better:
        raise DataError(
            f"{suite} has no average: {board.headline} of {board.name} is no fraction of which more is better"
        )


def _board(suite: str, rows: Sequence[Row], read: SamplesReader) -> Board:
    """Return the board of models with results on the same boards, best mean first."""
    rows = sorted(rows, key=lambda row: (-float(np.mean(list(starmap(_value, row)))), row[0][1].label))
    columns = [[row[place][1].result for row in rows] for place in range(len(rows[0]))]
    samples = [read(column) for column in columns]
    images = [tuple(column[0].ids) for column in samples]

    def apart(leader: int, place: int) -> bool:
        held = zip(columns, samples, strict=True)
        return _apart([(column[0], each[leader], each[place]) for column, each in held], images)

    metrics = [{"mean": _mean(row, images)} for row in rows]
    return _ranked(suite, f"mean of {len(columns)} boards", rows, metrics, apart)


def _board_of_groups(suite: str, rows: Sequence[Row], groups: Sequence[str]) -> Board:
    """Return the board of models by the mean of the means of groups, best first."""
    places = {
        name: [place for place, one in enumerate(groups) if one == name] for name in dict.fromkeys(groups)
    }
    members = list(places.values())
    scores = {id(row): np.array([_value(*cell) for cell in row]) for row in rows}
    rows = sorted(rows, key=lambda row: (-_of_groups(scores[id(row)], members)[0], row[0][1].label))

    def apart(leader: int, place: int) -> bool:
        _, low, high = _of_groups(scores[id(rows[leader])] - scores[id(rows[place])], members)
        return not low <= 0 <= high

    parts = {"mean": members} | {name: [own] for name, own in places.items()}
    metrics = [
        {name: _score(*_of_groups(scores[id(row)], of), sum(map(len, of))) for name, of in parts.items()}
        for row in rows
    ]
    return _ranked(suite, f"mean of {len(members)} groups of boards", rows, metrics, apart)


def _ranked(
    suite: str,
    title: str,
    rows: Sequence[Row],
    metrics: Sequence[Mapping[str, Score]],
    apart: Callable[[int, int], bool],
) -> Board:
    """Return the board of rows, best first; those not ``apart`` from the first of a rank share it."""
    ranks = [1]
    for place in range(1, len(rows)):
        ranks.append(place + 1 if apart(ranks[-1] - 1, place) else ranks[-1])
    entries = tuple(
        Entry(_result(suite, row[0][1].result, own), row[0][1].label, rank, ranks.count(rank) > 1)
        for row, own, rank in zip(rows, metrics, ranks, strict=True)
    )
    return Board("average", suite, title, digest([board.protocol for board, _ in rows[0]])[:8], entries)


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
    gaps = [paired_test(one.leading.metric(one.headline), *two) for one, *two in pairs]
    halves = [gap.interval()[1] - gap.value for gap in gaps]
    return abs(float(np.mean([gap.value for gap in gaps]))) > _half(halves, images)


def _half(halves: Sequence[float], images: Sequence[tuple[str, ...]]) -> float:
    """Return how far an end of the mean's interval lies from it."""
    sums: dict[tuple[str, ...], float] = defaultdict(float)
    for half, shown in zip(halves, images, strict=True):
        sums[shown] += half
    return float(np.sqrt(sum(half**2 for half in sums.values()))) / len(halves)


def _mean(row: Row, images: Sequence[tuple[str, ...]]) -> Score:
    scores = [entry.result.metrics[board.headline] for board, entry in row]
    mean = float(np.mean([score.value for score in scores]))
    low = mean - _half([score.value - score.ci95[0] for score in scores], images)
    high = mean + _half([score.ci95[1] - score.value for score in scores], images)
    return _score(mean, low, high, len(row))


def _score(mean: float, low: float, high: float, count: int) -> Score:
    return Score(mean, (max(0.0, low), min(1.0, high)), count)


def _result(suite: str, first: Result, metrics: Mapping[str, Score]) -> Result:
    """Return the scores as a result of the model that ``first`` is of."""
    return Result(
        first.model, "average", suite, key="", metrics=metrics, protocol={}, backbone=first.backbone, data={},
        weights_sha256=first.weights_sha256, settings=first.settings,
    )  # fmt: skip
