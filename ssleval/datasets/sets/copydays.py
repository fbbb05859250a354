"""Copydays: 157 holiday pictures of INRIA and their copies, cropped, compressed or strongly edited.

Files as published: original/, strong/, crops/PERCENT/ and jpegqual/QUALITY/ in copydays/. The archives of the
originals and of strong hold no folder: their files may lie in copydays/ itself, where the names of originals
end in 00. Each folder is a split; ``strong`` is the scored one (``--split crops/50`` for another). The split
``database`` holds the originals and the images of the optional folder distractors/. The optional folder
whitening/ holds images that a whitening is fitted on. DINO's paper used 10,000 and 20,000 images of YFCC100M
for these; the result records how many there are.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.core import DatasetCard, DatasetOptions, Split
from ssleval.core.targets import Groups
from ssleval.datasets.files.images import class_files, file_split
from ssleval.datasets.published import Copy, published
from ssleval.errors import DataError

CARD = DatasetCard(
    name="copydays",
    target="groups",
    lengths={
        "original": 157,
        "strong": 229,
        **{f"crops/{percent}": 157 for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)},
        **{f"jpegqual/{quality}": 157 for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)},
        "database": 157,
    },
    train_split="database",
    test_split="strong",
    license="images: their owners'; research",
    source="Douze et al. 2009, https://lear.inrialpes.fr/~jegou/data.php (size not stated): the four "
    "archives in copydays/",
)
_PREFIX = 4
"""Leading characters of a file name that identify the original."""


@published(
    CARD,
    "original/200000.jpg",
    "strong/200001.jpg",
    "crops/10/200000.jpg",
    "jpegqual/3/200000.jpg",
    "distractors/ and whitening/ (optional)",
)
def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the folders of copies, and the two optional folders of other images."""
    others = {name: _images(root, name) for name in ("distractors", "whitening") if (root / name).is_dir()}
    distractors = others.get("distractors", [])

    def open_split(split: str) -> Split:
        if split == "database":
            paths = [*_images(root, "original"), *distractors]
        else:
            paths = others[split] if split == "whitening" else _images(root, split)
        queries, none = split not in {"database", "whitening"}, np.zeros(0, np.int64)
        rows = _rows(root, paths) if queries else np.full(len(paths), -1)
        files = file_split(root, paths, rows, full_hash=options.full_hash)
        answers = [Groups(rows[index : index + 1], none, none) for index in range(len(rows))]
        return replace(files, targets=None, target=answers.__getitem__ if queries else None)

    more = {"database": len(distractors)}
    if "whitening" in others:
        more["whitening"] = len(others["whitening"])
    return Copy((), open_split, more)


def _images(root: Path, folder: str) -> list[str]:
    if (root / folder).is_dir():
        return list(class_files(root, (folder,))[0])
    loose = sorted(path.name for path in root.glob("[0-9]*.jpg"))
    chosen = [name for name in loose if name.endswith("00.jpg") == (folder == "original")]
    if folder not in {"original", "strong"} or not chosen:
        raise DataError(f"copydays: no folder {root / folder}; unpack all four archives there")
    return chosen


def _rows(root: Path, paths: list[str]) -> Int[np.ndarray, " n"]:
    prefixes = [Path(path).name[:_PREFIX] for path in _images(root, "original")]
    begun = [Path(path).name[:_PREFIX] for path in paths]
    if odd := [path for path, prefix in zip(paths, begun, strict=True) if prefixes.count(prefix) != 1]:
        raise DataError(
            f"copydays: {root / odd[0]} must begin with the first {_PREFIX} characters of one original; the "
            "copy is not the published one"
        )
    return np.array([prefixes.index(prefix) for prefix in begun], dtype=np.int64)
