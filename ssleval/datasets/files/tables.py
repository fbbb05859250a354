"""Tables of images in CSV files, and the labels of splits."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.errors import DataError


def read_rows(
    table: Path, columns: Sequence[str], owner: str, optional: Sequence[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yield, for every row of a table, its place as messages state it, and its values in ``columns``.

    Messages begin with ``owner``, the source that reads the table. Empty values are refused. After them come
    the values of ``optional`` columns, '' where there is none.
    """
    name, needed = f"{owner}:{table}", " and ".join([*filter(None, [", ".join(columns[:-1])]), columns[-1]])
    if not table.is_file():
        raise DataError(f"{name}: no such file")
    try:
        # utf-8-sig: spreadsheets write a byte-order mark, which would hide the first column's name.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            if missing := [column for column in columns if column not in header]:
                raise DataError(f"{name}: no column {', '.join(missing)}; it needs {needed}")
            if twice := [column for column in (*columns, *optional) if header.count(column) > 1]:
                raise DataError(f"{name}: two columns {twice[0]}; keep one of them")
            for row in reader:
                place, values = f"{name}: line {reader.line_num}", [row[column] for column in columns]
                if None in row:
                    raise DataError(f"{place}: more values than columns; quote those that hold commas")
                if not all(value and value.strip() for value in values):
                    raise DataError(f"{place}: {needed} must not be empty")
                yield place, [*values, *(row.get(column) or "" for column in optional)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: not a CSV file in UTF-8 ({error})") from error


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
