"""Where pictures come from: files, or rows of a dataset."""

from collections.abc import Sequence
from pathlib import Path

from ssleval.core import Dataset, DatasetOptions
from ssleval.core.targets import KeyPoints, Views
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.files.images import decode
from ssleval.display.pictures.draw import KINDS
from ssleval.display.pictures.look import Picture
from ssleval.errors import ConfigError


def gather(
    what: str, files: Sequence[Path], dataset: str | None, rows: str, options: DatasetOptions
) -> tuple[Dataset | None, list[Picture]]:
    """Return the dataset in use, and the pictures: ``files``, else ``rows`` of the dataset, a comma list.

    Without either, the dataset and the rows are the defaults of the kind ``what``. Refuses rows beside files,
    and a dataset beside files where no head is fitted.
    """
    kind = KINDS[what]
    if files and (rows or (dataset and not kind.fits)):
        raise ConfigError(f"{what}: files are given, and a dataset or rows as well; leave out one of them")
    opened = None if files and not kind.fits else open_dataset(dataset or kind.dataset, options)
    if opened is None or files:
        return opened, [Picture(path.name, decode(path, str(path))) for path in files]
    if rows:
        return opened, from_dataset(opened, _numbers(rows))
    length = opened.card.lengths[opened.card.test_split]
    return opened, from_dataset(opened, [row for row in kind.rows if row < length])


def from_dataset(dataset: Dataset, rows: Sequence[int]) -> list[Picture]:
    """Return items of the scored split; a pair gives both of its images."""
    split = dataset.split(dataset.card.test_split)
    pictures: list[Picture] = []
    for row in rows:
        if not 0 <= row < len(split):
            raise ConfigError(f"{dataset.card.name}: no row {row}; it has 0 to {len(split) - 1}")
        sample = split[row]
        pictures.append(Picture(sample.id, sample.image, sample.target))
        if isinstance(sample.target, KeyPoints | Views):
            pictures.append(Picture(sample.target.names[1], sample.target.partner))
    return pictures


def _numbers(rows: str) -> list[int]:
    parts = [part.strip() for part in rows.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--rows {rows}: expected numbers with commas between, such as 0,5,9")
    return [int(part) for part in parts]
