"""wds:PATTERN, local tar shards of KEY.jpg and KEY.cls, read in place without unpacking.

PATTERN is a folder (meaning its */*.tar, or else *.tar), a glob, or a name with braces:
{train,test}/{000..012}.tar. The folder of a shard names its split, or else a word of the shard's own name
does: train, val (also validation) or test. Shards to fit on may be absent, for tasks that fit nothing. Class
names are the lines of classnames.txt beside the folders; without that file they are the numbers. If a folder
holds nshards.txt, it must hold as many shards. Items come shard by shard, in stored order; hidden members are
passed over.
"""

import re
from pathlib import Path

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.datasets.files.images import SPLITS, is_stray
from ssleval.datasets.files.shards import Shards, list_shards, shard_paths
from ssleval.datasets.files.tables import refuse_untrained
from ssleval.datasets.published import read_lines, read_text
from ssleval.errors import DataError

_SPELT = {"validation": "val", "valid": "val"}


@datasets.register("wds")
def wds(location: str, options: DatasetOptions) -> Dataset:
    """Index tar shards by their headers."""
    shards = {split: list_shards(paths, options) for split, paths in _by_split(location).items()}
    if "train" in shards:
        refuse_untrained(f"wds:{location}", {split: images.labels for split, images in shards.items()})

    def open_split(split: str) -> Split:
        images = shards[split]
        return Split(images.ids, images, images.labels, images.fingerprint)

    name, names, scored = f"wds:{location}", _class_names(shards), "test" if "test" in shards else "val"
    lengths = {split: len(images.ids) for split, images in shards.items()}
    card = DatasetCard(name, "label", names, lengths=lengths, test_split=scored, source=location)
    return Dataset(card, open_split)


def _by_split(location: str) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for path in shard_paths(location, "wds"):
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


def _class_names(shards: dict[str, Shards]) -> tuple[str, ...]:
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
