"""Tables of images as CSV or as JSON Lines, with one label or several, and the targets they give.

The column ``label`` holds the one label of an image. The column ``labels`` holds any number of them: in JSON
Lines a list of texts, in CSV texts between semicolons, nothing where an image shows no class. The column
``ignored``, in the same form, may name classes that the image counts neither way for.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from ssleval.core.text import some
from ssleval.errors import DataError

MANY, UNSURE = "labels", "ignored"
_LONGEST_LINE = 1_000_000


class Stated(NamedTuple):
    """What a table says of one image."""

    labels: tuple[str, ...]
    ignored: tuple[str, ...] = ()


def is_multilabel(table: Path, owner: str) -> bool:
    """Return whether a table has the column ``labels``; DataError: unreadable, or ``label`` too."""
    if not table.is_file():
        raise DataError(f"{owner}:{table}: no such file")
    if _is_json(table):
        names = set(next(_json_rows(table, owner), ("", {}))[1])
    else:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            names = set(next(csv.reader(file), []))
    if {"label", MANY} <= names:
        raise DataError(f"{owner}:{table}: columns label and {MANY}; keep the one that is meant")
    return MANY in names


def read_labels(
    table: Path, owner: str, columns: Sequence[str], *, many: bool
) -> Iterator[tuple[str, list[str], Stated]]:
    """Yield the place of every row as messages state it, its texts in ``columns``, and its labels.

    Raises:
        DataError: a value is missing, of another type, or no list of distinct labels.
    """
    rows = _rows(table, owner, columns if many else (*columns, "label"), (MANY, UNSURE) if many else ())
    known: dict[Stated, Stated] = {}
    for place, values in rows:
        stated = (
            Stated((values["label"].strip(),))
            if not many
            else Stated(_distinct(place, MANY, values[MANY]), _distinct(place, UNSURE, values[UNSURE]))
        )
        if both := set(stated.labels) & set(stated.ignored):
            raise DataError(
                f"{place}: {some(sorted(both))} in {MANY} and in {UNSURE}; an image has one of them"
            )
        # One object for all rows that say the same: a million rows have few kinds.
        yield place, [values[name] for name in columns], known.setdefault(stated, stated)


def read_texts(table: Path, owner: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the place of every row of a table as messages state it, and its texts in ``columns``.

    Raises:
        DataError: there is no such table, or a value is missing or no text.
    """
    for place, values in _rows(table, owner, columns, ()):
        yield place, [values[name] for name in columns]


def class_names(owner: str, labels: Mapping[str, Sequence[Stated]]) -> tuple[str, ...]:
    """Return the labels of the split ``train``, sorted; DataError: another split names others, or none is."""
    names = sorted({name for stated in labels["train"] for name in stated.labels})
    named = {name for split in labels.values() for stated in split for part in stated for name in part}
    if unknown := sorted(named - set(names)):
        raise DataError(f"{owner}: labels absent from train: {some(unknown)}; add them")
    if not names:
        raise DataError(f"{owner}: no image of train has a label")
    return tuple(names)


def targets_of(labels: Sequence[Stated], names: Sequence[str], *, many: bool) -> Shaped[np.ndarray, "n ..."]:
    """Return labels ``[n]``, or whether an image has each ``[n c]``: int8 with -1 where some are ignored."""
    number = {name: place for place, name in enumerate(names)}
    if not many:
        return np.array([number[stated.labels[0]] for stated in labels])
    targets = np.zeros((len(labels), len(names)), np.int8)
    for row, stated in enumerate(labels):
        targets[row, [number[name] for name in stated.labels]] = 1
        targets[row, [number[name] for name in stated.ignored]] = -1
    return targets if (targets < 0).any() else targets.astype(bool)


def refuse_untrained(owner: str, labels: Mapping[str, Int[np.ndarray, " _"]]) -> None:
    """Refuse labels that no item of the split ``train`` has: nothing fitted there could ever give them."""
    known = np.unique(labels["train"])
    for split, stated in labels.items():
        absent = np.setdiff1d(stated, known)
        if len(absent):
            shown = ", ".join(map(str, absent[:5].tolist()))
            raise DataError(
                f"{owner}: classes of {split} absent from train: {shown}; add them, or leave them out"
            )


def _is_json(table: Path) -> bool:
    return table.suffix.lower() in {".jsonl", ".ndjson"}


def _rows(
    table: Path, owner: str, columns: Sequence[str], lists: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place of every row, with the texts in ``columns``, which must have some, and ``lists``."""
    if not table.is_file():
        raise DataError(f"{owner}:{table}: no such file")
    yield from (_json_rows_of if _is_json(table) else _csv_rows_of)(table, owner, columns, lists)


def _csv_rows_of(
    table: Path, owner: str, columns: Sequence[str], lists: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    name, needed = f"{owner}:{table}", " and ".join([*filter(None, [", ".join(columns[:-1])]), columns[-1]])
    try:
        # utf-8-sig: spreadsheets write a byte-order mark, which would hide the first column's name.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            if missing := [column for column in columns if column not in header]:
                raise DataError(f"{name}: no column {', '.join(missing)}; it needs {needed}")
            if twice := [column for column in (*columns, *lists) if header.count(column) > 1]:
                raise DataError(f"{name}: two columns {twice[0]}; keep one of them")
            for row in reader:
                place = f"{name}: line {reader.line_num}"
                if None in row:
                    raise DataError(f"{place}: more values than columns; quote those that hold commas")
                if not all(row[column] and row[column].strip() for column in columns):
                    raise DataError(f"{place}: {needed} must not be empty")
                yield place, row | {column: _listed(place, column, row.get(column)) for column in lists}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: not a CSV file in UTF-8 ({error})") from error


def _listed(place: str, column: str, stated: str | None) -> list[str]:
    text = (stated or "").strip()
    if "," in text or "|" in text or text.startswith("["):
        raise DataError(f"{place}: {column} {text[:80]!r}; write semicolons between labels, as in cat;dog")
    return text.split(";") if text else []


def _json_rows_of(
    table: Path, owner: str, columns: Sequence[str], lists: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, row in _json_rows(table, owner):
        for name in columns:
            if not (isinstance(row.get(name), str) and row[name].strip()):
                raise DataError(f"{place}: {name} must be a text, and not empty")
        if MANY in lists and MANY not in row:
            raise DataError(f"{place}: no {MANY}; write [] where an image shows no class")
        yield place, {**{name: [] for name in lists}, **row}


def _json_rows(table: Path, owner: str) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with table.open(encoding="utf-8-sig") as file:
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if line.strip():
                    yield f"{owner}:{table}: line {number}", _json_row(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{owner}:{table}: line {number}: no JSON object in UTF-8 ({error})") from error


def _json_row(line: str) -> dict[str, Any]:
    row = json.loads(line, object_pairs_hook=_once)
    if not isinstance(row, dict):
        raise ValueError(f"{line[:40].strip()!r}")  # noqa: TRY004 - of the file
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name is given twice")
    return row


def _distinct(place: str, column: str, stated: Any) -> tuple[str, ...]:
    if not isinstance(stated, list) or not all(isinstance(name, str) and name.strip() for name in stated):
        raise DataError(f"{place}: {column} {str(stated)[:80]!r}; write a list of texts, none of them empty")
    names = tuple(name.strip() for name in stated)
    if len(set(names)) < len(names):
        raise DataError(
            f"{place}: {column} names {some(sorted({n for n in names if names.count(n) > 1}))} twice"
        )
    return names
