"""Images in tar shards: headers, which are read once, and bytes, which are read in place.

Shards are named by folders, globs, and names with braces such as ``{train,test}/{000..012}.tar``.
"""

import hashlib
import math
import os
import re
import tarfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from PIL import Image

from ssleval.core import DatasetOptions
from ssleval.datasets.files import index
from ssleval.datasets.files.images import EXTENSIONS, decode, fingerprint, is_stray
from ssleval.datasets.files.names import Names
from ssleval.errors import DataError

MOST_CLASSES = 1_000_000
"""As many as class numbers may count: they are stated before there is any data."""

MOST_SHARDS = 100_000
"""As many as a pattern may name: it is read before there is any data."""

_Place: TypeAlias = tuple[str, int, int, int]
"""File name of an image in its shard, shard, offset and size in bytes."""


class Parts:
    """Reads parts of files that were listed; can be pickled.

    Every thread keeps the file open that it read last, and no other: the system reads ahead within one
    opening only, and network file systems ask their server at each.
    """

    def __init__(self, marks: Sequence[index.Mark]) -> None:
        self.marks = marks
        self._last = threading.local()

    def __reduce__(self) -> tuple[type["Parts"], tuple[Sequence[index.Mark]]]:
        return Parts, (self.marks,)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes of file ``number``; DataError where it changed since it was listed."""
        file: _Open | None = getattr(self._last, "file", None)
        if file is None or file.number != number:
            file = self._last.file = _Open(number, self.marks[number])
        return os.pread(file.descriptor, size, offset)


class _Open:
    """An open file, closed with its last reference."""

    def __init__(self, number: int, mark: index.Mark) -> None:
        path, modified, _, _, size = mark
        self.number = number
        self.descriptor = os.open(Path(path), os.O_RDONLY)
        status = os.fstat(self.descriptor)
        if (status.st_mtime_ns, status.st_size) != (modified, size):
            raise DataError(f"{path}: changed since it was listed; run again, which lists all anew")

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Shards:
    """The images in the shards of one split; can be pickled."""

    paths: Sequence[Path]
    content: Parts
    ids: Names
    names: Names
    """File names in the shards."""
    places: Int[np.ndarray, "n 3"]
    """Shard, offset and size in bytes of every image."""
    labels: Int[np.ndarray, " n"]
    mark: str = ""
    """The fingerprint, unless it is to cover the content."""

    def encoded(self, row: int) -> bytes:
        """Return the file of one image."""
        return self.content.read(*self.places[row].tolist())

    def __call__(self, row: int) -> Image.Image:
        """Decode one image to RGB."""
        return decode(self.encoded(row), f"{self.paths[self.places[row, 0]]}/{self.names[row]}")

    @property
    def fingerprint(self) -> str:
        """What decides a score: sizes and labels, or the content too where nothing kept may be trusted."""
        return self.mark or fingerprint(self.rows(full_hash=True))

    def rows(self, *, full_hash: bool) -> Iterator[list[str | int]]:
        """Yield what the fingerprint holds: of every shard its size, of every image its size and label."""
        for path, (_, _, _, _, size) in zip(self.paths, self.content.marks, strict=True):
            yield [path.name, size]
        columns = zip(self.ids, self.places[:, 2].tolist(), self.labels.tolist(), strict=True)
        for row, (name, size, label) in enumerate(columns):
            content = [hashlib.sha256(self.encoded(row)).hexdigest()] if full_hash else []
            yield [name, size, *content, label]


def list_shards(paths: Sequence[Path], options: DatasetOptions, *, labelled: bool = True) -> Shards:
    """Return the images in shards, from the cache where no shard changed.

    Without ``labelled``, members that are no images are passed over, and all labels are 0.
    With ``options.full_hash`` nothing that was stored is used, and it is removed.
    """
    kind, most = ("shards", MOST_CLASSES) if labelled else ("unlabelled shards", 1)
    places = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    kept = index.Kept(options, kind, EXTENSIONS, most, places)
    if options.full_hash:
        return _listed(paths, labelled=labelled)
    if (stored := kept.read(partial(_stored, paths))) is not None:
        return stored
    images = _listed(paths, labelled=labelled)
    images = replace(images, mark=fingerprint(images.rows(full_hash=False)))
    names, columns = [images.ids, images.names], [images.places, images.labels]
    kept.write(images.content.marks, names, columns, images.mark)
    return images


def _stored(paths: Sequence[Path], listing: index.Listing) -> Shards:
    (ids, names), (places, labels) = listing.read()
    places, ends = places.reshape(-1, 3), np.array([mark[4] for mark in listing.marks])
    if len(paths) != len(ends) or not len(ids) == len(names) == len(places) == len(labels) > 0:
        raise ValueError("its columns do not fit together")
    shards, offsets, sizes = places.T
    if shards.min() < 0 or shards.max() >= len(ends) or labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise ValueError("its numbers are out of range")
    most = ends[shards] - sizes
    if offsets.min() < 0 or sizes.min() < 0 or most.min() < 0 or (offsets > most).any():
        raise ValueError("its images lie outside the shards")
    return Shards(paths, Parts(listing.marks), ids, names, places, labels, listing.fingerprint)


def _listed(shards: Sequence[Path], *, labelled: bool) -> Shards:
    items, marks = _Items(labelled), list[index.Mark]()
    # Shards of one name share keys, which are complete only after the last of them.
    repeated = len({shard.name for shard in shards}) < len(shards)
    for number, shard in enumerate(shards):
        marks.append(index.mark(shard))
        try:
            # "r:" and not "r": a compressed shard cannot be read by seeking.
            # Names that are no UTF-8 are refused, since results are stored in it.
            with tarfile.open(shard, "r:", errors="strict") as archive:
                items.add(number, shard, archive)
        except (tarfile.TarError, UnicodeError) as error:
            raise DataError(f"{shard}: not a whole, uncompressed tar file ({error})") from error
        if not repeated:
            items.complete()
    items.complete()
    if not items.classes:
        raise DataError(f"{shards[0].parent}: no items in {len(shards)} shards")
    places, labels = (np.frombuffer(column, np.int64) for column in (items.numbers, items.classes))
    return Shards(shards, Parts(marks), items.ids, items.names, places.reshape(-1, 3), labels)


@dataclass(slots=True)
class _Items:
    """Items while headers are read: those of one shard as objects, all before them in a few bytes."""

    labelled: bool
    ids: Names = field(default_factory=Names)
    names: Names = field(default_factory=Names)
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    classes: "array[int]" = field(default_factory=lambda: array("q"))
    places: dict[str, _Place] = field(default_factory=dict[str, _Place])
    labels: dict[str, int] = field(default_factory=dict[str, int])
    """Of every key, in stored order; -1 until its label is read."""

    def add(self, number: int, shard: Path, archive: tarfile.TarFile) -> None:
        """Add the members of a shard."""
        places, labels = self.places, self.labels
        while (member := archive.next()) is not None:
            # Else the archive holds every member until it is closed, a kilobyte each.
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
            folder, _, name = member.name.rpartition("/")
            if not member.isfile() or is_stray(name) or "__MACOSX" in folder.split("/"):
                continue
            # Before a label's name ends, at the first dot; without labels, two.1.jpg is two.1.
            stem, _, extension = name.partition(".") if self.labelled else name.rpartition(".")
            key = "/".join(part for part in (shard.name, folder.removeprefix("./"), stem) if part)
            if not self.labelled and f".{extension.lower()}" not in EXTENSIONS:
                continue
            labels.setdefault(key, -1 if self.labelled else 0)
            if f".{extension.lower()}" in EXTENSIONS:
                if key in places:
                    raise DataError(f"{shard}: {key} has two images, {places[key][0]} and {member.name}")
                places[key] = (member.name, number, member.offset_data, member.size)
            elif extension == "cls":
                if labels[key] >= 0:
                    raise DataError(f"{shard}: {key} has two labels, of {labels[key]} and {member.name}")
                labels[key] = _label(shard, archive, member)

    def complete(self) -> None:
        """Keep what was added; DataError where an item lacks its image or its label."""
        for key, label in self.labels.items():
            if key not in self.places or label < 0:
                raise DataError(f"{key}: has no {'label (.cls)' if key in self.places else 'image'}")
        places = [self.places[key] for key in self.labels]
        self.ids.extend(self.labels)
        self.names.extend(place[0] for place in places)
        self.numbers.extend(chain.from_iterable(place[1:] for place in places))
        self.classes.extend(self.labels.values())
        self.places.clear()
        self.labels.clear()


def _label(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read(99).decode("ascii", "replace").strip() if file else ""
    if not text.isdigit() or member.size >= 99 or int(text) >= MOST_CLASSES:
        raise DataError(
            f"{shard}: {member.name} holds {text[:20]!r}, expected a class number below {MOST_CLASSES:,}"
        )
    return int(text)


def shard_paths(location: str, owner: str) -> list[Path]:
    """Return the shards that a folder, a glob, or a name with braces stands for, in their order.

    Messages begin with ``owner``, the source that reads them.

    Raises:
        DataError: a named shard is absent, a location is not local, or there are more than `MOST_SHARDS`.
    """
    if "://" in location or location.startswith("pipe:"):
        raise DataError(f"{owner}:{location}: shards are read from local files; download them first")
    pattern = str(Path(location).expanduser())
    if Path(pattern).is_dir():
        nested = any(not is_stray(path.name) for path in Path(pattern).glob("*/*.tar"))
        pattern = f"{pattern}/*/*.tar" if nested else f"{pattern}/*.tar"
    paths: list[Path] = []
    for name in expand_braces(pattern, owner):
        if "*" in name or "?" in name:
            start = Path(Path(name).anchor)
            matches = (path for path in start.glob(str(Path(name).relative_to(start))) if path.is_file())
            paths += sorted((path for path in matches if not is_stray(path.name)), key=_natural)
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            raise DataError(f"{owner}:{name}: no such shard")
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    # 10.tar comes after 9.tar: the order in which shards are written.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def expand_braces(pattern: str, owner: str) -> list[str]:
    """Return the names that ``{a,b}`` and ``{000..012}`` stand for; the leftmost varies slowest."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(
            f"{owner}:{pattern}: stands for more than {MOST_SHARDS:,} shards; name those that there are"
        )
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(body: str) -> list[str]:
    numbers = re.fullmatch(r"(\d{1,99})\.\.(\d{1,99})", body)
    if not numbers:
        return body.split(",")
    first, last = numbers.groups()
    # One more than are allowed is enough to be refused.
    most = min(int(last), int(first) + MOST_SHARDS)
    return [f"{number:0{len(first)}d}" for number in range(int(first), most + 1)]
