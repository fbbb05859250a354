"""images:LOCATION, images without labels or splits: to train on, or to take features of.

LOCATION is a folder, whose images count at any depth, sorted by path; a table FILE.csv or FILE.jsonl with a
column path, relative to it, whose other columns are ignored; or tar shards as wds: names them, a folder of
them, a glob or a name with braces, of which only images are read. A folder of both images and shards is
refused. All images are in the one split, train.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import EXTENSIONS, file_split, is_stray
from ssleval.datasets.files.listing import list_classes
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.places import places
from ssleval.datasets.files.shards import list_shards, shard_paths
from ssleval.datasets.files.tables import read_texts
from ssleval.errors import ConfigError, DataError


@datasets.register("images")
def images(location: str, options: DatasetOptions) -> Dataset:
    """List images that have no labels."""
    if not location:
        raise ConfigError("images: needs a location; write images:FOLDER, images:FILE.csv or images:SHARDS")
    path = Path(location).expanduser()
    if path.suffix.lower() in {".csv", ".jsonl"}:
        split = _table(path, options)
    elif location.endswith(".tar") or (path.is_dir() and _holds_shards(path)):
        split = _shards(location, options)
    elif path.is_dir():
        split = _folder(path, options)
    else:
        raise DataError(f"images:{location}: no such folder; a table ends in .csv or .jsonl, shards in .tar")
    card = DatasetCard(
        f"images:{location}", "none", lengths={"train": len(split)}, test_split="train", source=location
    )
    return Dataset(card, lambda _: split)


def _holds_shards(folder: Path) -> bool:
    """Return whether a folder is one of tar shards; DataError where it holds images as well.

    Of a folder of images little is read, since its listing may be kept.
    """
    files, folders = _entries(folder)
    top = any(name.endswith(".tar") for name in files)
    if not top and not _nested(folder, folders):
        return False
    loose = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if (top and any(not is_stray(path.name) for path in folder.glob("*/*.tar"))) or next(loose, None):
        raise DataError(
            f"images:{folder}: tar shards beside images, or in two depths; name the shards, "
            f"images:{folder}/*.tar, or move them apart"
        )
    return True


def _nested(folder: Path, folders: Sequence[str]) -> bool:
    """Return whether there are tar files in ``folders``, of which those after one of images are not read."""
    for name in folders:
        files, _ = _entries(folder / name)
        if any(file.endswith(".tar") for file in files):
            return True
        if any(file.lower().endswith(EXTENSIONS) for file in files):
            return False
    return False


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    names: tuple[list[str], list[str]] = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_stray(entry.name):
                names[entry.is_dir()].append(entry.name)
    return names


def _folder(root: Path, options: DatasetOptions) -> Split:
    split = list_classes(root, (".",), options).split()
    return replace(split, ids=Names(name.removeprefix("./") for name in split.ids), targets=None)


def _table(table: Path, options: DatasetOptions) -> Split:
    place_of, seen = places(table.parent), set[str]()

    def paths() -> Iterator[str]:
        for row, (path,) in read_texts(table, "images", ("path",)):
            if (place := place_of(path)) in seen:
                raise DataError(f"{row}: {path} is listed twice; list it once")
            seen.add(place)
            yield path

    listed = Names(paths())
    if not listed:
        raise DataError(f"images:{table}: names no image")
    return file_split(table.parent, listed, full_hash=options.full_hash)


def _shards(location: str, options: DatasetOptions) -> Split:
    paths = shard_paths(location, "images")
    if not paths:
        raise DataError(f"images:{location}: no shards")
    listed = list_shards(paths, options, labelled=False)
    return Split(listed.ids, listed, None, listed.fingerprint)
