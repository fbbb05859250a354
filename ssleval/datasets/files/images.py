"""Image files on disk: which ones count, how they decode, and the fingerprint of a list of them.

Decoding is what torchvision's default loader does, to the pixel: PIL, ``convert("RGB")``, the EXIF
orientation not applied, alpha dropped. It differs where that loader would give a wrong picture in
silence: 16-bit greyscale keeps its high byte (PIL would clip it to white), as PIL itself does for
16-bit colour, and pixels without a known range are refused.
"""

import hashlib
import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageFile

from ssleval.core import Split
from ssleval.errors import ConfigError, DataError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Compared in lower case: torchvision's list."""

IGNORED = frozenset({"thumbs.db", "desktop.ini"})
"""What file managers leave behind; hidden files are passed over as well."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error,
           Image.DecompressionBombError)  # fmt: skip
"""What PIL's plug-ins raise on files that are cut short, corrupt or no image at all."""


def decode(file: Path | bytes, name: str) -> Image.Image:
    """Decode a whole image to RGB.

    Args:
        file: a path, or the encoded bytes.
        name: what error messages call it.

    Raises:
        DataError: it is missing, damaged, or of a pixel type without a known range.
        ConfigError: PIL was told to fill damaged images with grey.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(f"{name}: PIL's LOAD_TRUNCATED_IMAGES is set; unset it, or damaged images score")
    try:
        # PIL warns of palettes with transparency and of large images: neither changes a pixel here.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image,
        ):
            image.load()
            return _to_rgb(image, name)
    except DAMAGED as error:
        raise DataError(f"{name}: cannot be decoded ({error}); replace or remove it") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        return Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise DataError(
            f"{name}: pixels of mode {image.mode!r} have no known range; save it with 8 or 16 bits"
        )
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Decodes the i-th of a list of files; survives pickling."""

    root: Path
    paths: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        """Decode file ``index`` to RGB, or raise DataError naming it."""
        path = self.root / self.paths[index]
        return decode(path, str(path))


def file_split(
    root: Path,
    paths: Sequence[str],
    targets: Shaped[np.ndarray, "n ..."],
    *,
    full_hash: bool = False,
) -> Split:
    """Return the split of the files ``root / path``, in the order given.

    Args:
        root: folder the paths are relative to; not part of the fingerprint.
        paths: files in order, with forward slashes; they are the ids.
        targets: int64 labels ``[n]`` or bool multi-labels ``[n c]``.
        full_hash: fingerprint the content of every file as well.

    Raises:
        DataError: a file is missing.
    """
    rows = (
        [path, *size_and_hash(os.path.join(root, path), full_hash=full_hash), label]  # noqa: PTH118
        for path, label in zip(paths, _plain(targets), strict=True)
    )
    return Split(paths, ImageFiles(root, paths), targets, fingerprint(rows))


def fingerprint(rows: Iterable[Sequence[Any]]) -> str:
    """Return the sha256 of rows of strings and numbers, in their order.

    A row holds the name of an item, the size of its file in bytes, on request the sha256 of its
    content, and its label: everything that decides a score, and nothing of where the files lie.
    """
    total, encode = hashlib.sha256(), json.JSONEncoder().encode
    for row in rows:
        total.update(encode(list(row)).encode() + b"\n")
    return total.hexdigest()


def _plain(targets: Shaped[np.ndarray, "n ..."]) -> list[Any]:
    """Return labels as JSON can hold them: ints, or the positions of the labels that are set."""
    return targets.tolist() if targets.ndim == 1 else [np.flatnonzero(row).tolist() for row in targets]


def size_and_hash(path: str, *, full_hash: bool) -> list[Any]:
    """Return what a fingerprint says of a file: its bytes, on request the sha256 of its content.

    Raises:
        DataError: there is no such file.
    """
    # Called a million times for ImageNet: os and not pathlib, which takes four times as long.
    try:
        size = os.stat(path).st_size  # noqa: PTH116
        if not full_hash:
            return [size]
        with open(path, "rb") as file:  # noqa: PTH123
            return [size, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the list of images names it") from error


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in ``root``, sorted by code point as torchvision sorts them.

    Raises:
        DataError: there is none, or an image lies beside them.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                raise DataError(f"{entry.path}: an image outside any class folder; put it in one")
    if not folders:
        raise DataError(f"{root}: no class folders; expected one folder of images for every class")
    return tuple(sorted(folders))


def class_files(root: Path, names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the images of the class folders ``names``, and the position in ``names`` of each.

    Class by class, within a class by relative path in code-point order: the same on every file
    system. Images in sub-folders count.

    Raises:
        DataError: a class has no image, or a file that is neither an image nor a known stray.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(images_below(root / name, name))
        if not found:
            raise DataError(f"{root / name}: no images in this class; add some or remove the folder")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def images_below(folder: Path, prefix: str) -> list[str]:
    """Return ``prefix/PATH`` of every image in ``folder`` and the folders in it, unsorted.

    Raises:
        DataError: a file that is neither an image nor a known stray.
    """
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                continue
            if entry.is_dir():
                found += images_below(folder / entry.name, f"{prefix}/{entry.name}")
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                found.append(f"{prefix}/{entry.name}")
            else:
                known = " ".join(sorted(EXTENSIONS))
                raise DataError(f"{entry.path}: not an image ({known}); convert or remove it")
    return found
