"""Which boards are those of a suite."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from ssleval.core import Dataset, DatasetCard, Split, digest
from ssleval.datasets.catalog import list_datasets
from ssleval.errors import ContractError
from ssleval.results import Result
from ssleval.results.ranking import Board
from ssleval.run.settings import build_task
from ssleval.run.suites import Measurement, read_lines


def boards_of(name: str, boards: Sequence[Board]) -> tuple[dict[str, list[Board]], bool]:
    """Return the boards that were measured as each line of a suite says, and whether it has an average.

    Raises:
        ConfigError: as `read_lines`.
    """
    lines, averaged = read_lines(name)
    found = {
        place: [board for board in boards if _is_of(line, board.entries[0].result)]
        for place, line in lines.items()
    }
    return found, averaged


def _is_of(line: Measurement, result: Result) -> bool:
    """Return whether a result was measured as a line says: its task, data, usual split and every setting."""
    if (line.task, line.dataset) != (result.task, result.dataset):
        return False
    known = {one.name: result.data[one.name] for one in fields(DatasetCard) if one.name in result.data}
    card, published = DatasetCard(**known), list_datasets().get(line.dataset)
    if isinstance(published, DatasetCard) and published.test_split != card.test_split:
        return False
    # What a task leaves to the data is filled in as it was when it ran; no image is opened.
    recorded = Dataset(card, _unopened, lambda: recorded)
    task = build_task(line.task, line.settings).resolved(recorded)
    asked: dict[str, Any] = {**asdict(task), "version": task.version}  # pyright: ignore[reportArgumentType]
    # What older results do not record was as it is by default.
    usual = asdict(build_task(line.task).resolved(recorded))  # pyright: ignore[reportArgumentType]
    return digest(asked) == digest({**usual, **result.protocol})


def _unopened(split: str) -> Split:
    raise ContractError(f"split {split} of what a result records")
