"""Boards to tables: Markdown for people, wide and long CSV for programs. Imports no torch.

Published figures, where asked for, stand below the measured ones of the board whose protocol is theirs,
say that they are published and where, and have no rank.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssleval.core.files import write_text_atomically
from ssleval.results.papers import Figure
from ssleval.results.ranking import Board, Entry
from ssleval.results.record import Score
from ssleval.results.verify import measured_otherwise

if TYPE_CHECKING:
    import pandas as pd


def with_published(found: Iterable[Board], figures: Sequence[Figure]) -> list[Board]:
    """Return the boards with the published figures that are of their task, data, split and settings."""
    return [replace(one, published=tuple(f for f in figures if _belongs(f, one))) for one in found]


def wide_table(found: Sequence[Board]) -> "pd.DataFrame":
    """Return one row per model and one column per board and metric; each published source has its own row."""
    return _frame(_wide_rows(found))


def long_table(found: Sequence[Board]) -> "pd.DataFrame":
    """Return one row per model, board and metric, with interval, rank and provenance.

    Published figures have rows of their own, and a column ``published`` with their source.
    """
    return _frame(_long_rows(found))


def records(found: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the rows of the long table as JSON can hold them: what does not exist is None."""
    rows = _long_rows(found)
    names = _names(rows)
    return [{name: None if _is_nan(one := row.get(name)) else one for name in names} for row in rows]


def markdown(found: Sequence[Board]) -> str:
    """Return one Markdown table per board, best model first."""
    return "\n".join(_markdown(board) for board in found)


def write_tables(found: Sequence[Board], folder: Path) -> list[Path]:
    """Write ``leaderboard.csv``, ``leaderboard_long.csv`` and ``leaderboard.md`` into ``folder``."""
    texts = {
        "leaderboard.csv": _csv(_wide_rows(found)),
        "leaderboard_long.csv": _csv(_long_rows(found)),
        "leaderboard.md": markdown(found),
    }
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    return [folder / name for name in texts]


def _frame(rows: Sequence[Mapping[str, object]]) -> "pd.DataFrame":
    # Files and JSON do without: importing pandas takes as long as writing some thousand rows.
    import pandas as pd

    table = pd.DataFrame(list(rows))
    # A number that published rows do not have would turn the counts of the others into fractions.
    return table.astype({name: "Int64" for name in ("n", "seed") if name in table})


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    names, file = _names(rows), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        [_text(one) if isinstance(one, float) else one for one in map(row.get, names)] for row in rows
    )
    return file.getvalue()


def _text(number: float) -> str:
    return "" if _is_nan(number) else f"{number:.6g}"


def _is_nan(value: object) -> bool:
    return value != value  # noqa: PLR0124 - what NaN is known by


def _names(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return every column that some row has, in the order in which they appear."""
    return list(dict.fromkeys(name for names in dict.fromkeys(map(tuple, rows)) for name in names))


def _wide_rows(found: Sequence[Board]) -> list[dict[str, object]]:
    rows: dict[str, dict[str, object]] = {}
    titles = _titles(found)
    times = Counter(board.name for board in found)
    for board in found:
        prefix = board.name if times[board.name] == 1 else f"{board.name}#{board.protocol}"
        for entry in board.entries:
            title = titles[entry.label, entry.result.weights_sha256]
            row = rows.setdefault(title, {**_model_columns(entry), "model": title})
            row |= {f"{prefix}/{name}": score.value for name, score in entry.result.metrics.items()}
        for figure in board.published:
            row = rows.setdefault(_title(figure), {"model": _title(figure), "published": figure.row.source})
            row[f"{prefix}/{figure.measured.metric}"] = _value(figure, board)
    return _measured_first(rows.values())


def _long_rows(found: Sequence[Board]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for board in found:
        for entry in board.entries:
            rows += _rows_of(board, entry)
        rows += [_published_row(board, figure) for figure in board.published]
    return _measured_first(rows)


def _measured_first(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda row: "published" in row)


def _titles(found: Sequence[Board]) -> dict[tuple[str, str], str]:
    """Return the name of the row of a label and its weights, which are named where a label has several."""
    weights: dict[str, set[str]] = {}
    for board in found:
        for entry in board.entries:
            weights.setdefault(entry.label, set()).add(entry.result.weights_sha256)
    return {
        (label, one): label if len(all_of_it) == 1 else f"{label} (weights {one[:8]})"
        for label, all_of_it in weights.items()
        for one in all_of_it
    }


def _belongs(figure: Figure, board: Board) -> bool:
    """Return whether a published figure was measured as this board is, all entries of which agree in that."""
    measured, result = figure.measured, board.entries[0].result
    here = measured.protocol.task == board.task and measured.test.is_of(board.dataset)
    return here and not measured_otherwise(result, measured)


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


def _rows_of(board: Board, entry: Entry) -> list[dict[str, object]]:
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
    low, high = score.ci95
    if score.unit == "fraction":
        return f"{score.value * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"
    return f"{score.value:.3f} [{low:.3f}, {high:.3f}]"


def _printed(board: Board) -> Mapping[str, Mapping[str, str]]:
    """Return published figures as they were printed, by title and metric."""
    rows: dict[str, dict[str, str]] = {}
    for figure in board.published:
        title = f"{figure.measured.model}, {figure.row.source}"
        rows.setdefault(title, {})[figure.measured.metric] = figure.row.value
    return rows
