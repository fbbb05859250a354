"""Dense targets in files beside the images: masks of class indices, and depth.

The values of a mask are translated as the set publishes them, and an unknown value stops the run. A mask that
was saved as colours, as JPEG or with another numbering would otherwise look like a bad model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from msgspec import Meta
from PIL import Image

from ssleval.core import IGNORED, Split
from ssleval.core.settings import Positive, updated
from ssleval.core.yamlfile import read_yaml
from ssleval.datasets.files.images import (
    EXTENSIONS,
    ImageFiles,
    file_rows,
    fingerprint,
    header,
    images_below,
    is_stray,
    opened,
)
from ssleval.errors import DataError

Window: TypeAlias = tuple[float, float, float, float]
"""First and last + 1 row and column that count, as fractions of the sides, rounded down."""


@dataclass(frozen=True, slots=True)
class TargetFiles(ABC):
    """Images and targets of the same size, row by row; can be pickled."""

    root: Path
    images: Sequence[str]
    """Relative to ``root``, as are the targets."""
    targets: Sequence[str]

    def stored(
        self, index: int, modes: tuple[str, ...], expected: str, *, any_size: bool = False
    ) -> Shaped[np.ndarray, "H W *c"]:
        """Return the pixels of a target as they are in its file, which must have one of PIL's ``modes``."""
        path, image_path = self.root / self.targets[index], self.root / self.images[index]
        with opened(path, str(path)) as target:
            if target.mode not in modes:
                raise DataError(f"{path}: pixels of mode {target.mode!r}, expected {expected}")
            pixels = np.array(target)
        if any_size:
            return pixels
        with header(image_path, str(image_path)) as (image, _):
            width, height = image.size
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels for an image of {width}x{height}; "
                "the two must fit"
            )
        return pixels

    def split(self, reading: Sequence[Any], *, full_hash: bool) -> Split:
        """Return the split of these files; ids are the paths of the images.

        Its fingerprint is of all files and of ``reading``: how stored values are understood.
        """
        mark = self.fingerprint(reading, full_hash=full_hash)
        return Split(self.images, ImageFiles(self.root, self.images), None, mark, self)

    def fingerprint(self, reading: Sequence[Any], *, full_hash: bool) -> str:
        """Return the hash of all files and of ``reading``."""
        pairs = chain.from_iterable(zip(self.images, self.targets, strict=True))
        return fingerprint(chain(file_rows(self.root, pairs, full_hash=full_hash), [reading]))

    @abstractmethod
    def __call__(self, index: int) -> Any:
        """Return the target of image ``index``."""


