"""Results to tables: Markdown for people, wide and long CSV for programs. Imports no torch.

A *board* holds only results that may be compared: same task, protocol, scored split and data. Ranks
follow the headline metric; models that the samples cannot separate from the first of their rank share
it (paired bootstrap on shared items, 95 %). Published figures, where asked for, stand below the measured
ones of the board whose protocol is theirs, say that they are published and where, and have no rank.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ssleval.core import Metric, Samples
from ssleval.figures import Figure
from ssleval.metrics.paired import separable
from ssleval.metrics.recorded import statistic_from
from ssleval.results import Result, Score, comparable, read_samples
from ssleval.verify import measured_otherwise

__all__ = [
    "Board",
    "Entry",
    "boards",
    "headline_samples",
    "long_table",
    "markdown",
    "records",
    "wide_table",
    "with_published",
    "write_tables",
]


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


def headline_samples(result: Result) -> Samples:
    """Return the samples of a result, without the columns that its leading metric does not need."""
    headline = next(iter(result.metrics.values()))
    columns: Mapping[str, str] = headline.statistic.get("columns", {})
    return read_samples(result, tuple(columns.values()))


def boards(
    found: Iterable[Result], samples_of: Callable[[Result], Samples] = headline_samples
) -> list[Board]:
    """Group comparable results and rank each group; of equal keys the newest counts.

    ``samples_of`` reads the samples of a result; it is called at most once for each.
    """
    latest = {one.key: one for one in sorted(found, key=lambda one: one.created)}
    groups: dict[str, list[Result]] = {}
    for one in latest.values():
        groups.setdefault(comparable(one), []).append(one)
    ranked = [_board(key, group, samples_of) for key, group in groups.items()]
    return sorted(ranked, key=lambda board: (board.name, board.protocol))


def with_published(found: Iterable[Board], figures: Sequence[Figure]) -> list[Board]:
    """Return the boards with the published figures that are of their task, data, split and settings."""
    return [replace(one, published=tuple(f for f in figures if _belongs(f, one))) for one in found]


def wide_table(found: Sequence[Board]) -> pd.DataFrame:
    """Return one row per model and one column per board and metric; each published source has its own row."""
    rows: dict[str, dict[str, object]] = {}
    names = [board.name for board in found]
    for board in found:
        prefix = board.name if names.count(board.name) == 1 else f"{board.name}#{board.protocol}"
        for entry in board.entries:
            row = rows.setdefault(entry.label, _model_columns(entry))
            row |= {f"{prefix}/{name}": score.value for name, score in entry.result.metrics.items()}
        for figure in board.published:
            row = rows.setdefault(_title(figure), {"model": _title(figure), "published": figure.row.source})
            row[f"{prefix}/{figure.measured.metric}"] = _value(figure, board)
    return _measured_first(list(rows.values()))


def long_table(found: Sequence[Board]) -> pd.DataFrame:
    """Return one row per model, board and metric, with interval, rank and provenance.

    Published figures have rows of their own, and a column ``published`` with their source.
    """
    rows: list[dict[str, object]] = []
    for board in found:
        for entry in board.entries:
            rows += _long_rows(board, entry)
        rows += [_published_row(board, figure) for figure in board.published]
    return _measured_first(rows)


def records(found: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the rows of the long table as JSON can hold them: what does not exist is None."""
    table = long_table(found).astype(object)
    return table.where(table.notna(), None).to_dict("records")  # pyright: ignore[reportReturnType]


def markdown(found: Sequence[Board]) -> str:
    """Return one Markdown table per board, best model first."""
    return "\n".join(_markdown(board) for board in found)


