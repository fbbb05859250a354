"""Boards as tables: Markdown for people, wide and long CSV for programs. Imports no torch.

Published figures are added on request. They stand below the measured results of the board with their
protocol, name their source, and have no rank.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssleval.core.escape import csv_cell, markdown_cell, markdown_table
from ssleval.core.files import write_text_atomically
from ssleval.core.text import some
from ssleval.results.numbers import scale
from ssleval.results.papers import Figure
from ssleval.results.ranking import Board, Entry
from ssleval.results.record import Result
from ssleval.results.remarks import mark, remarks
from ssleval.results.verify import measured_otherwise


def with_published(boards: Iterable[Board], figures: Sequence[Figure]) -> list[Board]:
    """Return the boards, each with the published figures of its task, data, split and settings."""
    return [replace(board, published=tuple(f for f in figures if _belongs(f, board))) for board in boards]


def records(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return the rows of `long_rows` for JSON: every row has every column, and missing values are None."""
    rows = long_rows(boards)
    names = _columns(rows)
    return [{name: None if _is_nan(row.get(name)) else row.get(name) for name in names} for row in rows]


def markdown(boards: Sequence[Board]) -> str:
    """Return one Markdown table per board, best model first."""
    return "\n".join(_markdown(board) for board in boards)


def write_tables(boards: Sequence[Board], folder: Path) -> list[Path]:
    """Write ``leaderboard.csv``, ``leaderboard_long.csv`` and ``leaderboard.md`` into ``folder``."""
    texts = {**csv_tables(boards), "leaderboard.md": markdown(boards)}
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    return [folder / name for name in texts]


def csv_tables(boards: Sequence[Board]) -> dict[str, str]:
    """Return the files ``leaderboard.csv`` and ``leaderboard_long.csv``."""
    rows = {"leaderboard": wide_rows(boards), "leaderboard_long": long_rows(boards)}
    return {f"{name}.csv": csv_text(own) for name, own in rows.items()}


def wide_rows(boards: Sequence[Board]) -> list[dict[str, object]]:
    """Return one row per model, with a column per board and metric; published sources have their own rows."""
    rows: dict[str, dict[str, object]] = {}
    title_of = titles(boards)
    for prefix, board in zip(columns(boards), boards, strict=True):
        for entry in board.entries:
            title = title_of[entry.label, entry.result.weights_sha256]
            row = rows.setdefault(title, {**_model_columns(entry), "model": title})
            row |= {f"{prefix}/{name}": score.value for name, score in entry.result.metrics.items()}
        for figure in board.published:
            title = _published_title(figure)
            row = rows.setdefault(title, {"model": title, "published": figure.row.source})
            unit = board.entries[0].result.metrics[figure.measured.metric].unit
            row[f"{prefix}/{figure.measured.metric}"] = figure.value / scale(unit)
    return _measured_first(rows.values())


def long_rows(boards: Sequence[Board]) -> list[dict[str, object]]:
    """Return one row per model, board and metric, with interval, rank and provenance.

    Published figures have rows of their own, with their source in a column ``published``.
    """
    return _measured_first(row for board in boards for row in _board_rows(board))