@dataclass(frozen=True, slots=True)
class MaskFiles(TargetFiles):
    """Reads the i-th mask of a list."""

    classes: Mapping[int, int]
    """Stored value to class, or to `IGNORED`; any other value is refused."""

    def __call__(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Return the class of every pixel of image ``index``."""
        # The labels of a palette image are its indices; its colours are for display.
        stored = self.stored(index, ("L", "P", "1"), "class indices of 8 bits").astype(np.uint8)
        table = np.full(256, -1, dtype=np.int16)
        table[list(self.classes)] = list(self.classes.values())
        mask = table[stored]
        if (mask < 0).any():
            value, known = int(stored[mask < 0][0]), ", ".join(map(str, sorted(self.classes)))
            path = self.root / self.targets[index]
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
    """Return the split of image and mask files relative to ``root``; ids are the paths of the images."""
    translation = [f"{value}:{label}" for value, label in sorted(classes.items())]
    return MaskFiles(root, images, masks, classes).split(translation, full_hash=full_hash)


@dataclass(frozen=True, slots=True)
class DepthFiles(TargetFiles):
    """Reads the i-th 16-bit depth image of a list."""

    scale: float
    """Stored units per metre: 1000 for millimetres."""
    invalid: tuple[int, ...] = (0,)
    """Stored values that mean an unknown depth."""
    window: Window = (0.0, 1.0, 0.0, 1.0)
    any_size: bool = False
    """Whether images may have another size than their depth; `FittedImages` then gives them that one."""

    def __call__(self, index: int) -> Float32[np.ndarray, "H W"]:
        """Return metres, 0 where unknown or outside the window."""
        stored = self.stored(index, ("I;16", "I;16B", "I"), "depth of 16 bits", any_size=self.any_size)
        metres = stored.astype(np.float32) / np.float32(self.scale)
        metres[np.isin(stored, self.invalid)] = 0
        return inside(metres, self.window)


@dataclass(frozen=True, slots=True)
class FittedImages:
    """Decodes the i-th image and resizes it to its depth (bilinear), as scripts for ScanNet do."""

    depths: DepthFiles

    @property
    def paths(self) -> Sequence[str]:
        """Paths below the root."""
        return self.depths.images

    def __call__(self, index: int) -> Image.Image:
        """Return image ``index`` in RGB."""
        files = self.depths
        depth = files.root / files.targets[index]
        with header(depth, str(depth)) as (image, _):
            size = image.size
        return ImageFiles(files.root, files.images)(index).resize(size, Image.Resampling.BILINEAR)


def depth_split(depths: DepthFiles, *, full_hash: bool = False) -> Split:
    """Return the split of images with depth; ids are the paths of the images."""
    return depths.split([depths.scale, list(depths.invalid), list(depths.window)], full_hash=full_hash)


@dataclass(frozen=True, slots=True)
class DepthFormat:
    """How the depth images in a folder store metres."""

    scale: Positive = 1000.0
    """Stored units per metre."""
    invalid: tuple[int, ...] = (0, 65535)
    """Stored values that mean an unknown depth."""
    max_depth: Positive = 10.0
    """Metres."""
    radius: Annotated[int, Meta(ge=0, le=64)] = 3
    """Pixels on each side over which depth is averaged before it is differenced to normals."""
    edge: Positive = 0.03
    """Largest part of its depth by which neighbouring pixels of one surface may differ, for normals."""


def read_format(path: Path) -> DepthFormat:
    """Return the settings in a ``depth.yaml``, or the defaults if the file does not exist."""
    if not path.exists():
        return DepthFormat()
    stated = read_yaml(path)
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


def named_classes(count: int, *ignored: int) -> dict[int, int]:
    """Return the translation of masks whose value k is class k; ``ignored`` values and 255 count nowhere."""
    return {**{value: value for value in range(count)}, **dict.fromkeys((*ignored, IGNORED), IGNORED)}


def color_sequence(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Return names, images and depths of the frames NAME.color.EXT and NAME.depth.png, in order of names."""
    images = sorted(
        path.name
        for path in root.glob("*.color.*")
        if path.suffix.lower() in EXTENSIONS and not is_stray(path.name)
    )
    names = [image.rpartition(".color.")[0] for image in images]
    return names, images, [f"{name}.depth.png" for name in names]


def by_stem(root: Path, folder: str) -> dict[str, str]:
    """Return the images in ``folder`` and below: path in it without its extension, to path below ``root``.

    The order is that of code points, the same on every file system.
    """
    top = root / folder
    if not top.is_dir():
        raise DataError(f"{top}: no such folder")
    path_of: dict[str, str] = {}
    for path in sorted(images_below(str(top), folder)):
        stem = str(PurePosixPath(path).relative_to(folder).with_suffix(""))
        if stem in path_of:
            raise DataError(f"{root}: {path_of[stem]} and {path} have one name; keep one of them")
        path_of[stem] = path
    if not path_of:
        raise DataError(f"{top}: no images in it")
    return path_of


def paired(root: Path, images: str, targets: str) -> tuple[list[str], list[str]]:
    """Return the files of two folders that share a name, relative to ``root``, in order."""
    image_of, target_of = by_stem(root, images), by_stem(root, targets)
    alone = sorted(set(image_of) ^ set(target_of))
    if alone:
        where, other = (images, targets) if alone[0] in image_of else (targets, images)
        raise DataError(
            f"{root / where}: {alone[0]} has no partner in {root / other} ({len(alone)} such files); every "
            "image needs a target of the same name"
        )
    return list(image_of.values()), list(target_of.values())
