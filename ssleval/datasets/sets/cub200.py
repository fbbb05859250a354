"""Caltech-UCSD Birds 200-2011, with its own split."""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, first_folder, published, read_lines
from ssleval.errors import DataError

CARD = DatasetCard(
    name="cub200",
    classes=200,
    lengths={"train": 5_994, "test": 5_794},
    license="not stated; non-commercial research",
    source="Wah et al. 2011, doi 10.22002/D1.20098 (1.2 GB): CUB_200_2011/ in cub200/",
)


@published(
    CARD,
    "CUB_200_2011/images/001.Black_footed_Albatross/NAME.jpg",
    "CUB_200_2011/images.txt",
    "CUB_200_2011/image_class_labels.txt",
    "CUB_200_2011/train_test_split.txt",
    "CUB_200_2011/classes.txt",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the numbered lists; every line holds a number and a value."""
    base = first_folder(root, ("CUB_200_2011", "."), "images.txt")
    paths = _column(base / "images.txt")
    labels = _column(base / "image_class_labels.txt")
    is_train = _column(base / "train_test_split.txt")
    if not paths.keys() == labels.keys() == is_train.keys():
        raise DataError(f"{base}: images.txt, image_class_labels.txt and train_test_split.txt disagree")

    def open_split(split: str) -> Split:
        chosen = [key for key in paths if is_train[key] == ("1" if split == "train" else "0")]
        files, targets = [paths[key] for key in chosen], np.array([int(labels[key]) - 1 for key in chosen])
        return file_split(base / "images", files, targets, full_hash=options.full_hash)

    # Folder names are 001.Black_footed_Albatross.
    names = [name.partition(".")[2].replace("_", " ") for name in _column(base / "classes.txt").values()]
    return Copy(tuple(names), open_split)


def _column(listed: Path) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in read_lines(listed))
