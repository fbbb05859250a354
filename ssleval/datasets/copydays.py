"""copydays, INRIA's holiday pictures and their copies: 157 originals, cropped, compressed, or attacked.

Files as published: original/, strong/, crops/PERCENT/ and jpegqual/QUALITY/ in copydays/, each block a split;
scored on ``strong`` (``--split crops/50`` for another). The split ``database`` holds the originals and the
images of a folder distractors/, where there is one; a folder whitening/ holds images to learn a whitening on.
The paper of DINO took 10,000 and 20,000 images of YFCC100M for these; how many there are is recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from ssleval.core import Dataset, DatasetCard, DatasetOptions, Split, datasets
from ssleval.errors import ConfigError, DataError
from ssleval.groups import Groups
from ssleval.imagefiles import class_files, file_split

__all__ = ["BLOCKS", "copydays"]

BLOCKS: Mapping[str, int] = {
    "original": 157,
    "strong": 229,
    **{f"crops/{percent}": 157 for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)},
    **{f"jpegqual/{quality}": 157 for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)},
}
"""Published number of images of every block."""
_PREFIX = 4
"""Characters of a file's name that say which original it is a copy of."""


@dataclass(frozen=True, slots=True)
class _Originals:
    rows: Int[np.ndarray, " n"]

    def __call__(self, index: int) -> Groups:
        none = np.zeros(0, np.int64)
        return Groups(self.rows[index : index + 1], none, none)


@datasets.register("copydays")
def copydays(location: str, options: DatasetOptions) -> Dataset:
    """Open the copy in the data root.

    Raises:
        ConfigError: something stands behind the colon.
        DataError: no such folder, a block is missing, or a copy has no original.
    """
    if location:
        raise ConfigError(f"copydays takes nothing behind a colon, got {location!r}; drop it")
    root = options.data_root.expanduser() / "copydays"
    if not root.is_dir():
        raise DataError(
            f"copydays: no folder {root}; set --data-root to the folder that holds copydays/; "
            "Douze et al. 2009, https://lear.inrialpes.fr/~jegou/data.php"
        )
    return opened(root, BLOCKS, options)


def opened(root: Path, blocks: Mapping[str, int], options: DatasetOptions) -> Dataset:
    """Open a copy whose blocks have so many images."""
    more = {name: _images(root, name) for name in ("distractors", "whitening") if (root / name).is_dir()}
    distractors = more.get("distractors", [])
    lengths = {**blocks, "database": blocks["original"] + len(distractors)}
    if "whitening" in more:
        lengths["whitening"] = len(more["whitening"])

    def open_split(split: str) -> Split:
        if split == "whitening":
            paths, rows = more["whitening"], None
        elif split == "database":
            paths, rows = [*_images(root, "original"), *distractors], None
        else:
            paths = _images(root, split)
            rows = _rows(root, paths)
        targets = np.full(len(paths), -1) if rows is None else rows
        files = file_split(root, paths, targets, full_hash=options.full_hash)
        return Split(paths, files.image, None, files.fingerprint, None if rows is None else _Originals(rows))

    card = DatasetCard(
        name="copydays",
        target="groups",
        lengths=lengths,
        train_split="database",
        test_split="strong",
        license="images: their owners'; research",
        source="Douze et al. 2009, https://lear.inrialpes.fr/~jegou/data.php: the four archives in copydays/",
    )
    return Dataset(card, open_split)


def _images(root: Path, block: str) -> list[str]:
    if not (root / block).is_dir():
        raise DataError(f"copydays: no folder {root / block}; unpack all four archives there")
    return class_files(root, (block,))[0]


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
