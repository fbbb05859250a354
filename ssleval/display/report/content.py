"""The content of the page as JSON: boards, their rows, and the provenance of every cell."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ssleval import __version__
from ssleval.core import DatasetOptions
from ssleval.core.files import write_text_atomically
from ssleval.core.heap import cycles_left
from ssleval.core.registry import suggestion
from ssleval.display.report.contrast import contrast
from ssleval.display.report.cost import costs
from ssleval.display.report.curves import training_runs
from ssleval.display.report.detail import Details
from ssleval.display.report.drawn import drawn_pictures
from ssleval.display.report.page import render
from ssleval.display.report.pool import Pool
from ssleval.display.report.thumbnails import thumbnails
from ssleval.errors import DataError, UnknownNameError
from ssleval.results import Result, read_all
from ssleval.results.ranking import Board, Entry, boards
from ssleval.results.record import SHARED_FIELDS


@dataclass(frozen=True, slots=True)
class Options:
    """What a report shows."""

    title: str = "ssleval report"
    training: tuple[Path, ...] = ()
    """Folders of training runs whose curves are drawn."""
    drawn: Path | None = None
    """Folder of pictures of models, ``MODEL/WHAT.png``."""
    images: tuple[str, ...] = ()
    """Datasets that are opened for class names and for thumbnails of items that models disagree on."""
    thumbnails: int = 48
    """Number of thumbnails for each board of such a dataset."""
    detail_mb: float = 48.0
    """Largest size of items and classes, in megabytes; beyond it the page has only the scores of results."""
    datasets: DatasetOptions = field(default_factory=DatasetOptions)


@cycles_left()
def write_report(results: Path, out: Path, options: Options | None = None) -> int:
    """Write the page of all results below ``results``; return their number.

    Raises:
        DataError: there is no results folder; a result, training log or picture cannot be read; samples are
            missing.
        UnknownNameError: ``options.images`` names a dataset without results.
    """
    options = options or Options()
    ranked, details, pool = boards_and_details(read_all(results), options)
    write_text_atomically(out, render(options.title, content(ranked, details, pool, results, options)))
    return sum(len(board.entries) for board in ranked)


def boards_and_details(results: Sequence[Result], options: Options) -> tuple[list[Board], Details, Pool]:
    """Rank results and pack the details of their items, reading samples once."""
    pool = Pool()
    details = Details(pool, round(options.detail_mb * 1e6))
    return boards(results, details.read), details, pool


def content(ranked: Sequence[Board], details: Details, pool: Pool, results: Path, options: Options) -> str:
    """Return everything the page shows as one JSON object.

    Raises:
        DataError: a result holds a number that is not finite.
        UnknownNameError: ``options.images`` names a dataset without results.
    """
    known = sorted({board.dataset for board in ranked})
    for name in options.images:
        if name not in known:
            raise UnknownNameError(
                f"--images {name}: no result is of that dataset; {suggestion(name, known)}"
            )
    tables = [_board(board, options) for board in ranked]
    rows = [
        _row(place, board, entry, details, pool, results)
        for place, board in enumerate(ranked)
        for entry in board.entries
    ]
    parts = {
        "version": __version__,
        "boards": tables,
        "rows": rows,
        "left_out": details.left_out,
        "runs": training_runs(options.training),
        "drawn": {} if options.drawn is None else drawn_pictures(options.drawn, _folders(ranked)),
    }
    text = json.dumps(parts, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]},"pool":{pool.to_json()}}}'


def _folders(ranked: Sequence[Board]) -> set[str]:
    results = (entry.result for board in ranked for entry in board.entries)
    return {result.path.parent.name for result in results if result.path is not None}


def _board(board: Board, options: Options) -> dict[str, Any]:
    gap, by_id, class_names = contrast(board), dict[str, str](), tuple[str, ...]()
    if board.dataset in options.images:
        by_id, class_names = thumbnails(board, options.thumbnails, options.datasets)
    return {
        "task": board.task,
        "dataset": board.dataset,
        "split": board.split,
        "protocol": board.protocol,
        "metrics": [
            {"name": name, "unit": score.unit, "higher": score.higher_is_better}
            for name, score in board.entries[0].result.metrics.items()
        ],
        "size": len(board.entries),
        "costs": [asdict(cost) for cost in costs(board)],
        "contrast": None if gap is None else asdict(gap),
        "pictures": by_id,
        "class_names": class_names,
    }


def _row(
    place: int, board: Board, entry: Entry, details: Details, pool: Pool, results: Path
) -> dict[str, Any]:
    result, metrics = entry.result, board.entries[0].result.metrics
    try:
        return {
            "board": place,
            "label": entry.label,
            "model": result.model,
            "rank": entry.rank,
            "tied": entry.tied,
            "scores": [_numbers(result, name) if name in result.metrics else None for name in metrics],
            "supervision": str(result.backbone.get("supervision") or "unknown"),
            "details": details.of(result),
            "shared": {name: pool.add_shared(getattr(result, name)) for name in SHARED_FIELDS},
            "own": {
                "key": result.key,
                "weights_sha256": result.weights_sha256,
                "created": result.created,
                "file": result.path.relative_to(results).as_posix() if result.path else "",
                "timings": _finite(result.timings),
                "cost": _finite(result.cost),
            },
        }
    except ValueError as error:
        raise DataError(f"{result.path}: a number that is not finite ({error}); measure it again") from error


def _finite(numbers: Mapping[str, float]) -> dict[str, float]:
    if any(isinstance(number, float) and not isfinite(number) for number in numbers.values()):
        raise ValueError(f"one of {dict(numbers)}")
    return dict(numbers)


def _numbers(result: Result, name: str) -> list[float | int]:
    score = result.metrics[name]
    if not isfinite(score.value + sum(score.ci95)):
        raise DataError(f"{result.path}: {name} is {score.value} {list(score.ci95)}; measure it again")
    return [score.value, *score.ci95, score.n]
