"""Places205: scenes, with the public validation set as the test."""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, published, read_lines
from ssleval.errors import DataError

CARD = DatasetCard(
    name="places205",
    classes=205,
    lengths={"train": 2_448_873, "val": 20_500},
    test_split="val",
    license="non-commercial research and education",
    source="Zhou et al. 2014, http://places.csail.mit.edu (132 GB at 256 pixels): the archives unpacked as "
    "they are, data/vision/torralba/deeplearning/images256/ and trainvalsplit_places205/ in places205/",
)

IMAGES = "data/vision/torralba/deeplearning/images256"


@published(
    CARD,
    f"{IMAGES}/a/abbey/NAME.jpg",
    "trainvalsplit_places205/train_places205.csv",
    "trainvalsplit_places205/val_places205.csv",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read lists with lines of a path and a class number; the name of a class is that of its folder."""
    val = _rows(root, "val")
    names = {label: path.rpartition("/")[0] for path, label in val}
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{root}: class numbers do not run from 0 to {len(names) - 1}")

    def open_split(split: str) -> Split:
        rows = val if split == "val" else _rows(root, split)
        targets = np.array([label for _, label in rows])
        return file_split(root / IMAGES, [path for path, _ in rows], targets, full_hash=options.full_hash)

    readable = [names[label].split("/", 1)[-1].replace("_", " ") for label in range(len(names))]
    return Copy(tuple(readable), open_split)


def _rows(root: Path, split: str) -> list[tuple[str, int]]:
    listed = root / "trainvalsplit_places205" / f"{split}_places205.csv"
    rows = [line.rsplit(maxsplit=1) for line in read_lines(listed)]
    if any(len(row) != 2 or not row[1].isdigit() for row in rows):
        raise DataError(f"{listed}: expected lines of PATH CLASS")
    return [(path, int(label)) for path, label in rows]
