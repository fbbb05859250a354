"""Copydays, INRIA's holiday pictures and their copies: 157 originals, cropped, compressed, or attacked.

Files as published: original/, strong/, crops/PERCENT/ and jpegqual/QUALITY/ in copydays/, each block a split;
scored on ``strong`` (``--split crops/50`` for another). The split ``database`` holds the originals and the
images of a folder distractors/, where there is one; a folder whitening/ holds images to learn a whitening on.
The paper of DINO took 10,000 and 20,000 images of YFCC100M for these; how many there are is recorded.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.core import DatasetCard, DatasetOptions, Split, datasets
from ssleval.core.targets import Groups
from ssleval.datasets.files.images import class_files, file_split
from ssleval.datasets.published import Copy, Published
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
    source="Douze et al. 2009, https://lear.inrialpes.fr/~jegou/data.php: the four archives in copydays/",
)
_PREFIX = 4
"""Characters of a file's name that say which original it is a copy of."""


@dataclass(frozen=True, slots=True)
class _Originals:
    rows: Int[np.ndarray, " n"]

    def __call__(self, index: int) -> Groups:
        none = np.zeros(0, np.int64)
        return Groups(self.rows[index : index + 1], none, none)


def read(root: Path, options: DatasetOptions) -> Copy:
    """Read the blocks, and the two folders of other images where there are any."""
    others = {name: _images(root, name) for name in ("distractors", "whitening") if (root / name).is_dir()}
    distractors = others.get("distractors", [])

    def open_split(split: str) -> Split:
        if split in {"database", "whitening"}:
            paths = [*_images(root, "original"), *distractors] if split == "database" else others[split]
            nothing = np.full(len(paths), -1)
            files = file_split(root, paths, nothing, full_hash=options.full_hash)
            return Split(paths, files.image, None, files.fingerprint)
        paths = _images(root, split)
        rows = _rows(root, paths)
        files = file_split(root, paths, rows, full_hash=options.full_hash)
        return Split(paths, files.image, None, files.fingerprint, _Originals(rows))

    more = {"database": len(distractors)}
    if "whitening" in others:
        more["whitening"] = len(others["whitening"])
    return Copy((), open_split, more)


def _images(root: Path, block: str) -> list[str]:
    if not (root / block).is_dir():
        raise DataError(f"copydays: no folder {root / block}; unpack all four archives there")
    return list(class_files(root, (block,))[0])


def _rows(root: Path, paths: list[str]) -> Int[np.ndarray, " n"]:
    """Return the place among the originals of what every image is a copy of."""
    prefixes = [Path(path).name[:_PREFIX] for path in _images(root, "original")]
    for path in paths:
        if prefixes.count(Path(path).name[:_PREFIX]) != 1:
            raise DataError(
                f"copydays: {root / path} must begin with the first {_PREFIX} characters of one original; "
                "the copy is not the published one"
            )
    return np.array([prefixes.index(Path(path).name[:_PREFIX]) for path in paths], dtype=np.int64)


datasets.register("copydays")(Published(CARD, read))
