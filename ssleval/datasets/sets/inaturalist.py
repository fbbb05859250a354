"""iNaturalist 2018 and 2021: species, with the public validation set as the test."""

from functools import partial
from pathlib import Path

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.published import Copy, published, read_json
from ssleval.errors import DataError


def read(suffix: str, root: Path, options: DatasetOptions) -> Copy:
    """Read the JSON lists; labels are the category numbers, which must start at 0 without gaps."""
    tables = {split: root / f"{split}{suffix}.json" for split in ("train", "val")}
    categories = {row["id"]: str(row["name"]) for row in read_json(tables["val"])["categories"]}
    if sorted(categories) != list(range(len(categories))):
        raise DataError(f"{tables['val']}: category numbers do not run from 0 to {len(categories) - 1}")

    def open_split(split: str) -> Split:
        table = read_json(tables[split])
        label = {row["image_id"]: row["category_id"] for row in table["annotations"]}
        unlabelled = [row["file_name"] for row in table["images"] if row["id"] not in label]
        if unlabelled:
            raise DataError(f"{tables[split]}: {len(unlabelled)} images without a label: {unlabelled[0]}")
        paths = [str(row["file_name"]) for row in table["images"]]
        targets = np.array([label[row["id"]] for row in table["images"]])
        return file_split(root, paths, targets, full_hash=options.full_hash)

    return Copy(tuple(categories[number] for number in range(len(categories))), open_split)


def _publish(year: str, classes: int, train: int, val: int, files: str, *tree: str) -> None:
    card = DatasetCard(
        name=f"inat{year}",
        classes=classes,
        lengths={"train": train, "val": val},
        test_split="val",
        license="per image, non-commercial research",
        source=f"Van Horn et al. {year}, https://github.com/visipedia/inat_comp/tree/master/{year} {files}",
    )
    published(card, *tree)(partial(read, "2018" if year == "2018" else ""))


_publish(
    "2018", 8_142, 437_513, 24_426,
    "(120 GB): train_val2018/, train2018.json and val2018.json in inat2018/",
    "train_val2018/Actinopterygii/2229/NAME.jpg", "train2018.json", "val2018.json",
)  # fmt: skip
_publish(
    "2021", 10_000, 2_686_843, 100_000,
    "(224 GB and 8.4 GB): train/, val/, train.json and val.json in inat2021/",
    "train/CLASS/NAME.jpg", "val/CLASS/NAME.jpg", "train.json", "val.json",
)  # fmt: skip
