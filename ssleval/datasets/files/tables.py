"""Tables of images in CSV files."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssleval.errors import DataError


def read_rows(table: Path, columns: Sequence[str], owner: str) -> Iterator[tuple[str, list[str]]]:
    """Yield, for every row of a table, its place as messages state it, and its values in ``columns``.

    Messages begin with ``owner``, the source that reads the table. Empty values are refused.
    """
    name, needed = f"{owner}:{table}", f"{', '.join(columns[:-1])} and {columns[-1]}"
    if not table.is_file():
        raise DataError(f"{name}: no such file")
    try:
        # utf-8-sig: spreadsheets write a byte-order mark, which would hide the first column's name.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{name}: no column {', '.join(missing)}; it needs {needed}")
            for row in reader:
                place, values = f"{name}: line {reader.line_num}", [row[column] for column in columns]
                if not all(values):
                    raise DataError(f"{place}: {needed} must not be empty")
                yield place, values
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: not a CSV file in UTF-8 ({error})") from error
