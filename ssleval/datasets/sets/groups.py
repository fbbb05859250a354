"""groups:FOLDER or groups:FILE.json, images in groups: every image is a query for the others of its group.

FOLDER holds one folder of images for every group; images in a folder ``distractors`` belong to no group.
FILE.json holds {"groups": {NAME: [FILE, ...]}, "distractors": [FILE, ...]}, with paths relative to it;
``distractors`` is optional. There is one split, ``images``; groups come sorted by name.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.targets import SameGroup
from ssleval.datasets.files.images import class_files, class_folders, file_split
from ssleval.datasets.files.places import located, places
from ssleval.datasets.published import read_json
from ssleval.errors import DataError

DISTRACTORS = "distractors"


@datasets.register("groups")
def groups(location: str, options: DatasetOptions) -> Dataset:
    """Open grouped images."""
    path = located("groups", location, "FOLDER or groups:FILE.json")
    in_file = path.suffix == ".json"
    root = path.parent if in_file else path
    paths, group = _groups_of_file(path) if in_file else _groups_of_folder(path)
    spelt = list(map(places(root), paths)) if in_file else paths
    if len(set(spelt)) < len(paths):
        twice = next(name for name, count in Counter(spelt).items() if count > 1)
        raise DataError(f"groups:{path}: {twice} is listed twice; keep each image in one group")

    def open_split(split: str) -> Split:  # noqa: ARG001
        files = file_split(root, paths, group, full_hash=options.full_hash)
        return Split(paths, files.image, None, files.fingerprint, SameGroup(group))

    name, lengths, only = f"groups:{location}", {"images": len(paths)}, "images"
    card = DatasetCard(name, "groups", lengths=lengths, train_split=only, test_split=only, source=str(path))
    return Dataset(card, open_split)


def _groups_of_folder(root: Path) -> tuple[Sequence[str], Int64[np.ndarray, " n"]]:
    names = class_folders(root)
    paths, labels = class_files(root, names)
    numbers = {name: number for number, name in enumerate(name for name in names if name != DISTRACTORS)}
    return paths, np.array([numbers.get(name, -1) for name in names], np.int64)[labels]


def _groups_of_file(table: Path) -> tuple[Sequence[str], Int64[np.ndarray, " n"]]:
    stored = read_json(table)
    content: dict[str, Any] = stored if isinstance(stored, dict) else {}
    named, others = content.get("groups"), content.get(DISTRACTORS, [])
    if not isinstance(named, dict) or not all(map(_is_paths, [*named.values(), others])):
        raise DataError(
            f'groups:{table}: expected {{"groups": {{NAME: [FILE, ...]}}, "distractors": [FILE, ...]}}'
        )
    lists = [*(named[name] for name in sorted(named)), others]
    numbers = np.array([*range(len(named)), -1], np.int64)
    return list(chain.from_iterable(lists)), np.repeat(numbers, [len(files) for files in lists])


def _is_paths(files: Any) -> bool:
    return isinstance(files, list) and all(isinstance(path, str) and path for path in files)
