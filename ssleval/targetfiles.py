"""Dense targets in files beside the images: masks of class indices.

Mask values are translated as the set publishes them, and a value it does not name stops the run: a
mask saved as colours, as JPEG or by another numbering would otherwise score as a bad model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import IGNORED, Split
from ssleval.errors import DataError
from ssleval.imagefiles import DAMAGED, ImageFiles, fingerprint, images_below, size_and_hash

__all__ = ["MaskFiles", "by_stem", "mask_split", "named_classes", "paired"]


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Reads the i-th of a list of masks; survives pickling."""

    root: Path
    images: Sequence[str]
    masks: Sequence[str]
    classes: Mapping[int, int]
    """Stored value to class, or to `IGNORED`; any other value is refused."""

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the classes of the pixels of image ``index``.

        Raises:
            DataError: damaged, in colours, of another size than its image, or with an unknown value.
        """
        path = self.root / self.masks[index]
        stored = _indices(path)
        size = _size(self.root / self.images[index])
        if stored.shape != size[::-1]:
            found = "x".join(map(str, stored.shape[::-1]))
            raise DataError(f"{path}: {found} pixels for an image of {size[0]}x{size[1]}; masks must fit")
        table = np.full(256, -1, dtype=np.int16)
        table[list(self.classes)] = list(self.classes.values())
        mask = table[stored]
        if (mask < 0).any():
            value = int(stored[mask < 0][0])
            known = ", ".join(map(str, sorted(self.classes)))
            raise DataError(f"{path}: value {value} is no class of this set; known are {known}")
        return mask.astype(np.uint8)


def mask_split(
    root: Path,
    images: Sequence[str],
    masks: Sequence[str],
    classes: Mapping[int, int],
    *,
    full_hash: bool = False,
) -> Split:
    """Return the split of image and mask files relative to ``root``; ids are the images' paths.

    Raises:
        DataError: a file is missing.
    """
    rows = [
        [name, *size_and_hash(str(root / name), full_hash=full_hash)]
        for pair in zip(images, masks, strict=True)
        for name in pair
    ]
    rows.append([f"{value}:{label}" for value, label in sorted(classes.items())])
    return Split(
        ids=images,
        image=ImageFiles(root, images),
        targets=None,
        fingerprint=fingerprint(rows),
        target=MaskFiles(root, images, masks, classes),
    )


def named_classes(count: int, *ignored: int) -> dict[int, int]:
    """Return the identity of ``count`` classes, with the values that are ignored; `IGNORED` always is."""
    return {**{label: label for label in range(count)}, **dict.fromkeys((*ignored, IGNORED), IGNORED)}


def by_stem(folder: Path) -> dict[str, str]:
    """Return the images in ``folder`` and below: relative path without its ending, to the whole of it.

    In code-point order, the same on every file system.

    Raises:
        DataError: no such folder, no image in it, or two that differ in their ending alone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths = sorted(path.removeprefix("./") for path in images_below(folder, "."))
    found: dict[str, str] = {}
    for path in paths:
        stem = str(PurePosixPath(path).with_suffix(""))
        if stem in found:
            raise DataError(f"{folder}: {found[stem]} and {path} have one name; keep one of them")
        found[stem] = path
    if not found:
        raise DataError(f"{folder}: no images in it")
    return found


def paired(images: Path, targets: Path) -> tuple[list[str], list[str]]:
    """Return the files of two folders that share a name, relative to each folder, in order.

    Raises:
        DataError: one of the two has a name that the other lacks.
    """
    here, there = by_stem(images), by_stem(targets)
    alone = sorted(set(here) ^ set(there))
    if alone:
        where = images if alone[0] in here else targets
        raise DataError(
            f"{where}: {alone[0]} has no partner in {targets if where == images else images} "
            f"({len(alone)} such files); every image needs a target of the same name"
        )
    return list(here.values()), list(there.values())


def _indices(path: Path) -> UInt8[np.ndarray, "H W"]:
    try:
        with Image.open(path) as image:
            image.load()
            # Of a palette image the indices are the labels; its colours are for people.
            if image.mode in {"L", "P"}:
                return np.asarray(image)
            if image.mode == "1":
                return np.asarray(image).astype(np.uint8)
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    raise DataError(f"{path}: pixels of mode {image.mode!r}, expected class indices of 8 bits")


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
