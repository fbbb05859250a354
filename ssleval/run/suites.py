"""Suites: flat YAML lists of measurements that belong together.

```yaml
description: one line
measurements:
  - {task: knn, dataset: digits}
  - {task: knn, dataset: imagenet1k, settings: {temperature: 0.07}}
  - {task: depth, dataset: scenes, margin: 0.02}
```

``margin`` is for `ssleval gate`: how much worse a candidate may be, in the unit of the leading metric.
``average: true`` beside the description: the mean of the leading scores is a score of the suite; where lines
state a ``group``, the mean of the groups' means.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.core.settings import Positive, build
from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Measurement:
    """One task on one dataset, by name."""

    task: str
    dataset: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    margin: Positive | None = None
    """How much worse a candidate may be in the leading metric; None: the gate's default."""
    group: str = ""
    """Whose mean is formed first where the suite has an average: all lines name one, or none does."""


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


def read_lines(name: str) -> tuple[dict[str, Measurement], bool]:
    """Return the measurements of a suite by ``TASK/DATASET``, and whether their mean is a score.

    A line of the same task and data as one before it has its number behind its name.

    Raises:
        ConfigError: two lines of a suite with an average have the same task and dataset, or some have a group
            and others none.
    """
    suite, path = _read(name)
    found: dict[str, Measurement] = {}
    for number, line in enumerate(_measurements(suite, path), 1):
        place = f"{line.task}/{line.dataset}"
        if place in found and suite.average:
            raise ConfigError(f"{path}: {place} stands twice, and would count twice in the average")
        found[f"{place}#{number}" if place in found else place] = line
    sizes = Counter(line.group for line in found.values())
    if suite.average and len(sizes) > 1 and ("" in sizes or min(sizes.values()) < 2):
        raise ConfigError(f"{path}: every line of an average by groups names its group, of two lines or more")
    return found, suite.average


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
