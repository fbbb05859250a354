"""captions:FILE.csv, a table of images and what is said of them, with columns path and caption.

Paths are relative to the table. An image with several captions has several rows; images come in the order
of their first row, captions in the order of theirs. There is one split, ``test``.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets, digest
from ssleval.datasets.files.images import file_split
from ssleval.errors import DataError

COLUMNS = ("path", "caption")


@dataclass(frozen=True, slots=True)
class _Captions:
    texts: tuple[tuple[str, ...], ...]

    def __call__(self, index: int) -> tuple[str, ...]:
        return self.texts[index]


@datasets.register("captions")
def captions(location: str, options: DatasetOptions) -> Dataset:
    """Open a CSV file of captioned images.

    Raises:
        DataError: a column or a file is missing, a field is empty, or no row is there.
    """
    table = Path(location).expanduser()
    try:
        found = _read(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"captions:{table}: not a CSV file in UTF-8 ({error})") from error
    paths, texts = list(found), tuple(tuple(own) for own in found.values())

    def open_split(name: str) -> Split:  # noqa: ARG001
        unlabelled = np.zeros(len(paths), dtype=np.int64)
        files = file_split(table.parent, paths, unlabelled, full_hash=options.full_hash)
        return Split(
            ids=paths,
            image=files.image,
            targets=None,
            fingerprint=digest([files.fingerprint, texts]),
            target=_Captions(texts),
        )

    card = DatasetCard(
        name=f"captions:{location}", target="captions", lengths={"test": len(paths)}, source=str(table)
    )
    return Dataset(card, open_split)


def _read(table: Path) -> dict[str, list[str]]:
    if not table.is_file():
        raise DataError(f"captions:{table}: no such file")
    found: dict[str, list[str]] = {}
    # utf-8-sig: spreadsheets write a byte-order mark, which would hide the first column's name.
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"captions:{table}: no column {', '.join(missing)}; it needs path and caption")
        for row in reader:
            path, text = row["path"], row["caption"]
            if not (path and text):
                raise DataError(
                    f"captions:{table}: line {reader.line_num}: path and caption must not be empty"
                )
            found.setdefault(path, []).append(text)
    if not found:
        raise DataError(f"captions:{table}: no row; it needs one for every caption")
    return found
