"""manifest:FILE.csv, a table of images with columns path, label and split.

Paths are relative to the table. Classes are the labels, sorted by code point; items keep the order
of the rows. Splits are train and test, val or both; scored on test where there is one, else on val.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import file_split
from ssleval.errors import DataError

COLUMNS = ("path", "label", "split")
SPLITS = ("train", "val", "test")


@dataclass(slots=True)
class _Rows:
    paths: list[str] = field(default_factory=list[str])
    labels: list[str] = field(default_factory=list[str])


@datasets.register("manifest")
def manifest(location: str, options: DatasetOptions) -> Dataset:
    """Open a CSV file of labelled images.

    Raises:
        DataError: a column is missing, a path is listed twice in one split, a label of another split
            is absent from train, a split has another name, or a file is missing.
    """
    table = Path(location).expanduser()
    try:
        splits = _read(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"manifest:{table}: not a CSV file in UTF-8 ({error})") from error
    names = _classes(table, splits)
    number = {name: index for index, name in enumerate(names)}

    def open_split(split: str) -> Split:
        rows = splits[split]
        targets = np.array([number[label] for label in rows.labels])
        return file_split(table.parent, rows.paths, targets, full_hash=options.full_hash)

    card = DatasetCard(
        name=f"manifest:{location}",
        class_names=names,
        lengths={split: len(rows.paths) for split, rows in splits.items()},
        test_split="test" if "test" in splits else "val",
        source=str(table),
    )
    return Dataset(card, open_split)


def _read(table: Path) -> dict[str, _Rows]:
    if not table.is_file():
        raise DataError(f"manifest:{table}: no such file")
    splits: dict[str, _Rows] = {}
    seen: set[tuple[str, str]] = set()
    # utf-8-sig: spreadsheets write a byte-order mark, which would hide the first column's name.
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"manifest:{table}: no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
            )
        for row in reader:
            path, label, split = (row[name] for name in COLUMNS)
            where = f"manifest:{table}: line {reader.line_num}"
            if not (path and label and split):
                raise DataError(f"{where}: path, label and split must not be empty")
            if split not in SPLITS:
                raise DataError(f"{where}: split {split!r}; write one of {', '.join(SPLITS)}")
            if (split, path) in seen:
                raise DataError(f"{where}: {path} is in {split} twice; list it once")
            seen.add((split, path))
            rows = splits.setdefault(split, _Rows())
            rows.paths.append(path)
            rows.labels.append(label)
    return splits


def _classes(table: Path, splits: dict[str, _Rows]) -> tuple[str, ...]:
    if "train" not in splits or len(splits) < 2:
        found = ", ".join(sorted(splits)) or "no row"
        raise DataError(f"manifest:{table}: needs train rows and test or val rows, found {found}")
    names = sorted(set(splits["train"].labels))
    unknown = sorted({label for rows in splits.values() for label in rows.labels} - set(names))
    if unknown:
        raise DataError(f"manifest:{table}: labels absent from train: {', '.join(unknown[:5])}; add them")
    return tuple(names)
