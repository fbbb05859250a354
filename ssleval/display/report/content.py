"""The content of the page as JSON: boards, their rows, and the provenance of every cell."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ssleval import __version__
from ssleval.core import DatasetOptions
from ssleval.core.escape import visible_json
from ssleval.core.files import write_text_atomically
from ssleval.core.heap import cycles_left
from ssleval.core.registry import suggestion
from ssleval.display.report.contrast import contrast
from ssleval.display.report.curves import training_runs
from ssleval.display.report.detail import Details
from ssleval.display.report.drawn import drawn_pictures
from ssleval.display.report.overview import overview
from ssleval.display.report.page import render
from ssleval.display.report.shortpaths import ShortPaths, ShownIds
from ssleval.display.report.thumbnails import thumbnails
from ssleval.errors import UnknownNameError
from ssleval.results import Result, read_all
from ssleval.results.cost import costs
from ssleval.results.curves import panels
from ssleval.results.ranking import Board, Entry, boards
from ssleval.results.remarks import mark, remarks
from ssleval.results.similarity import Similarities, matrix, read_similarities
from ssleval.results.stored import SHARED_FIELDS


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
    detail_mb: float = 2.0
    """Largest size of items and classes, in megabytes; beyond it the page has only the scores of results."""
    datasets: DatasetOptions = field(default_factory=DatasetOptions)


@cycles_left()
def write_report(results: Path, out: Path, options: Options | None = None) -> int:
    """Write the page of all results below ``results``; return their number.

    Raises:
        DataError: there is no results folder; a result, samples, training log or picture cannot be read.
        UnknownNameError: ``options.images`` names a dataset without results.
    """
    options = options or Options()
    measured = read_all(results)
    write_text_atomically(out, render(options.title, content(measured, results, options)))
    return len({result.key for result in measured})


def content(measured: Sequence[Result], results: Path, options: Options) -> str:
    """Return everything the page shows as one JSON object; ``results`` is the folder of the results."""
    details = Details(round(options.detail_mb * 1e6))
    # The ranking reads samples; what is shown of them is packed meanwhile, so that they are read once.
    ranked = boards(measured, details.read)
    entries = [(place, board, entry) for place, board in enumerate(ranked) for entry in board.entries]
    known = sorted({board.dataset for board in ranked})
    for name in options.images:
        if name not in known:
            raise UnknownNameError(
                f"--images {name}: no result is of that dataset; {suggestion(name, known)}"
            )
    models = {entry.result.path.parent.name for _, _, entry in entries if entry.result.path is not None}
    short = ShortPaths([*known, *(entry.result.model for _, _, entry in entries)])
    shown = [_without_folders(board, short) for board in ranked]
    parts = {
        "version": __version__,
        "boards": [_board(*pair, options, details.ids) for pair in zip(ranked, shown, strict=True)],
        "rows": [_row(*entry, details, results, short) for entry in entries],
        "matrix": overview(shown),
        "left_out": details.left_out,
        "curves": [asdict(panel) for panel in panels((), shown)],
        "similarity": [_alike(one, short) for one in read_similarities(results)],
        "runs": [{**run, "name": short(run["name"])} for run in training_runs(options.training)],
        "drawn": {} if options.drawn is None else drawn_pictures(options.drawn, models),
    }
    text = json.dumps(parts, allow_nan=False, separators=(",", ":"))
    return visible_json(f'{text[:-1]},"pool":{details.pool.to_json()}}}')


def _alike(found: Similarities, short: ShortPaths) -> dict[str, Any]:
    rows = [[short(name), *cells] for name, *cells in matrix(found)]
    said = f"{short(found.dataset)} ({found.split}), {found.readout}, {found.images} images, k = {found.k}"
    return {"title": said, "models": [short(name) for name in found.models], "rows": rows}


def _without_folders(board: Board, short: ShortPaths) -> Board:
    entries = tuple(replace(entry, label=short(entry.label)) for entry in board.entries)
    return replace(board, dataset=short(board.dataset), entries=entries)


def _board(board: Board, shown: Board, options: Options, ids: ShownIds) -> dict[str, Any]:
    gap, by_id, class_names = contrast(board), dict[str, str](), tuple[str, ...]()
    if board.dataset in options.images:
        by_id, class_names = thumbnails(board, options.thumbnails, options.datasets)
        by_id = {ids.shown_one(board.dataset, name): picture for name, picture in by_id.items()}
    return {
        "task": board.task,
        "dataset": shown.dataset,
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
    place: int, board: Board, entry: Entry, details: Details, results: Path, short: ShortPaths
) -> dict[str, Any]:
    result, metrics = entry.result, board.entries[0].result.metrics
    return {
        "board": place,
        "label": short(entry.label),
        "model": short(result.model),
        "rank": entry.rank,
        "tied": entry.tied,
        "mark": mark(result),
        "scores": [_numbers(result, name) if name in result.metrics else None for name in metrics],
        "supervision": str(result.backbone.get("supervision") or "unknown"),
        "details": details.of(result),
        "shared": {
            name: details.pool.add_shared(short.shared(getattr(result, name))) for name in SHARED_FIELDS
        },
        "own": {
            "key": result.key,
            "weights_sha256": result.weights_sha256,
            "created": result.created,
            "file": result.path.relative_to(results).as_posix() if result.path else "",
            "notes": {name: short(said) for name in result.metrics if (said := remarks(result, name))},
            "timings": dict(result.timings),
            "cost": dict(result.cost),
        },
    }


def _numbers(result: Result, name: str) -> list[float | int]:
    score = result.metrics[name]
    return [score.value, *score.ci95, score.n]
