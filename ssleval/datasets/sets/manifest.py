"""manifest:FILE.csv, a table of images with columns path, label and split.

Paths are relative to the table. Classes are the labels, sorted by code point, without blanks around them.
Items keep the order of the rows. A file has one label, and is in a split once, however its path is spelt;
files in several splits are counted on stderr. Splits are train and test, val or both; the scored split is
test if it exists, else val.
"""

import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted
from ssleval.datasets.files.images import SPLITS, file_split
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.places import places, say_shared
from ssleval.datasets.files.tables import read_rows
from ssleval.errors import DataError


@datasets.register("manifest")
def manifest(location: str, options: DatasetOptions) -> Dataset:
    """Open a CSV file of labelled images."""
    table = Path(location).expanduser()
    labels = _read(table)
    names = _classes(table, labels)
    number = {name: index for index, name in enumerate(names)}
    items = {
        split: (Names(label_of), np.array([number[label] for label in label_of.values()]))
        for split, label_of in labels.items()
    }

    def open_split(split: str) -> Split:
        paths, targets = items[split]
        return file_split(table.parent, paths, targets, full_hash=options.full_hash)

    name, scored = f"manifest:{location}", "test" if "test" in items else "val"
    lengths = {split: len(paths) for split, (paths, _) in items.items()}
    card = DatasetCard(name, "label", names, lengths=lengths, test_split=scored, source=str(table))
    return Dataset(card, open_split)


def _read(table: Path) -> dict[str, dict[str, str]]:
    """Return for every split the label of every path, in the order of the rows."""
    labels: dict[str, dict[str, str]] = {}
    label_of: dict[str, str] = {}
    splits_of: dict[str, tuple[str, ...]] = {}
    place_of = places(table.parent)
    for row, (path, stated, named) in read_rows(table, ("path", "label", "split"), "manifest"):
        split, label, place = named.strip(), sys.intern(stated.strip()), place_of(path)
        if split not in SPLITS:
            raise DataError(f"{row}: split {split!r}; write one of {', '.join(SPLITS)}")
        if label_of.setdefault(place, label) != label:
            raise DataError(f"{row}: {path} is {label}, and {label_of[place]} before; an image has one label")
        if split in splits_of.get(place, ()):
            raise DataError(f"{row}: {path} is in {split} twice; list it once")
        splits_of[place] = (*splits_of.get(place, ()), split)
        labels.setdefault(split, {})[path] = label
    _say_shared(table, Counter(splits_of.values()))
    return labels


def _say_shared(table: Path, counts: Counter[tuple[str, ...]]) -> None:
    for pair in combinations(SPLITS, 2):
        shared = sum(count for splits, count in counts.items() if set(pair) <= set(splits))
        if shared:
            say_shared(f"manifest:{table}", *pair, counted(shared, "file"))


def _classes(table: Path, labels: dict[str, dict[str, str]]) -> tuple[str, ...]:
    if "train" not in labels or len(labels) < 2:
        present = ", ".join(sorted(labels)) or "no row"
        raise DataError(f"manifest:{table}: needs train rows and test or val rows, found {present}")
    names = sorted(set(labels["train"].values()))
    unknown = sorted({label for split in labels.values() for label in split.values()} - set(names))
    if unknown:
        raise DataError(f"manifest:{table}: labels absent from train: {', '.join(unknown[:5])}; add them")
    return tuple(names)
