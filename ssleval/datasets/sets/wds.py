"""wds:PATTERN, local tar shards of KEY.jpg and KEY.cls, read in place without unpacking.

PATTERN is a folder (then its */*.tar), a glob, or a name with braces: {train,test}/{000..012}.tar.
The folder of a shard names its split: train, val or test. Class names are the lines of classnames.txt
in the folder above, else the numbers themselves. Items come shard by shard, in stored order.
"""

import hashlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import EXTENSIONS, decode, fingerprint
from ssleval.errors import DataError

SPLITS = ("train", "val", "test")


@dataclass(slots=True)
class _Item:
    """What one key of one shard holds; offsets and sizes in bytes."""

    id: str
    shard: int
    name: str = ""
    offset: int = 0
    size: int = 0
    label: int = -1


@dataclass(frozen=True, slots=True)
class _Members:
    """Reads the bytes of the i-th image out of its shard; survives pickling."""

    shards: Sequence[Path]
    where: Int[np.ndarray, "n 3"]
    """Shard, offset and size of every image."""
    names: Sequence[str]

    def read(self, index: int) -> bytes:
        shard, offset, size = self.where[index].tolist()
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def __call__(self, index: int) -> Image.Image:
        return decode(self.read(index), self.names[index])


@datasets.register("wds")
def wds(location: str, options: DatasetOptions) -> Dataset:
    """Index tar shards by their headers.

    Raises:
        DataError: no shards, shards of other splits, compressed or damaged ones, or a key without
            an image or a label.
    """
    shards = _by_split(location)
    items = {split: _index(paths) for split, paths in shards.items()}
    names = _class_names(next(iter(shards.values()))[0].parent.parent, items)
    card = DatasetCard(
        name=f"wds:{location}",
        class_names=names,
        lengths={split: len(found) for split, found in items.items()},
        test_split="test" if "test" in items else "val",
        source=location,
    )
    return Dataset(card, lambda split: _split(shards[split], items[split], full_hash=options.full_hash))


def expand_braces(pattern: str) -> list[str]:
    """Return the names ``{a,b}`` and ``{000..012}`` stand for, leftmost slowest."""
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
    paths = _shards(str(Path(location).expanduser()))
    found: dict[str, list[Path]] = {}
    for path in paths:
        if path.parent.name not in SPLITS:
            raise DataError(f"wds:{path}: its folder must name a split: {', '.join(SPLITS)}")
        found.setdefault(path.parent.name, []).append(path)
    if "train" not in found or len(found) < 2:
        raise DataError(
            f"wds:{location}: needs shards in train/ and in test/ or val/, found {', '.join(found) or 'none'}"
        )
    return {split: found[split] for split in SPLITS if split in found}


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
    # 10.tar after 9.tar: the order the shards were written in.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _index(shards: Sequence[Path]) -> list[_Item]:
    items: dict[str, _Item] = {}
    for number, shard in enumerate(shards):
        try:
            # "r:" and not "r": a compressed shard cannot be read by seeking.
            with tarfile.open(shard, "r:") as archive:
                _add(items, number, shard, archive)
        except tarfile.TarError as error:
            raise DataError(f"wds:{shard}: not a whole, uncompressed tar file ({error})") from error
    for item in items.values():
        if not item.name or item.label < 0:
            raise DataError(f"wds:{item.id}: has no {'label (.cls)' if item.name else 'image'}")
    if not items:
        raise DataError(f"wds:{shards[0].parent}: no items in {len(shards)} shards")
    return list(items.values())


def _add(items: dict[str, _Item], number: int, shard: Path, archive: tarfile.TarFile) -> None:
    for member in archive:
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        key = "/".join(part for part in (shard.name, folder.removeprefix("./"), stem) if part)
        item = items.setdefault(key, _Item(key, number))
        if f".{extension.lower()}" in EXTENSIONS:
            if item.name:
                raise DataError(f"wds:{shard}: {key} has two images, {item.name} and {member.name}")
            item.name, item.offset, item.size = member.name, member.offset_data, member.size
        elif extension == "cls":
            item.label = _label(shard, archive, member)


def _label(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read().decode("ascii", "replace").strip() if file else ""
    if not text.isdigit():
        raise DataError(f"wds:{shard}: {member.name} holds {text[:20]!r}, expected a class number")
    return int(text)


def _class_names(folder: Path, items: dict[str, list[_Item]]) -> tuple[str, ...]:
    listed = folder / "classnames.txt"
    if listed.is_file():
        return tuple(listed.read_text(encoding="utf-8").splitlines())
    highest = max(item.label for found in items.values() for item in found)
    return tuple(str(number) for number in range(highest + 1))


def _split(shards: Sequence[Path], items: Sequence[_Item], *, full_hash: bool) -> Split:
    where = np.array([(item.shard, item.offset, item.size) for item in items], dtype=np.int64)
    names = [f"{shards[item.shard]}/{item.name}" for item in items]
    members = _Members(shards, where, names)
    return Split(
        ids=[item.id for item in items],
        image=members,
        targets=np.array([item.label for item in items]),
        fingerprint=fingerprint(_rows(shards, items, members, full_hash=full_hash)),
    )


def _rows(
    shards: Sequence[Path], items: Sequence[_Item], members: _Members, *, full_hash: bool
) -> Iterator[list[str | int]]:
    for shard in shards:
        yield [shard.name, shard.stat().st_size]
    for index, item in enumerate(items):
        content = [hashlib.sha256(members.read(index)).hexdigest()] if full_hash else []
        yield [item.id, item.size, *content, item.label]
