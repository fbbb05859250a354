"""Which boards are those of a suite."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields

from ssleval.core import BackboneCard, Dataset, DatasetCard, Split, digest
from ssleval.core.settings import updated
from ssleval.datasets.catalog import list_datasets
from ssleval.errors import ConfigError, ContractError, NotApplicableError
from ssleval.results import Result
from ssleval.results.ranking import Board
from ssleval.run.settings import build_task
from ssleval.run.suites import Measurement, read_lines

_MODEL = [one.name for one in fields(BackboneCard)]


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
    known["domains"] = tuple(known.get("domains", ()))
    card, published = DatasetCard(**known), list_datasets().get(line.dataset)
    if isinstance(published, DatasetCard) and published.test_split != card.test_split:
        return False
    # What a task leaves to the data is filled in as it was when it ran; no image is opened.
    recorded = Dataset(card, _unopened, lambda: recorded)
    try:
        return _agrees(line, result, recorded)
    except (ConfigError, NotApplicableError):
        # Of a model that the line is not for, or of a card that no model here has.
        return False


def _agrees(line: Measurement, result: Result, recorded: Dataset) -> bool:
    stated = {name: result.backbone[name] for name in _MODEL if name in result.backbone}
    model = updated(BackboneCard(result.model, "", "", 1, 1), stated, f"{result.model}: card")
    task, usual = (build_task(line.task, settings).resolved(recorded) for settings in (line.settings, {}))
    task = task.for_model(recorded, model)
    with suppress(NotApplicableError):
        usual = usual.for_model(recorded, model)
    asked = {**task.recorded(), "version": task.version}
    # What older results do not record was as it is by default.
    older = {name: value for name, value in usual.recorded().items() if name in asked}
    return digest(asked) == digest({**older, **result.protocol})


def _unopened(split: str) -> Split:
    raise ContractError(f"split {split} of what a result records")
