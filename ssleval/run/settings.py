"""Build tasks, and change their settings by name: the one place that reads ``--set TASK.FIELD=VALUE``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssleval.core.registry import suggestion
from ssleval.core.task import Task, tasks
from ssleval.errors import ConfigError, UnknownNameError


def build_task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Return the task called ``name`` with ``settings`` in place of its defaults.

    Text values are read as the type of their field: numbers, true/false, comma lists.

    Raises:
        UnknownNameError: no such task or no such field.
        ConfigError: a value its field cannot take.
    """
    kind = tasks.get(name)
    hints = get_type_hints(kind)
    known = [one.name for one in fields(kind)]  # pyright: ignore[reportArgumentType]
    values: dict[str, Any] = {}
    for field, value in (settings or {}).items():
        if field not in known:
            raise UnknownNameError(f"task {name!r} has no setting {field!r}; {suggestion(field, known)}")
        values[field] = (
            read_value(f"{name}.{field}", value, hints[field]) if isinstance(value, str) else value
        )
    return kind(**{field: tuple(v) if isinstance(v, list) else v for field, v in values.items()})


def parse_settings(settings: Iterable[str]) -> dict[str, dict[str, str]]:
    """Split ``TASK.FIELD=VALUE`` texts into a mapping of task to fields.

    Raises:
        ConfigError: a text of another form.
    """
    found: dict[str, dict[str, str]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        task, dot, field = name.partition(".")
        if not (equals and dot and task and field):
            raise ConfigError(f"--set {setting}: expected TASK.FIELD=VALUE, such as knn.temperature=0.1")
        found.setdefault(task.strip(), {})[field.strip().replace("-", "_")] = value.strip()
    return found


def read_value(name: str, text: str, hint: Any) -> Any:
    """Return ``text`` as a value of the type ``hint``; ``name`` is for the message.

    Raises:
        ConfigError: it is none.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if text not in arguments:
            raise ConfigError(f"{name}={text}: {suggestion(text, arguments)}")
        return text
    if origin is tuple:
        return tuple(read_value(name, part.strip(), arguments[0]) for part in text.split(",") if part.strip())
    readers: dict[Any, Callable[[str], Any]] = {bool: _truth, int: int, float: float, str: str}
    try:
        return readers[hint](text)
    except ValueError as error:
        raise ConfigError(f"{name}={text}: expected {hint.__name__}") from error


def _truth(text: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]
