"""Settings: types and bounds stand at the field, and one place checks them.

A class of settings is a dataclass whose annotations say what a field may hold::

    k: Count = 20
    temperature: Positive = 0.07

`check` refuses an instance with other values. `build` makes one of what a file, a command line or a caller
states, and reads texts by the type of their field. Both are msgspec's conversion, plus finite numbers,
different entries and the nearest name.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError

S = TypeVar("S")

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Depth: TypeAlias = Annotated[int, Meta(ge=1, le=1_000)]
Side: TypeAlias = Annotated[int, Meta(ge=1, le=8_192)]
"""Pixels or patches along a side of a model's native image."""
Width: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 20)]
"""Channels. These three bound what a file may declare about a model, well above all that is published."""
Several: TypeAlias = Annotated[int, Meta(ge=2)]
Natural: TypeAlias = Annotated[int, Meta(ge=0)]
Seed: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""What NumPy and torch both take as a seed."""
Positive: TypeAlias = Annotated[float, Meta(gt=0)]
NonNegative: TypeAlias = Annotated[float, Meta(ge=0)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
OpenFraction: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]
ProperFraction: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
Different = Meta(extra={"distinct": True})
"""Marks a tuple whose entries differ; it may be empty."""
Distinct = Meta(min_length=1, extra={"distinct": True})
"""Marks a tuple whose entries differ, and that has some: ``Annotated[tuple[str, ...], Distinct]``."""
Counts: TypeAlias = Annotated[tuple[Count, ...], Distinct]
Positives: TypeAlias = Annotated[tuple[Positive, ...], Distinct]
Thresholds: TypeAlias = Annotated[tuple[Positive, ...], Different]
Pair: TypeAlias = Annotated[tuple[Positive, ...], Meta(min_length=2, max_length=2)]

_WHERE = re.compile(r" - at `.*`$")
_WHOLE = re.compile(r"\.0$")
_WORDS = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list", "str": "a text",
    "object": "a mapping",
}  # fmt: skip
"""What msgspec calls types, and what messages call them."""


def check(settings: object, owner: str) -> None:
    """Refuse a dataclass instance with a value that its field cannot take; lists become tuples.

    ``owner`` is what the message of the ConfigError calls it: the name of a task, of a section.
    """
    for name, hint in _hints(type(settings)).items():
        value = getattr(settings, name)
        converted = convert(f"{owner}.{name}", value, hint)
        if converted != value:
            object.__setattr__(settings, name, converted)


def build(kind: type[S], stated: Mapping[str, Any], owner: str) -> S:
    """Return an instance of ``kind`` with the values ``stated`` in place of its defaults.

    Raises:
        UnknownNameError: there is no such field; the message offers the nearest.
        ConfigError: a value that its field cannot take, or a field without default that is not stated.
    """
    values = _read(kind, stated, owner)
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        required = field.default is MISSING and field.default_factory is MISSING and field.init
        if required and field.name not in values:
            raise ConfigError(f"{owner} states no {field.name}; known: {', '.join(_hints(kind))}")
    return kind(**values)


def updated(settings: S, stated: Mapping[str, Any], owner: str) -> S:
    """Return ``settings`` with the values ``stated`` in place of its own; errors as in `build`."""
    return replace(settings, **_read(type(settings), stated, owner))  # pyright: ignore[reportArgumentType, reportUnknownVariableType]


def convert(where: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type ``hint``; a text is read: numbers, true or false, comma lists.

    Where it cannot be one, the message of the ConfigError begins with ``where``.
    """
    read = value
    if isinstance(value, str) and get_origin(_bare(hint)) is tuple:
        read = [part.strip() for part in value.split(",") if part.strip()]
    try:
        converted = msgspec.convert(read, hint, strict=not _has_text(read), dec_hook=_as_is)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}={_shown(value)}: {_reason(str(error), read, hint)}") from error
    if not _finite(converted):
        raise ConfigError(f"{where}={_shown(value)}: expected finite numbers")
    distinct = any(mark in (Different, Distinct) for mark in getattr(hint, "__metadata__", ()))
    if distinct and len(set(converted)) < len(converted):
        raise ConfigError(f"{where}={_shown(value)}: expected different entries")
    return converted


def _read(kind: type, stated: Mapping[str, Any], owner: str) -> dict[str, Any]:
    hints = _hints(kind)
    for name in stated:
        if name not in hints:
            raise UnknownNameError(f"{owner} has no setting {name!r}; {suggestion(str(name), hints)}")
    return {name: convert(f"{owner}.{name}", value, hints[name]) for name, value in stated.items()}


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _has_text(value: Any) -> bool:
    # YAML reads 1e-1 as a text, so that a list of numbers may hold some.
    return isinstance(value, str) or (isinstance(value, list) and any(map(_has_text, value)))


def _as_is(kind: type, value: Any) -> Any:
    # What msgspec has no reader for: instances of other classes, and paths.
    if kind is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_finite(part) for part in value)
    return not isinstance(value, float) or isfinite(value)


def _reason(message: str, value: Any, hint: Any) -> str:
    """Return msgspec's reason in the words of the message it ends up in."""
    if get_origin(_bare(hint)) is Literal:
        return suggestion(str(value), map(str, get_args(_bare(hint))))
    words = [word for part in get_args(hint) if get_origin(part) is Literal for word in get_args(part)]
    if words and message.startswith("Invalid enum"):
        return f"expected a number or {' or '.join(map(str, words))}"
    text = _WHERE.sub("", message).replace("`", "")
    for theirs, plain in _WORDS.items():
        text = text.replace(f"Expected {theirs}", f"expected {plain}")
    return _WHOLE.sub("", text.partition(", got")[0]).replace(" | null", " or none")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
