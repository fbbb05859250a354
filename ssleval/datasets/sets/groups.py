"""groups:FOLDER or groups:FILE.json, images that show the same: each one asks for the others of its group.

A folder holds one folder of images for every group; one called ``distractors`` holds images of nothing
else. A JSON file says {"groups": {NAME: [FILE, ...]}, "distractors": [FILE, ...]}, the latter if it likes,
with paths relative to it. There is one split, ``images``; groups come sorted by name.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.targets import SameGroup
from ssleval.datasets.files.images import class_files, class_folders, file_split
from ssleval.datasets.published import read_json
from ssleval.errors import ConfigError, DataError

DISTRACTORS = "distractors"


@datasets.register("groups")
def groups(location: str, options: DatasetOptions) -> Dataset:
    """Open grouped images.

    Raises:
        ConfigError: no path is given.
        DataError: no such folder or file, no group, or an image that is listed twice.
    """
    if not location:
        raise ConfigError("groups: needs a path; write groups:FOLDER or groups:FILE.json")
    path = Path(location).expanduser()
    paths, labels = _listed(path) if path.suffix == ".json" else _found(path)
    if len(set(paths)) < len(paths):
        twice = [one for one, count in Counter(paths).items() if count > 1]
        raise DataError(f"groups:{path}: {twice[0]} is listed twice; keep each image in one group")
    root = path.parent if path.suffix == ".json" else path

    def open_split(split: str) -> Split:  # noqa: ARG001
        group = np.array(labels, dtype=np.int64)
        files = file_split(root, paths, group, full_hash=options.full_hash)
        return Split(paths, files.image, None, files.fingerprint, SameGroup(group))

    card = DatasetCard(
        name=f"groups:{location}",
        target="groups",
        lengths={"images": len(paths)},
        train_split="images",
        test_split="images",
        source=str(path),
    )
    return Dataset(card, open_split)


def _found(root: Path) -> tuple[list[str], list[int]]:
    names = class_folders(root)
    numbers = {name: number for number, name in enumerate(n for n in names if n != DISTRACTORS)}
    paths, labels = class_files(root, names)
    return paths, [numbers.get(names[label], -1) for label in labels]


def _listed(table: Path) -> tuple[list[str], list[int]]:
    content = read_json(table)
    named: Any = content.get("groups") if isinstance(content, dict) else None
    others: Any = content.get(DISTRACTORS, []) if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(map(_is_paths, [*named.values(), others])):
        raise DataError(
            f'groups:{table}: expected {{"groups": {{NAME: [FILE, ...]}}, "distractors": [FILE, ...]}}'
        )
    lists = [*(named[name] for name in sorted(named)), others]
    numbers = [*range(len(named)), -1]
    pairs = [(path, number) for files, number in zip(lists, numbers, strict=True) for path in files]
    return [path for path, _ in pairs], [number for _, number in pairs]


def _is_paths(files: Any) -> bool:
    return isinstance(files, list) and all(isinstance(one, str) and one for one in files)
