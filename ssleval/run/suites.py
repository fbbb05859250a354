"""Suites: flat YAML lists of measurements that belong together.

```yaml
description: one line
measurements:
  - {task: knn, dataset: digits}
  - {task: knn, dataset: imagenet1k, settings: {temperature: 0.07}}
  - {task: depth, dataset: scenes, margin: 0.02}
```

``margin`` is for `ssleval gate`: how much worse a candidate may be, in the unit of the leading metric.
``average: true`` beside the description: the mean of the leading scores is a score of the suite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ssleval.core import Dataset, DatasetCard, Split, digest
from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.core.settings import Positive, build
from ssleval.core.yamlfile import read_yaml
from ssleval.datasets.catalog import list_datasets
from ssleval.errors import ConfigError, ContractError, UnknownNameError
from ssleval.results import Result
from ssleval.results.ranking import Board
from ssleval.run.settings import build_task


@dataclass(frozen=True, slots=True)
class Measurement:
    """One task on one dataset, by name."""

    task: str
    dataset: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    margin: Positive | None = None
    """How much worse a candidate may be in the leading metric; None: the gate's default."""


@dataclass(frozen=True, slots=True)
class _Suite:
    measurements: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    description: str = ""
    average: bool = False
    """Whether the mean of the leading scores is a score of the suite."""


def list_suites() -> dict[str, str]:
    """Return the packaged suites and their descriptions."""
    files = {file.stem: _content(file) for file in sorted(packaged("benchmarks").glob("*.yaml"))}
    # In a checkout other plans lie beside them.
    suites = {name: content for name, content in files.items() if "measurements" in content}
    return {name: str(content.get("description", "")) for name, content in suites.items()}


def read_suite(name: str) -> list[Measurement]:
    """Return the measurements of a packaged suite, or of a YAML file."""
    return _measurements(*_read(name))


def boards_of(name: str, boards: Sequence[Board]) -> dict[str, list[Board]]:
    """Return the boards that were measured as each line of a suite says, by the name of the line.

    Raises:
        ConfigError: the suite has no average, or two lines have the same task and dataset.
    """
    suite, path = _read(name)
    if not suite.average:
        raise ConfigError(f"{path} has no average; `average: true` says that the mean of its scores is one")
    found: dict[str, list[Board]] = {}
    for line in _measurements(suite, path):
        place = f"{line.task}/{line.dataset}"
        if place in found:
            raise ConfigError(f"{path}: {place} stands twice, and would count twice in the average")
        found[place] = [board for board in boards if _is_of(line, board.entries[0].result)]
    return found


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


def _read(name: str) -> tuple[_Suite, Path]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else packaged("benchmarks") / f"{name}.yaml"
    if not path.exists():
        raise UnknownNameError(f"no suite {name!r}; {suggestion(name, list_suites())}")
    return build(_Suite, _content(path), str(path)), path


def _measurements(suite: _Suite, path: Path) -> list[Measurement]:
    lines = enumerate(suite.measurements, start=1)
    return [build(Measurement, line, f"{path}: measurement {n}") for n, line in lines]


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a suite is a mapping with `description` and `measurements`")
    return content
