"""Tasks by name, with settings in place of their defaults, and the texts of ``--set TASK.FIELD=VALUE``."""

from collections.abc import Iterable, Mapping
from typing import Any

from ssleval.core.faults import faults_of, is_foreign
from ssleval.core.settings import build
from ssleval.core.task import Task, tasks
from ssleval.errors import ConfigError


def build_task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Return the task called ``name`` with ``settings`` in place of its defaults; errors as in `build`."""
    kind = tasks.get(name)
    with faults_of(f"task {name!r}", foreign=is_foreign(kind)):
        return build(kind, settings or {}, name)


def parse_settings(settings: Iterable[str]) -> dict[str, dict[str, str]]:
    """Split ``TASK.FIELD=VALUE`` texts into a mapping of task to fields."""
    parsed: dict[str, dict[str, str]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        task, dot, field = name.partition(".")
        if not (equals and dot and task and field):
            raise ConfigError(f"--set {setting}: expected TASK.FIELD=VALUE, such as knn.temperature=0.1")
        parsed.setdefault(task.strip(), {})[field.strip().replace("-", "_")] = value.strip()
    return parsed