def write_tables(found: Sequence[Board], folder: Path) -> list[Path]:
    """Write ``leaderboard.csv``, ``leaderboard_long.csv`` and ``leaderboard.md`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "leaderboard.csv": _csv(wide_table(found)),
        "leaderboard_long.csv": _csv(long_table(found)),
        "leaderboard.md": markdown(found),
    }
    for name, text in texts.items():
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    return [folder / name for name in texts]


def _csv(table: pd.DataFrame) -> str:
    # A third of the time of `DataFrame.to_csv`, which asks of every cell which of many kinds it is.
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(_texts(column) for _, column in table.items()), strict=True))
    return file.getvalue()


def _texts(column: pd.Series) -> list[object]:
    values = column.tolist()
    if column.dtype.kind == "f":
        return [f"{value:.6g}" if value == value else "" for value in values]  # noqa: PLR0124 - no NaN
    return ["" if missing else value for value, missing in zip(values, column.isna(), strict=True)]


def _belongs(figure: Figure, board: Board) -> bool:
    """Return whether a published figure was measured as this board is, all entries of which agree in that."""
    measured, result = figure.measured, board.entries[0].result
    here = measured.protocol.task == board.task and measured.test.is_of(board.dataset)
    return here and not measured_otherwise(result, measured)


def _measured_first(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(sorted(rows, key=lambda row: "published" in row))
    # A number that published rows do not have would turn the counts of the others into fractions.
    return table.astype({name: "Int64" for name in ("n", "seed") if name in table})


def _title(figure: Figure) -> str:
    return f"{figure.measured.model} (published, {figure.row.source})"


def _value(figure: Figure, board: Board) -> float:
    unit = board.entries[0].result.metrics[figure.measured.metric].unit
    return figure.value / 100 if unit == "fraction" else figure.value


def _published_row(board: Board, figure: Figure) -> dict[str, object]:
    return {
        "model": _title(figure),
        "task": board.task,
        "dataset": board.dataset,
        "split": board.split,
        "protocol": board.protocol,
        "metric": figure.measured.metric,
        "value": _value(figure, board),
        "unit": board.entries[0].result.metrics[figure.measured.metric].unit,
        "published": figure.row.source,
    }


def _long_rows(board: Board, entry: Entry) -> list[dict[str, object]]:
    one = entry.result
    before = {
        **_model_columns(entry),
        "task": board.task,
        "dataset": board.dataset,
        "split": board.split,
        "protocol": board.protocol,
    }
    after = {
        **{name: one.settings.get(name) for name in ("precision", "seed", "limit")},
        "weights_sha256": one.weights_sha256,
        "key": one.key,
    }
    headline = board.headline
    return [
        {
            **before,
            "metric": name,
            "value": score.value,
            "ci95_low": score.ci95[0],
            "ci95_high": score.ci95[1],
            "n": score.n,
            "unit": score.unit,
            "rank": entry.rank if name == headline else None,
            "tied": entry.tied if name == headline else None,
            **after,
        }
        for name, score in one.metrics.items()
    ]


def _board(protocol: str, group: list[Result], samples_of: Callable[[Result], Samples]) -> Board:
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


def _ranks(group: Sequence[Result], name: str, samples_of: Callable[[Result], Samples]) -> list[int]:
    """Return the place of the first of each one's rank, of results that stand best first."""
    if len(group) == 1:
        return [1]
    score = group[0].metrics[name]
    metric = Metric(name, statistic_from(score.statistic), score.higher_is_better, score.unit)
    leader, ranks = samples_of(group[0]), [1]
    for place, one in enumerate(group[1:], start=2):
        samples = samples_of(one)
        if separable(metric, leader, samples):
            leader = samples
            ranks.append(place)
        else:
            ranks.append(ranks[-1])
    return ranks


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


def _model_columns(entry: Entry) -> dict[str, object]:
    card = entry.result.backbone
    return {
        "model": entry.label,
        "supervision": card.get("supervision"),
        "param_count": card.get("parameters"),
        "img_size": card.get("image_size"),
    }


def _markdown(board: Board) -> str:
    first = board.entries[0].result
    names = list(first.metrics)
    n = first.metrics[board.headline].n
    lines = [
        f"### {board.name} ({board.split}, n = {n}, protocol {board.protocol})",
        "",
        "| rank | model | " + " | ".join(names) + " |",
        "|---:|:---|" + "---:|" * len(names),
    ]
    for entry in board.entries:
        cells = (_cell(entry.result.metrics.get(name)) for name in names)
        rank = f"{'=' if entry.tied else ''}{entry.rank}"
        lines.append(f"| {rank} | {entry.label} | " + " | ".join(cells) + " |")
    for title, printed in _printed(board).items():
        cells = (printed.get(name, "") for name in names)
        lines.append(f"| published | *{title}* | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    scale, digits = (100, 1) if score.unit == "fraction" else (1, 3)
    value, low, high = (f"{number * scale:.{digits}f}" for number in (score.value, *score.ci95))
    return f"{value} [{low}, {high}]"


def _printed(board: Board) -> Mapping[str, Mapping[str, str]]:
    """Return published figures as they were printed, by title and metric."""
    rows: dict[str, dict[str, str]] = {}
    for figure in board.published:
        title = f"{figure.measured.model}, {figure.row.source}"
        rows.setdefault(title, {})[figure.measured.metric] = figure.row.value
    return rows
