"""folder:PATH, one folder of images for every class, under train/ and val/ or test/.

Classes are numbered by folder name, sorted by code point as torchvision's ImageFolder does. Files come class
by class, sorted by path. The scored split is test/ if it exists, else val/.

A table metadata.csv or metadata.jsonl in every split, with columns file_name and labels, gives images several
labels, as in Hugging Face's ImageFolder. It names every image below the split once.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.text import counted, some
from ssleval.datasets.files.images import (
    class_folders,
    file_split,
    images_below,
    refuse_other_classes,
    split_folders,
)
from ssleval.datasets.files.listing import list_classes
from ssleval.datasets.files.places import located, say_shared
from ssleval.datasets.files.tables import Stated, class_names, is_multilabel, read_labels, targets_of
from ssleval.errors import DataError

_TABLES = ("metadata.csv", "metadata.jsonl")


@datasets.register("folder")
def folder(location: str, options: DatasetOptions) -> Dataset:
    """Open a folder of class folders."""
    root = located("folder", location)
    splits = split_folders(root, "folder:")
    tables = {split: _table(root / split) for split in splits}
    if any(table is not None for table in tables.values()):
        return _multilabel(location, root, tables, options)
    names = class_folders(root / "train")
    refuse_other_classes("folder", root, splits, names)
    for first, second in combinations(splits, 2):
        # Not by resolving links, which would take longer than all else where the listing is stored.
        linked = sum((root / first / name).samefile(root / second / name) for name in names)
        if linked:
            say_shared(f"folder:{root}", first, second, counted(linked, "class folder"))
    listed = {split: list_classes(root / split, names, options) for split in splits}

    def open_split(split: str) -> Split:
        return listed[split].split()

    name, lengths = f"folder:{location}", {split: len(images.paths) for split, images in listed.items()}
    card = DatasetCard(name, "label", names, lengths=lengths, test_split=splits[-1], source=str(root))
    return Dataset(card, open_split)


def _table(folder: Path) -> Path | None:
    """Return the table of labels of a split; None where it has none, or one without the column labels."""
    found = [folder / name for name in _TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"folder:{folder}: {' and '.join(one.name for one in found)}; keep one of them")
    return found[0] if found and is_multilabel(found[0], "folder") else None


def _multilabel(
    location: str, root: Path, tables: Mapping[str, Path | None], options: DatasetOptions
) -> Dataset:
    labels = {split: _labels_of(root / split, table) for split, table in tables.items()}
    names = class_names(f"folder:{root}", {split: [*of.values()] for split, of in labels.items()})

    def open_split(split: str) -> Split:
        targets = targets_of([*labels[split].values()], names, many=True)
        return file_split(root / split, [*labels[split]], targets, full_hash=options.full_hash)

    lengths, scored = {split: len(of) for split, of in labels.items()}, [*tables][-1]
    card = DatasetCard(f"folder:{location}", "multilabel", names, lengths=lengths, test_split=scored)
    return Dataset(replace(card, metric="map", source=str(root)), open_split)


def _labels_of(folder: Path, table: Path | None) -> dict[str, Stated]:
    """Return the labels of every image of a split, sorted by path."""
    if table is None:
        raise DataError(f"folder:{folder}: no table with a column labels, which another split has; add it")
    there = {path.removeprefix("/") for path in images_below(str(folder), "", passing=_TABLES)}
    stated: dict[str, Stated] = {}
    for row, (name,), labels in read_labels(table, "folder", ("file_name",), many=True):
        if name not in there:
            raise DataError(f"{row}: no image {name} in {folder}; paths are relative to it, as in a/1.jpg")
        if name in stated:
            raise DataError(f"{row}: {name} is listed twice; list it once")
        stated[name] = labels
    if left := sorted(there - stated.keys()):
        raise DataError(f"folder:{folder}: {table.name} does not list {some(left)}; add or remove them")
    return dict(sorted(stated.items()))
