"""wds:PATTERN, local tar shards of KEY.jpg and KEY.cls, read in place without unpacking.

PATTERN is a folder (meaning its */*.tar, or else *.tar), a glob, or a name with braces:
{train,test}/{000..012}.tar. The folder of a shard names its split, or else a word of the shard's own name
does: train, val (also validation) or test. Shards to fit on may be absent, for tasks that fit nothing. Class
names are the lines of classnames.txt beside the folders; without that file they are the numbers. If a folder
holds nshards.txt, it must hold as many shards. Items come shard by shard, in stored order; hidden members are
passed over.
"""

import hashlib
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import EXTENSIONS, SPLITS, decode, fingerprint, is_stray
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.tables import refuse_untrained
from ssleval.datasets.published import read_lines, read_text
from ssleval.errors import DataError

MOST_SHARDS, MOST_CLASSES = 100_000, 1_000_000
"""As many as a pattern may name, and as class numbers may count: both are stated before there is any data."""

_SPELT = {"validation": "val", "valid": "val"}

_Place: TypeAlias = tuple[str, int, int, int]
"""File name of an image in its shard, shard, offset and size in bytes."""


@dataclass(frozen=True, slots=True)
class _Shards:
    """The images in the shards of one split; can be pickled."""

    paths: Sequence[Path]
    ids: Names
    names: Names
    """File names in the shards."""
    places: Int[np.ndarray, "n 3"]
    """Shard, offset and size in bytes of every image."""
    labels: Int[np.ndarray, " n"]

    def encoded(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        with self.paths[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def __call__(self, index: int) -> Image.Image:
        return decode(self.encoded(index), f"{self.paths[self.places[index, 0]]}/{self.names[index]}")

    def rows(self, *, full_hash: bool) -> Iterator[list[str | int]]:
        """Yield what the fingerprint holds: of every shard its size, of every image its size and label."""
        for path in self.paths:
            yield [path.name, path.stat().st_size]
        for index, name in enumerate(self.ids):
            content = [hashlib.sha256(self.encoded(index)).hexdigest()] if full_hash else []
            yield [name, int(self.places[index, 2]), *content, int(self.labels[index])]


@datasets.register("wds")
def wds(location: str, options: DatasetOptions) -> Dataset:
    """Index tar shards by their headers."""
    shards = {split: _index(paths) for split, paths in _by_split(location).items()}
    if "train" in shards:
        refuse_untrained(f"wds:{location}", {split: images.labels for split, images in shards.items()})

    def open_split(split: str) -> Split:
        images = shards[split]
        mark = fingerprint(images.rows(full_hash=options.full_hash))
        return Split(images.ids, images, images.labels, mark)

    name, names, scored = f"wds:{location}", _class_names(shards), "test" if "test" in shards else "val"
    lengths = {split: len(images.ids) for split, images in shards.items()}
    card = DatasetCard(name, "label", names, lengths=lengths, test_split=scored, source=location)
    return Dataset(card, open_split)


def expand_braces(pattern: str) -> list[str]:
    """Return the names that ``{a,b}`` and ``{000..012}`` stand for; the leftmost varies slowest."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part) if index % 2 else [part] for index, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(
            f"wds:{pattern}: stands for more than {MOST_SHARDS:,} shards; name those that there are"
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


def _by_split(location: str) -> dict[str, list[Path]]:
    if "://" in location or location.startswith("pipe:"):
        raise DataError(f"wds:{location}: shards are read from local files; download them first")
    shards: dict[str, list[Path]] = {}
    for path in _shards(str(Path(location).expanduser())):
        shards.setdefault(_split_of(path), []).append(path)
    for folder in {path.parent for paths in shards.values() for path in paths}:
        _refuse_incomplete(folder)
    if not {"test", "val"} & set(shards):
        present = ", ".join(shards) or "none"
        raise DataError(f"wds:{location}: needs shards in test/ or val/, found {present}")
    return {split: shards[split] for split in SPLITS if split in shards}


def _split_of(shard: Path) -> str:
    """Return the split that the folder of a shard names, or else the shard's own name."""
    words = {*SPLITS, *_SPELT}
    folder = shard.parent.name
    named = (
        [folder] if folder in words else [word for word in re.split(r"[-_.]", shard.stem) if word in words]
    )
    if len(set(named)) != 1:
        raise DataError(f"wds:{shard}: its folder or its own name must name a split: {', '.join(SPLITS)}")
    return _SPELT.get(named[0], named[0])


def _refuse_incomplete(folder: Path) -> None:
    stated = folder / "nshards.txt"
    there = sum(path.suffix == ".tar" and not is_stray(path.name) for path in folder.iterdir())
    if stated.is_file() and read_lines(stated) != [str(there)]:
        shown = " ".join(read_lines(stated))[:20]
        raise DataError(
            f"wds:{stated}: promises {shown or 'nothing'}, {there} shards are there; fetch the others"
        )


def _shards(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        nested = any(not is_stray(path.name) for path in Path(pattern).glob("*/*.tar"))
        pattern = f"{pattern}/*/*.tar" if nested else f"{pattern}/*.tar"
    paths: list[Path] = []
    for name in expand_braces(pattern):
        if "*" in name or "?" in name:
            start = Path(Path(name).anchor)
            matches = (path for path in start.glob(str(Path(name).relative_to(start))) if path.is_file())
            paths += sorted((path for path in matches if not is_stray(path.name)), key=_natural)
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            raise DataError(f"wds:{name}: no such shard")
    return paths


def _natural(path: Path) -> list[tuple[int, str]]:
    # 10.tar comes after 9.tar: the order in which shards are written.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _index(shards: Sequence[Path]) -> _Shards:
    places: dict[str, _Place] = {}
    labels: dict[str, int] = {}  # of every key, in stored order; -1 until its label is read
    for number, shard in enumerate(shards):
        try:
            # "r:" and not "r": a compressed shard cannot be read by seeking.
            # Names that are no UTF-8 are refused, since results are stored in it.
            with tarfile.open(shard, "r:", errors="strict") as archive:
                _add(places, labels, number, shard, archive)
        except (tarfile.TarError, UnicodeError) as error:
            raise DataError(f"wds:{shard}: not a whole, uncompressed tar file ({error})") from error
    for key, label in labels.items():
        if key not in places or label < 0:
            raise DataError(f"wds:{key}: has no {'label (.cls)' if key in places else 'image'}")
    if not labels:
        raise DataError(f"wds:{shards[0].parent}: no items in {len(shards)} shards")
    names = Names(places[key][0] for key in labels)
    where = np.array([places[key][1:] for key in labels], np.int64)
    return _Shards(shards, Names(labels), names, where, np.array(list(labels.values()), np.int64))


def _add(
    places: dict[str, _Place], labels: dict[str, int], number: int, shard: Path, archive: tarfile.TarFile
) -> None:
    for member in archive:
        folder, _, name = member.name.rpartition("/")
        if not member.isfile() or is_stray(name) or "__MACOSX" in folder.split("/"):
            continue
        stem, _, extension = name.partition(".")
        key = "/".join(part for part in (shard.name, folder.removeprefix("./"), stem) if part)
        labels.setdefault(key, -1)
        if f".{extension.lower()}" in EXTENSIONS:
            if key in places:
                raise DataError(f"wds:{shard}: {key} has two images, {places[key][0]} and {member.name}")
            places[key] = (member.name, number, member.offset_data, member.size)
        elif extension == "cls":
            if labels[key] >= 0:
                raise DataError(f"wds:{shard}: {key} has two labels, of {labels[key]} and {member.name}")
            labels[key] = _label(shard, archive, member)


def _label(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read(99).decode("ascii", "replace").strip() if file else ""
    if not text.isdigit() or member.size >= 99 or int(text) >= MOST_CLASSES:
        raise DataError(
            f"wds:{shard}: {member.name} holds {text[:20]!r}, expected a class number below {MOST_CLASSES:,}"
        )
    return int(text)


def _class_names(shards: dict[str, _Shards]) -> tuple[str, ...]:
    folder = next(iter(shards.values())).paths[0].parent
    above = folder.name in {*SPLITS, *_SPELT}
    listed = (folder.parent if above else folder) / "classnames.txt"
    if listed.is_file():
        names = tuple(read_text(listed).rstrip().splitlines())
        if not all(map(str.strip, names)):
            raise DataError(f"wds:{listed}: an empty line; it needs one name a line, in label order")
        return names
    highest = max(int(images.labels.max()) for images in shards.values())
    return tuple(str(number) for number in range(highest + 1))
