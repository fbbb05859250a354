"""What a file of a result may hold: the checks between its bytes and a `Result`. Imports no torch.

A file is bounded in size before it is opened, and in depth before anything follows it. Every field that some
command reads has its type; numbers are finite; no field is given twice. Fields that results share are parsed
and checked once and held once.
"""

import json
import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import msgspec
from msgspec import Meta

from ssleval.core.settings import Count

SCHEMA = 1
"""Raised only when a field changes its meaning."""
MOST_BYTES = 16_000_000
"""A result has about 5,000 bytes, and 60 more for every image that was left out."""
_ROUNDING = 1e-6
_DEEPEST = 8
"""Lists and mappings within each other, in one field."""


class _Statistic(TypedDict, total=False):
    name: str
    columns: dict[str, str]


class _Score(TypedDict, total=False):
    value: Required[float]
    ci95: Required[tuple[float, float]]
    n: Required[Count]
    unit: str
    higher_is_better: bool
    statistic: _Statistic
    note: str


class _Leaks(TypedDict, total=False):
    dropped: Required[int]
    metrics: Required[dict[str, _Score]]
    model: str
    train: str
    threshold: float
    false_alarms: dict[str, Any]
    file_sha256: str


class _Own(TypedDict, total=False):
    model: Required[str]
    task: Required[str]
    dataset: Required[str]
    key: Required[str]
    weights_sha256: Required[str]
    metrics: Required[Annotated[dict[str, _Score], Meta(min_length=1)]]
    leaks: _Leaks
    samples_sha256: str
    timings: dict[str, float]
    cost: dict[str, float]
    created: str
    schema: Required[Count]


class _Backbone(TypedDict, total=False):
    supervision: str
    family: str
    parameters: float | None
    image_size: int | None
    loader: str
    weights: dict[str, str]


class _Data(TypedDict, total=False):
    name: str
    test_split: Required[str]
    fingerprints: Required[dict[str, str]]


class _Settings(TypedDict, total=False):
    precision: str
    seed: int
    limit: int | None
    skip_corrupt: bool
    pixels: str


_SHARED: Mapping[str, Any] = {
    "protocol": dict[str, Any], "backbone": _Backbone, "data": _Data, "settings": _Settings,
    "skipped": dict[str, list[str]], "versions": dict[str, str], "hardware": dict[str, str],
}  # fmt: skip
SHARED_FIELDS = tuple(_SHARED)
"""Fields that are word for word the same in many results."""
_NEEDED = ("protocol", "backbone", "data", "settings")
_FIELD = re.compile(r'\n "(\w+)": ')
"""The start of a top-level field in a file that `record.write` indented; nested ones are indented deeper."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most ``most`` bytes.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is something else, which might never end, or is larger.
    """
    # Opening a FIFO would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        if status.st_size > most:
            raise ValueError(f"{status.st_size:,} bytes, more than {most:,}")
        return file.readall()


def fields_in(content: bytes) -> dict[str, Any]:
    """Return the checked fields of a result; ``metrics`` are plain dictionaries. Unknown ones are left out.

    Raises:
        ValueError: it is no result, or of a newer schema; the message says what is wrong.
    """
    try:
        text = content.decode()
        try:
            return _checked(*_by_indent(text))
        except json.JSONDecodeError:
            # Indented otherwise, or broken: then the position in the error counts from the start of the file.
            return _checked(*_whole(text))
    except msgspec.ValidationError as error:
        raise ValueError(_plain(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def fault_of(value: float, ci95: tuple[float, float], unit: str, *, higher_is_better: bool) -> str:
    """Return what is wrong with a score, '' if nothing is. Fractions to be raised lie in [0, 1].

    A fraction to be lowered may be a drop, which can be negative, or relative to a baseline, beyond 1. The
    interval of a statistic whose bounds are not known may leave [0, 1].
    """
    shown = f"{value} [{ci95[0]}, {ci95[1]}]"
    if not all(map(isfinite, (value, *ci95))):
        return f"{shown}, which is not finite"
    if ci95[0] > ci95[1]:
        return f"{shown}, whose interval ends before it begins"
    if unit == "fraction" and higher_is_better and not -_ROUNDING <= value <= 1 + _ROUNDING:
        return f"{shown}, which is no fraction between 0 and 1"
    return ""


def _by_indent(text: str) -> tuple[Any, dict[str, str]]:
    """Return the parsed fields of one result, and the texts of those that results share."""
    start, *parts = _FIELD.split(text.rstrip().removesuffix("}"))
    texts = dict(zip(parts[::2], (part.rstrip().removesuffix(",") for part in parts[1::2]), strict=True))
    if start != "{" or not text.rstrip().endswith("}") or 2 * len(texts) < len(parts):
        raise json.JSONDecodeError("not as it is written", text, 0)
    shared = {name: texts.pop(name) for name in SHARED_FIELDS if name in texts}
    return _parsed("{" + ",".join([f'"{name}":{part}' for name, part in texts.items()]) + "}"), shared


def _whole(text: str) -> tuple[Any, dict[str, str]]:
    fields = _parsed(text)
    if not isinstance(fields, dict):
        raise ValueError("no mapping of fields")  # noqa: TRY004 - of the file, not of an argument
    return fields, {name: json.dumps(fields.pop(name)) for name in SHARED_FIELDS if name in fields}


def _checked(own: dict[str, Any], shared: Mapping[str, str]) -> dict[str, Any]:
    schema = own.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"schema {schema}, this ssleval reads up to {SCHEMA}; upgrade it")
    for name in _NEEDED:
        if name not in shared:
            raise ValueError(f"the field {name} is missing")
    fields = msgspec.convert(own, _Own)
    for name, deepest in (("timings", 1), ("cost", 1), ("leaks", _DEEPEST)):
        _refuse_deep_or_infinite(fields.get(name), deepest)
    return {**fields, **{name: _shared(name, text) for name, text in shared.items()}}


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).replace("`", "").replace("Object missing required field", "missing")


@lru_cache(maxsize=4096)
def _shared(name: str, text: str) -> Any:
    value = _parsed(text)
    _refuse_deep_or_infinite(value, _DEEPEST)
    try:
        msgspec.convert(value, _SHARED[name])
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {_plain(error)}") from error
    return value


def _refuse_deep_or_infinite(value: Any, left: int) -> None:
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{value} is no finite number")
    if not isinstance(value, dict | list):
        return
    if not left:
        raise ValueError("nested too deeply")
    for part in value.values() if isinstance(value, dict) else value:
        _refuse_deep_or_infinite(part, left - 1)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return fields


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no finite number")


_parsed = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_number).decode
