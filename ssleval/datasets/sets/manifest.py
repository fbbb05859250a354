"""manifest:FILE.csv or manifest:FILE.jsonl, a table of images with columns path, label or labels, and split.

Paths are relative to the table. Classes are the labels, sorted by code point, without blanks around them.
``labels`` in place of ``label`` gives every image any number of them. Items keep the order of the rows. A
file has the same labels everywhere, and is in a split once, however its path is spelt; files in several
splits are counted on stderr. Splits are train and test, val or both; the scored split is test if it exists,
else val.
"""

from collections import Counter
from itertools import combinations
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted
from ssleval.datasets.files.images import SPLITS, file_split
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.places import located, places, say_shared
from ssleval.datasets.files.tables import Stated, class_names, is_multilabel, read_labels, targets_of
from ssleval.errors import DataError


@datasets.register("manifest")
def manifest(location: str, options: DatasetOptions) -> Dataset:
    """Open a table of labelled images."""
    table = located("manifest", location, "FILE.csv")
    many = is_multilabel(table, "manifest")
    labels = _read(table, many=many)
    names = class_names(f"manifest:{table}", {split: [*of.values()] for split, of in labels.items()})
    items = {
        split: (Names(stated), targets_of([*stated.values()], names, many=many))
        for split, stated in labels.items()
    }

    def open_split(split: str) -> Split:
        paths, targets = items[split]
        return file_split(table.parent, paths, targets, full_hash=options.full_hash)

    card = DatasetCard(
        f"manifest:{location}",
        "multilabel" if many else "label",
        names,
        lengths={split: len(paths) for split, (paths, _) in items.items()},
        test_split="test" if "test" in items else "val",
        metric="map" if many else "top1",
        source=str(table),
    )
    return Dataset(card, open_split)


def _read(table: Path, *, many: bool) -> dict[str, dict[str, Stated]]:
    labels: dict[str, dict[str, Stated]] = {}
    labels_of: dict[str, Stated] = {}
    splits_of: dict[str, tuple[str, ...]] = {}
    place_of = places(table.parent)
    for row, (path, named), stated in read_labels(table, "manifest", ("path", "split"), many=many):
        split, place = named.strip(), place_of(path)
        if split not in SPLITS:
            raise DataError(f"{row}: split {split!r}; write one of {', '.join(SPLITS)}")
        if (before := labels_of.setdefault(place, stated)) != stated:
            now, then = (", ".join(one.labels) or "nothing" for one in (stated, before))
            has = "the same labels in every row" if many else "one label"
            raise DataError(f"{row}: {path} is {now}, and {then} before; an image has {has}")
        if split in splits_of.get(place, ()):
            raise DataError(f"{row}: {path} is in {split} twice; list it once")
        splits_of[place] = (*splits_of.get(place, ()), split)
        labels.setdefault(split, {})[path] = stated
    _say_shared(table, Counter(splits_of.values()))
    if "train" not in labels or len(labels) < 2:
        present = ", ".join(sorted(labels)) or "no row"
        raise DataError(f"manifest:{table}: needs train rows and test or val rows, found {present}")
    return labels


def _say_shared(table: Path, counts: Counter[tuple[str, ...]]) -> None:
    for pair in combinations(SPLITS, 2):
        shared = sum(count for splits, count in counts.items() if set(pair) <= set(splits))
        if shared:
            say_shared(f"manifest:{table}", *pair, counted(shared, "file"))
