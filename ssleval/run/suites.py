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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssleval.core.packaged import packaged
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, slots=True)
class Measurement:
    """One task on one dataset, by name."""

    task: str
    dataset: str
    settings: Mapping[str, Any]
    margin: float | None = None
    """How much worse a candidate may be in the leading metric; None: the gate's default."""


def list_suites() -> dict[str, str]:
    """Return the packaged suites and their descriptions."""
    files = {file.stem: _content(file) for file in sorted(packaged("benchmarks").glob("*.yaml"))}
    # In a checkout other plans lie beside them.
    suites = {name: content for name, content in files.items() if "measurements" in content}
    return {name: str(content.get("description", "")) for name, content in suites.items()}


def read_suite(name: str) -> list[Measurement]:
    """Return the measurements of a packaged suite, or of a YAML file.

    Raises:
        UnknownNameError: no such suite.
        ConfigError: the file is not a suite.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else packaged("benchmarks") / f"{name}.yaml"
    if not path.exists():
        raise UnknownNameError(f"no suite {name!r}; {suggestion(name, list_suites())}")
    entries = _content(path).get("measurements")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: a suite has a list of `measurements`")
    return [_measurement(path, entry) for entry in entries]


def _measurement(path: Path, entry: Any) -> Measurement:
    known = {"task", "dataset", "settings", "margin"}
    if not isinstance(entry, dict) or not {"task", "dataset"} <= set(entry) <= known:
        raise ConfigError(f"{path}: {entry!r} is not {{task, dataset}} with optional settings and margin")
    margin = entry.get("margin")
    if margin is not None and not (isinstance(margin, int | float) and margin > 0):
        raise ConfigError(f"{path}: margin {margin!r} of {entry['task']}; expected a number above 0")
    settings = dict(entry.get("settings") or {})
    return Measurement(
        str(entry["task"]), str(entry["dataset"]), settings, None if margin is None else float(margin)
    )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a suite is a mapping with `description` and `measurements`")
    return content
