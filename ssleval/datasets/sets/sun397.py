"""SUN397: scenes, first of its ten published partitions, 50 training and 50 test images a class."""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, first_folder, published, read_lines
from ssleval.errors import DataError

LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}

CARD = DatasetCard(
    name="sun397",
    classes=397,
    lengths={"train": 19_850, "test": 19_850},
    license="not stated; non-commercial research",
    source="Xiao et al. 2010, https://vision.princeton.edu/projects/2010/SUN/ (37 GB): SUN397/ and "
    "Partitions.zip in sun397/",
)


@published(
    CARD,
    "SUN397/a/abbey/sun_aaa.jpg",
    "Partitions/ClassName.txt",
    "Partitions/Training_01.txt",
    "Partitions/Testing_01.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read partition 1; classes are numbered as in ClassName.txt."""
    # Partitions.zip holds no folder, and SUN397/ holds a ClassName.txt of its own.
    places = ("Partitions", ".", "SUN397/Partitions", "SUN397")
    names = read_lines(first_folder(root, places, "ClassName.txt") / "ClassName.txt")
    lists = first_folder(root, places, *LISTS.values())
    base = first_folder(root, ("SUN397", "."), names[0].strip("/"))
    number = {name: index for index, name in enumerate(names)}

    def open_split(split: str) -> Split:
        listed = lists / LISTS[split]
        paths = [line.removeprefix("/") for line in read_lines(listed)]
        classes = [f"/{path.rpartition('/')[0]}" for path in paths]
        unknown = sorted(set(classes) - number.keys())
        if unknown:
            raise DataError(f"{listed}: classes absent from ClassName.txt: {', '.join(unknown[:5])}")
        targets = np.array([number[name] for name in classes])
        return file_split(base, paths, targets, full_hash=options.full_hash)

    # /a/abbey, /a/airplane_cabin, /a/apartment_building/outdoor: the first folder is the initial letter.
    readable = [name.split("/", 2)[-1].replace("_", " ").replace("/", ", ") for name in names]
    return Copy(tuple(readable), open_split)
