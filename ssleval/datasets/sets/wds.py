"""wds:PATTERN, local tar shards of KEY.jpg and KEY.cls, read in place without unpacking.

PATTERN is a folder (meaning its */*.tar), a glob, or a name with braces: {train,test}/{000..012}.tar. The
folder of a shard names its split: train, val or test. Class names are the lines of classnames.txt in the
folder above; without that file they are the numbers. Items come shard by shard, in stored order.
"""

import hashlib
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
from ssleval.datasets.files.images import EXTENSIONS, SPLITS, decode, fingerprint
from ssleval.datasets.files.names import Names
from ssleval.errors import DataError

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

    def read(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        with self.paths[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def __call__(self, index: int) -> Image.Image:
        return decode(self.read(index), f"{self.paths[self.places[index, 0]]}/{self.names[index]}")

    def rows(self, *, full_hash: bool) -> Iterator[list[str | int]]:
        """Yield what the fingerprint holds: of every shard its size, of every image its size and label."""
        for path in self.paths:
            yield [path.name, path.stat().st_size]
        for index, name in enumerate(self.ids):
            content = [hashlib.sha256(self.read(index)).hexdigest()] if full_hash else []
            yield [name, int(self.places[index, 2]), *content, int(self.labels[index])]


@datasets.register("wds")
def wds(location: str, options: DatasetOptions) -> Dataset:
    """Index tar shards by their headers."""
    shards = {split: _index(paths) for split, paths in _by_split(location).items()}

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
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(body: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if not numbers:
        return body.split(",")
    first, last = numbers.groups()
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _by_split(location: str) -> dict[str, list[Path]]:
    if "://" in location or location.startswith("pipe:"):
        raise DataError(f"wds:{location}: shards are read from local files; download them first")
    shards: dict[str, list[Path]] = {}
    for path in _shards(str(Path(location).expanduser())):
        if path.parent.name not in SPLITS:
            raise DataError(f"wds:{path}: its folder must name a split: {', '.join(SPLITS)}")
        shards.setdefault(path.parent.name, []).append(path)
    if "train" not in shards or len(shards) < 2:
        present = ", ".join(shards) or "none"
        raise DataError(f"wds:{location}: needs shards in train/ and in test/ or val/, found {present}")
    return {split: shards[split] for split in SPLITS if split in shards}


def _shards(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        pattern = f"{pattern}/*/*.tar"
    paths: list[Path] = []
    for name in expand_braces(pattern):
        if "*" in name or "?" in name:
            start = Path(Path(name).anchor)
            paths += sorted(start.glob(str(Path(name).relative_to(start))), key=_natural)
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
            with tarfile.open(shard, "r:") as archive:
                _add(places, labels, number, shard, archive)
        except tarfile.TarError as error:
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
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key = "/".join(part for part in (shard.name, folder.removeprefix("./"), stem) if part)
        labels.setdefault(key, -1)
        if f".{extension.lower()}" in EXTENSIONS:
            if key in places:
                raise DataError(f"wds:{shard}: {key} has two images, {places[key][0]} and {member.name}")
            places[key] = (member.name, number, member.offset_data, member.size)
        elif extension == "cls":
            labels[key] = _label(shard, archive, member)


def _label(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read().decode("ascii", "replace").strip() if file else ""
    if not text.isdigit():
        raise DataError(f"wds:{shard}: {member.name} holds {text[:20]!r}, expected a class number")
    return int(text)


def _class_names(shards: dict[str, _Shards]) -> tuple[str, ...]:
    listed = next(iter(shards.values())).paths[0].parents[1] / "classnames.txt"
    if listed.is_file():
        return tuple(listed.read_text(encoding="utf-8").splitlines())
    highest = max(int(images.labels.max()) for images in shards.values())
    return tuple(str(number) for number in range(highest + 1))
