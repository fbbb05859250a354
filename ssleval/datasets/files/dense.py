"""Dense targets in files beside the images: masks of class indices, and depth.

Mask values are translated as the set publishes them, and a value it does not name stops the run: a
mask saved as colours, as JPEG or by another numbering would otherwise score as a bad model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import yaml
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from ssleval.core import IGNORED, Split
from ssleval.datasets.files.images import DAMAGED, ImageFiles, file_rows, fingerprint, images_below
from ssleval.errors import DataError

Window: TypeAlias = tuple[float, float, float, float]
"""First and last + 1 row and column that count, as fractions of the sides, rounded down."""


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
        # Of a palette image the indices are the labels; its colours are for people.
        stored = _stored(path, ("L", "P", "1"), "class indices of 8 bits").astype(np.uint8)
        _fits(path, stored.shape, self.root / self.images[index])
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
    translation = [f"{value}:{label}" for value, label in sorted(classes.items())]
    files = file_rows(root, _alternating(images, masks), full_hash=full_hash)
    mark = fingerprint([*files, translation])
    return Split(images, ImageFiles(root, images), None, mark, MaskFiles(root, images, masks, classes))


@dataclass(frozen=True, slots=True)
class DepthFiles:
    """Reads the i-th of a list of 16-bit depth images; survives pickling."""

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
            DataError: damaged, not of 16 bits, or of another size than its image.
        """
        path = self.root / self.depths[index]
        stored = _stored(path, ("I;16", "I;16B", "I"), "depth of 16 bits")
        _fits(path, stored.shape, self.root / self.images[index])
        metres = stored.astype(np.float32) / np.float32(self.scale)
        metres[np.isin(stored, self.invalid)] = 0
        return inside(metres, self.window)


@dataclass(frozen=True, slots=True)
class DepthFormat:
    """How a folder of depth images stores metres."""

    scale: float = 1000.0
    """Stored units per metre."""
    invalid: tuple[int, ...] = (0, 65535)
    """Stored values that mean an unknown depth."""
    max_depth: float = 10.0
    """Metres."""


def read_format(path: Path) -> DepthFormat:
    """Return what a ``depth.yaml`` says, or the defaults where there is none.

    Raises:
        DataError: other settings, or values that are no positive numbers.
    """
    if not path.exists():
        return DepthFormat()
    try:
        said: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(said) - {"scale", "invalid", "max_depth"}
        if unknown:
            raise DataError(
                f"{path}: {', '.join(sorted(unknown))} unknown; it may say scale, invalid, max_depth"
            )
        plain = DepthFormat()
        form = DepthFormat(
            float(said.get("scale", plain.scale)),
            tuple(int(value) for value in said.get("invalid", plain.invalid)),
            float(said.get("max_depth", plain.max_depth)),
        )
        if not (form.scale > 0 and form.max_depth > 0):
            raise DataError(f"{path}: scale {form.scale}, max_depth {form.max_depth}; both must be positive")
    except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: expected numbers for scale, invalid and max_depth ({error})") from error
    return form


def inside(metres: Float32[np.ndarray, "H W"], window: Window) -> Float32[np.ndarray, "H W"]:
    """Return depth with everything outside a window unknown."""
    height, width = metres.shape
    sides = np.array([height, height, width, width])
    top, bottom, left, right = (np.array(window) * sides).astype(int).tolist()
    kept = np.zeros_like(metres)
    kept[top:bottom, left:right] = metres[top:bottom, left:right]
    return kept


def depth_split(images: ImageFiles, depths: DepthFiles, *, full_hash: bool = False) -> Split:
    """Return the split of images with depth; ids are the images' paths.

    Raises:
        DataError: a file is missing.
    """
    reading = [depths.scale, list(depths.invalid), list(depths.window)]
    files = file_rows(depths.root, _alternating(depths.images, depths.depths), full_hash=full_hash)
    return Split(depths.images, images, None, fingerprint([*files, reading]), depths)


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
    paths = sorted(path.removeprefix("./") for path in images_below(str(folder), "."))
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


def _stored(path: Path, modes: tuple[str, ...], expected: str) -> Shaped[np.ndarray, "H W"]:
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in modes:
                return np.array(image)
    except DAMAGED as error:
        raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
    raise DataError(f"{path}: pixels of mode {image.mode!r}, expected {expected}")


def _fits(path: Path, shape: tuple[int, ...], image_path: Path) -> None:
    """Refuse a target of another size than its image, of which only the header is read."""
    try:
        with Image.open(image_path) as image:
            width, height = image.size
    except DAMAGED as error:
        raise DataError(f"{image_path}: cannot be decoded ({error}); replace or remove it") from error
    if shape != (height, width):
        raise DataError(
            f"{path}: {shape[1]}x{shape[0]} pixels for an image of {width}x{height}; the two must fit"
        )


def _alternating(images: Sequence[str], targets: Sequence[str]) -> Iterator[str]:
    return chain.from_iterable(zip(images, targets, strict=True))
