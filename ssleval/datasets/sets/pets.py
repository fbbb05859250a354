"""Oxford-IIIT Pet: 37 breeds of cats and dogs."""

from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, first_folder, published, read_lines
from ssleval.errors import DataError

CARD = DatasetCard(
    name="pets",
    classes=37,
    lengths={"trainval": 3_680, "test": 3_669},
    train_split="trainval",
    metric="mean_per_class",
    license="CC-BY-SA-4.0",
    source="Parkhi et al. 2012, https://www.robots.ox.ac.uk/~vgg/data/pets/ (800 MB): images/ and "
    "annotations/ in pets/oxford-iiit-pet/",
)


@published(
    CARD,
    "oxford-iiit-pet/images/Abyssinian_1.jpg",
    "oxford-iiit-pet/annotations/trainval.txt",
    "oxford-iiit-pet/annotations/test.txt",
    downloads=True,
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the lists of ``annotations/``, which number classes from 1."""
    if options.download:
        from torchvision.datasets import OxfordIIITPet

        OxfordIIITPet(str(root), download=True)
    base = first_folder(root, ("oxford-iiit-pet", "."), "annotations")
    rows = {split: _rows(base / "annotations" / f"{split}.txt") for split in CARD.lengths}
    breeds = {label: image.rpartition("_")[0] for image, label in rows["trainval"]}

    def open_split(split: str) -> Split:
        paths = [f"images/{image}.jpg" for image, _ in rows[split]]
        targets = np.array([label - 1 for _, label in rows[split]])
        return file_split(base, paths, targets, full_hash=options.full_hash)

    return Copy(tuple(breeds[label].replace("_", " ") for label in sorted(breeds)), open_split)


def _rows(listed: Path) -> list[tuple[str, int]]:
    rows = [line.split() for line in read_lines(listed)]
    if any(len(row) != 4 for row in rows):
        raise DataError(f"{listed}: expected lines of IMAGE CLASS SPECIES BREED")
    return [(row[0], int(row[1])) for row in rows]
