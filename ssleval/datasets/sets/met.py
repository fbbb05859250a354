"""The Met: visitors' photographs of 224,408 exhibits of a museum, of other art and of other things.

Files as published: ground_truth/ holds testset.json, valset.json and the list of the database; images/ holds
MET/, test_met/, test_other/ and test_noart/. The database of `met` has all exhibits, that of `met_mini` has
33,501. Each set has a folder of its name; one folder may be a link to the other. A query that shows no
exhibit has label -1.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.datasets.files.images import file_split
from ssleval.datasets.files.places import leads_out
from ssleval.datasets.published import Copy, published, read_json
from ssleval.errors import DataError

DATABASES = {"met": "MET_database.json", "met_mini": "mini_MET_database.json"}


_TREE = (
    "ground_truth/MET_database.json or mini_MET_database.json",
    "ground_truth/testset.json",
    "ground_truth/valset.json",
    "images/MET/1/0.jpg",
    "images/test_met/",
    "images/test_other/",
    "images/test_noart/",
)


def read(name: str, root: Path, options: DatasetOptions) -> Copy:
    """Read the published lists, in their order; labels are exhibit numbers."""
    lists = {"database": DATABASES[name], "val": "valset.json", "test": "testset.json"}

    def open_split(split: str) -> Split:
        table = root / "ground_truth" / lists[split]
        content = read_json(table)
        if not isinstance(content, list):
            raise DataError(f"{table}: expected a list of images; fetch the published file again")
        paths = [_path(table, row, entry) for row, entry in enumerate(content)]
        (most, count), *_ = Counter(paths).most_common(1) or [("", 0)]
        if count > 1:
            raise DataError(f"{table}: {most} is listed {count} times; fetch the published file again")
        key = "id" if split == "database" else "MET_id"
        targets = np.array([_exhibit(table, row, entry, key) for row, entry in enumerate(content)], np.int64)
        # The archives of images hold MET/, test_met/ and so on, and no folder images/.
        base = root / "images" if (root / "images").is_dir() else root
        return file_split(base, paths, targets, full_hash=options.full_hash)

    return Copy((), open_split)


def _path(table: Path, row: int, entry: Any) -> str:
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not path:
        raise DataError(f"{table}: image {row} has no path; fetch the published file again")
    if "\\" in path or leads_out(path):
        raise DataError(
            f"{table}: image {row}: {path!r} leads out of images/; fetch the published file again"
        )
    return path


def _exhibit(table: Path, row: int, entry: Any, key: str) -> int:
    if key == "MET_id" and key not in entry:
        return -1
    number = entry.get(key)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**63:
        raise DataError(
            f"{table}: image {row}: {key} is {number!r}, not the number of an exhibit; "
            "fetch the published file again"
        )
    return number


def _publish(name: str, images: int, archive: str) -> None:
    card = DatasetCard(
        name=name,
        target="open_set",
        lengths={"database": images, "val": 2_165, "test": 19_319},
        train_split="database",
        license="images: The Met's (CC0) and their photographers'; annotation: not stated",
        source="Ypsilantis et al. 2021, arXiv:2202.01747, http://cmp.felk.cvut.cz/met/: the lists in "
        f"{name}/ground_truth/, {archive}, test_met, test_other and test_noart in {name}/images/",
    )
    published(card, *_TREE)(partial(read, name))


_publish("met", 397_121, "MET (28 GB)")
_publish("met_mini", 38_307, "small_MET (size not stated)")
