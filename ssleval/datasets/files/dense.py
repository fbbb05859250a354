"""Dense targets in files beside the images: masks of class indices, and depth.

The values of a mask are translated as the set publishes them, and an unknown value stops the run. A mask that
was saved as colours, as JPEG or with another numbering would otherwise look like a bad model.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import yaml
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from ssleval.core import IGNORED, Split
from ssleval.core.settings import Positive, updated
from ssleval.datasets.files.images import DAMAGED, ImageFiles, file_rows, fingerprint, images_below
from ssleval.errors import DataError

Window: TypeAlias = tuple[float, float, float, float]
"""First and last + 1 row and column that count, as fractions of the sides, rounded down."""


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """Reads the i-th mask of a list; can be pickled."""

    root: Path
    images: Sequence[str]
    masks: Sequence[str]
    classes: Mapping[int, int]
    """Stored value to class, or to `IGNORED`; any other value is refused."""

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel of image ``index``.

        Raises:
            DataError: the mask is damaged, in colours, of another size than its image, or holds an unknown
                value.
        """
        path = self.root / self.masks[index]
        # The labels of a palette image are its indices; its colours are for display.
        stored = _stored(path, ("L", "P", "1"), "class indices of 8 bits").astype(np.uint8)
        _check_size(path, stored.shape, self.root / self.images[index])
        table = np.full(256, -1, dtype=np.int16)
        table[list(self.classes)] = list(self.classes.values())
        mask = table[stored]
        if (mask < 0).any():
            value, known = int(stored[mask < 0][0]), ", ".join(map(str, sorted(self.classes)))
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
    """Return the split of image and mask files relative to ``root``; ids are the paths of the images.

    Raises:
        DataError: a file is missing.
    """
    translation = [f"{value}:{label}" for value, label in sorted(classes.items())]
    mark = _fingerprint(root, images, masks, translation, full_hash=full_hash)
    return Split(images, ImageFiles(root, images), None, mark, MaskFiles(root, images, masks, classes))


@dataclass(frozen=True, slots=True)
class DepthFiles:
    """Reads the i-th 16-bit depth image of a list; can be pickled."""

    root: Path
    images: Sequence[str]
    depths: Sequence[str]
    scale: float
    """Stored units per metre: 1000 for millimetres."""
    invalid: tuple[int, ...] = (0,)
    """Stored values that mean an unknown depth."""
    window: Window = (0.0, 1.0, 0.0, 1.0)

    def __call__(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Return metres, 0 where unknown or outside the window.

        Raises:
            DataError: the depth is damaged, not of 16 bits, or of another size than its image.
        """
        path = self.root / self.depths[index]
        stored = _stored(path, ("I;16", "I;16B", "I"), "depth of 16 bits")
        _check_size(path, stored.shape, self.root / self.images[index])
        metres = stored.astype(np.float32) / np.float32(self.scale)
        metres[np.isin(stored, self.invalid)] = 0
        return inside(metres, self.window)


@dataclass(frozen=True, slots=True)
class DepthFormat:
    """How the depth images in a folder store metres."""

    scale: Positive = 1000.0
    """Stored units per metre."""
    invalid: tuple[int, ...] = (0, 65535)
    """Stored values that mean an unknown depth."""
    max_depth: Positive = 10.0
    """Metres."""


def read_format(path: Path) -> DepthFormat:
    """Return the settings in a ``depth.yaml``, or the defaults if the file does not exist.

    Raises:
        DataError: it is no YAML file of settings.
        UnknownNameError: it has a setting of another name.
        ConfigError: a value is no number, or not above 0.
    """
    if not path.exists():
        return DepthFormat()
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(stated, dict):
        raise DataError(f"{path}: expected lines such as scale: 1000")
    return updated(DepthFormat(), stated, str(path))


def inside(metres: Float32[np.ndarray, "H W"], window: Window) -> Float32[np.ndarray, "H W"]:
    """Return depth with everything outside a window set to unknown."""
    height, width = metres.shape
    sides = np.array([height, height, width, width])
    top, bottom, left, right = (np.array(window) * sides).astype(int).tolist()
    kept = np.zeros_like(metres)
    kept[top:bottom, left:right] = metres[top:bottom, left:right]
    return kept


def depth_split(images: ImageFiles, depths: DepthFiles, *, full_hash: bool = False) -> Split:
    """Return the split of images with depth; ids are the paths of the images.

    Raises:
        DataError: a file is missing.
    """
    reading = [depths.scale, list(depths.invalid), list(depths.window)]
    mark = _fingerprint(depths.root, depths.images, depths.depths, reading, full_hash=full_hash)
    return Split(depths.images, images, None, mark, depths)


def named_classes(count: int, *ignored: int) -> dict[int, int]:
    """Return the translation of masks whose value k is class k; ``ignored`` values and 255 count nowhere."""
    return {**{value: value for value in range(count)}, **dict.fromkeys((*ignored, IGNORED), IGNORED)}


def by_stem(folder: Path) -> dict[str, str]:
    """Return the images in ``folder`` and below: relative path without its extension, to the relative path.

    The order is that of code points, the same on every file system.

    Raises:
        DataError: the folder is missing, holds no image, or holds two that differ in their extension alone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    path_of: dict[str, str] = {}
    for path in sorted(path.removeprefix("./") for path in images_below(str(folder), ".")):
        stem = str(PurePosixPath(path).with_suffix(""))
        if stem in path_of:
            raise DataError(f"{folder}: {path_of[stem]} and {path} have one name; keep one of them")
        path_of[stem] = path
    if not path_of:
        raise DataError(f"{folder}: no images in it")
    return path_of


def paired(images: Path, targets: Path) -> tuple[list[str], list[str]]:
    """Return the files of two folders that share a name, relative to each folder, in order.

    Raises:
        DataError: one folder has a name that the other lacks.
    """
    image_of, target_of = by_stem(images), by_stem(targets)
    alone = sorted(set(image_of) ^ set(target_of))
    if alone:
        where, other = (images, targets) if alone[0] in image_of else (targets, images)
        raise DataError(
            f"{where}: {alone[0]} has no partner in {other} ({len(alone)} such files); every image needs a "
            "target of the same name"
        )
    return list(image_of.values()), list(target_of.values())


def _fingerprint(
    root: Path, images: Sequence[str], targets: Sequence[str], reading: Sequence[Any], *, full_hash: bool
) -> str:
    pairs = chain.from_iterable(zip(images, targets, strict=True))
    return fingerprint(chain(file_rows(root, pairs, full_hash=full_hash), [reading]))


def _stored(path: Path, modes: tuple[str, ...], expected: str) -> Shaped[np.ndarray, "H W"]:
    with _opened(path) as image:
        image.load()
        if image.mode in modes:
            return np.array(image)
    raise DataError(f"{path}: pixels of mode {image.mode!r}, expected {expected}")


def _check_size(path: Path, shape: tuple[int, ...], image_path: Path) -> None:
    """Refuse a target of another size than its image, of which only the header is read."""
    with _opened(image_path) as image:
        width, height = image.size
    if shape != (height, width):
        raise DataError(
            f"{path}: {shape[1]}x{shape[0]} pixels for an image of {width}x{height}; the two must fit"
        )


@contextmanager
def _opened(path: Path) -> Generator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