def _board_rows(board: Board) -> Iterator[dict[str, object]]:
    place = {name: getattr(board, name) for name in ("task", "dataset", "split", "protocol")}
    for entry in board.entries:
        result = entry.result
        for name, score in result.metrics.items():
            ranks = name == board.headline
            yield {
                **_model_columns(entry),
                **place,
                "metric": name,
                "value": score.value,
                "ci95_low": score.ci95[0],
                "ci95_high": score.ci95[1],
                "n": score.n,
                "unit": score.unit,
                "rank": entry.rank if ranks else None,
                "tied": entry.tied if ranks else None,
                **{setting: result.settings.get(setting) for setting in ("precision", "seed", "limit")},
                "weights_sha256": result.weights_sha256,
                "key": result.key,
                **({"note": said} if (said := remarks(result, name)) else {}),
            }
    for figure in board.published:
        metric = figure.measured.metric
        unit = board.entries[0].result.metrics[metric].unit
        cells = {"metric": metric, "value": figure.value / scale(unit), "unit": unit}
        yield {"model": _published_title(figure), **place, **cells, "published": figure.row.source}


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV, with every column that some row has."""
    # By hand: importing pandas takes as long as writing some thousand rows.
    names, file = _columns(rows), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in names])
    writer.writerows([_csv_cell(row.get(name)) for name in names] for row in rows)
    return file.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, str):
        return csv_cell(value)
    if not isinstance(value, float):
        return value
    return "" if _is_nan(value) else f"{value:.6g}"


def _is_nan(value: object) -> bool:
    return value != value  # noqa: PLR0124 - only NaN differs from itself


def _columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for names in dict.fromkeys(map(tuple, rows)) for name in names))


def _measured_first(rows: Iterable[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda row: "published" in row)


def columns(boards: Sequence[Board]) -> list[str]:
    """Return the name of every board; of several with one name, with the digest of their protocol."""
    repeats = Counter(board.name for board in boards)
    return [board.name if repeats[board.name] == 1 else f"{board.name}#{board.protocol}" for board in boards]


def titles(boards: Sequence[Board]) -> dict[tuple[str, str], str]:
    """Return the title of the row for every label and weights; it names weights where a label has several."""
    pairs = {(entry.label, entry.result.weights_sha256) for board in boards for entry in board.entries}
    checkpoints = Counter(label for label, _ in pairs)
    return {
        (label, sha256): label if checkpoints[label] == 1 else f"{label} (weights {sha256[:8]})"
        for label, sha256 in pairs
    }


def _belongs(figure: Figure, board: Board) -> bool:
    # The entries of a board agree in how they were measured, so the first speaks for all.
    measured = figure.measured
    same = measured.protocol.task == board.task and measured.test.is_of(board.dataset)
    return same and not measured_otherwise(board.entries[0].result, measured)


def _published_title(figure: Figure) -> str:
    return f"{figure.measured.model} (published, {figure.row.source})"


def _model_columns(entry: Entry) -> dict[str, object]:
    card = entry.result.backbone
    return {
        "model": entry.label,
        "supervision": card.get("supervision"),
        "param_count": card.get("parameters"),
        "img_size": card.get("image_size"),
    }


def _markdown(board: Board) -> str:
    metrics = board.entries[0].result.metrics
    name, split, n = markdown_cell(board.name), markdown_cell(board.split), metrics[board.headline].n
    rows = [
        [
            f"{'=' if entry.tied else ''}{entry.rank}",
            markdown_cell(entry.label),
            *(marked_score(entry.result, name) for name in metrics),
        ]
        for entry in board.entries
    ]
    for title, printed in _printed(board).items():
        cells = (markdown_cell(printed.get(name, "")) for name in metrics)
        rows.append(["published", f"*{markdown_cell(title)}*", *cells])
    head = f"### {name} ({split}, n = {n}, protocol {board.protocol})"
    table = markdown_table(["rank", "model", *map(markdown_cell, metrics)], rows, texts={1})
    return "\n".join([head, "", table, *_notes(board)]) + "\n"


def _notes(board: Board) -> list[str]:
    """Return the lines below a table that hold the notes of its scores, each once with its models."""
    models: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in board.entries:
        by_note: dict[str, list[str]] = defaultdict(list)
        for name in entry.result.metrics:
            by_note[" ".join(remarks(entry.result, name).split())].append(name)
        for note, names in by_note.items():
            models[note, ", ".join(names)].append(entry.label)
    lines = [
        f"- {markdown_cell(f'{names} of {some(labels)}: {note}')}"
        for (note, names), labels in models.items()
        if note
    ]
    return ["", *lines] if lines else []


def marked_score(result: Result, name: str) -> str:
    """Return one score with interval and mark; '' where the result has none of that name."""
    score = result.metrics.get(name)
    return "" if score is None else score.shown + mark(result)


def _printed(board: Board) -> Mapping[str, Mapping[str, str]]:
    """Return published figures as they were printed, by title and metric."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for figure in board.published:
        rows[f"{figure.measured.model}, {figure.row.source}"][figure.measured.metric] = figure.row.value
    return rows
