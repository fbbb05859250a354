"""Suites: flat YAML lists of measurements that belong together.

```yaml
description: one line
measurements:
  - {task: knn, dataset: digits}
  - {task: knn, dataset: imagenet1k, settings: {temperature: 0.07}}
  - {task: depth, dataset: scenes, margin: 0.02}
```

``margin`` is for `ssleval gate`: how much worse a candidate may be, in the unit of the leading metric.
"""

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


@dataclass(frozen=True, slots=True)
class _Suite:
    measurements: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1)]
    description: str = ""


def list_suites() -> dict[str, str]:
    """Return the packaged suites and their descriptions."""
    files = {file.stem: _content(file) for file in sorted(packaged("benchmarks").glob("*.yaml"))}
    # In a checkout other plans lie beside them.
    suites = {name: content for name, content in files.items() if "measurements" in content}
    return {name: str(content.get("description", "")) for name, content in suites.items()}


def read_suite(name: str) -> list[Measurement]:
    """Return the measurements of a packaged suite, or of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else packaged("benchmarks") / f"{name}.yaml"
    if not path.exists():
        raise UnknownNameError(f"no suite {name!r}; {suggestion(name, list_suites())}")
    lines = build(_Suite, _content(path), str(path)).measurements
    return [build(Measurement, line, f"{path}: measurement {n}") for n, line in enumerate(lines, start=1)]


def _content(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a suite is a mapping with `description` and `measurements`")
    return content
