"""Image files on disk: which files count, how they decode, and the fingerprint of a list of them.

Decoding equals torchvision's default loader to the pixel: PIL, ``convert("RGB")``, the EXIF orientation
ignored (see `upright`), alpha dropped. Exceptions are where that loader silently returns a wrong image.
Greyscale of 16 bits keeps its high byte, as PIL does for colour of 16 bits; PIL would clip it to white. Pixel
types without a known range are refused, and TIFFs of several pages or of more bands than colour and alpha, of
which PIL shows some. So are images whose data end early, and files that are none of `FORMATS`.
"""

import hashlib
import json
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import EXTRASAMPLES, PHOTOMETRIC_INTERPRETATION, SAMPLESPERPIXEL, TiffImageFile

from ssleval.core import Split
from ssleval.core.files import file_sha256
from ssleval.core.text import some
from ssleval.datasets.files.names import Names
from ssleval.datasets.files.whole import load_whole
from ssleval.errors import ConfigError, DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""File name extensions of images, as torchvision lists them; compared in lower case."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
"""What PIL may take a file for, whatever its name: some of its other readers start programs."""

LARGEST = 2**31
"""Bytes of an image file that is read: more than the pixels of the largest that PIL decodes."""

SPLITS = ("train", "val", "test")
"""Names of splits in data of one's own; the last one that exists is scored."""

_STRAYS = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""What file managers and archivers leave behind."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error,
            zlib.error, Image.DecompressionBombError)  # fmt: skip
"""What PIL's plug-ins raise on a file that is truncated, corrupt or no image."""

_SUBFILE = 254
"""Tag of a page that is a smaller copy or a mask of another."""
_COLOURS = {0: "L", 1: "L", 3: "P", 5: "CMYK"}
"""Bands of colour by photometric interpretation; of others three."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CHOOSE = "choose three bands and save them as RGB of 8 bits, in PNG or TIFF"
"""The way out for images of other channels."""


@contextmanager
def opened(file: Path | bytes, name: str) -> Generator[Image.Image]:
    """Decode an encoded image whole; messages call it ``name``.

    Raises:
        DataError: the image is missing, damaged, cut short, or no regular file of one of `FORMATS`.
        ConfigError: PIL is set to fill damaged images with grey.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(f"{name}: PIL's LOAD_TRUNCATED_IMAGES is set; unset it, or damaged images score")
    with header(file, name) as (image, content):
        load_whole(image, content)
        yield image


@contextmanager
def header(file: Path | bytes, name: str) -> Generator[tuple[Image.Image, bytes]]:
    """Open an encoded image, whose size and mode are known then, and its content; errors as `opened`."""
    content = b""
    try:
        content = file if isinstance(file, bytes) else _read(file)
        # PIL warns about palettes with transparency and about large images; neither changes a pixel here.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(BytesIO(content), formats=FORMATS) as image,
        ):
            yield image, content
    except DAMAGED as error:
        raise _undecodable(name, error, content) from error


def _undecodable(name: str, error: Exception, content: bytes = b"") -> DataError:
    unknown = isinstance(error, UnidentifiedImageError)
    # Many bands of 16 bits make PIL fail in this way.
    if content[:4] in _TIFF and (unknown or "in range(0, 256)" in str(error)):
        why = "a TIFF cut short, or of bands that are no colours"
        return DataError(f"{name}: cannot be decoded ({why}); {_CHOOSE}, or remove it")
    known = f"none of {', '.join(FORMATS)}" if unknown else error
    return DataError(f"{name}: cannot be decoded ({known}); replace or remove it")


def _read(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    if status.st_size > LARGEST:
        raise OSError(f"{status.st_size:,} bytes, at most {LARGEST:,} are read")
    return path.read_bytes()


def decode(file: Path | bytes, name: str) -> Image.Image:
    """Decode a whole image, which messages call ``name``, to RGB.

    Raises:
        DataError: as `opened`, or the pixels are of a type without a known range.
        ConfigError: PIL is set to fill damaged images with grey.
    """
    with opened(file, name) as image:
        pixels = _to_rgb(image, name)
        if isinstance(image, TiffImageFile):
            _refuse_bands(image, name)
        return pixels


def _refuse_bands(image: TiffImageFile, name: str) -> None:
    """Refuse a TIFF of which PIL has dropped bands or shows one page of several."""
    bands = image.tag_v2.get(SAMPLESPERPIXEL, 1)
    extra = image.tag_v2.get(EXTRASAMPLES, ())
    # 1 and 2 are alpha; 0 is unspecified: infrared, as a rule.
    alpha = len(extra) == 1 and extra[0] in {1, 2}
    if bands - alpha > len(_COLOURS.get(image.tag_v2.get(PHOTOMETRIC_INTERPRETATION, 2), "RGB")):
        raise DataError(f"{name}: {bands} bands, of which more than alpha are no colours; {_CHOOSE}")
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return
    if image.size == size and not image.tag_v2.get(_SUBFILE, 0):
        raise DataError(f"{name}: a TIFF of {image.n_frames} pages; save each page as an image, or {_CHOOSE}")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        grey = Image.fromarray((pixels >> 8).astype(np.uint8)).convert("RGB")
        grey.info = image.info  # EXIF
        return grey
    if image.mode in {"I", "F"}:
        raise DataError(
            f"{name}: pixels of mode {image.mode!r} have no known range; save it with 8 or 16 bits"
        )
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Decodes the i-th file of a list; can be pickled."""

    root: Path
    paths: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        """Decode file ``index`` to RGB."""
        path = self.path(index)
        return decode(path, str(path))

    def encoded(self, index: int) -> bytes:
        """Return the content of file ``index``; errors as `opened`."""
        path = self.path(index)
        try:
            return _read(path)
        except OSError as error:
            raise _undecodable(str(path), error) from error

    def path(self, index: int) -> Path:
        """Return the path of file ``index``, which is to be read."""
        return self.root / self.paths[index]

    def file(self, index: int) -> str:
        """Return the path of file ``index``."""
        return f"{self.root}/{self.paths[index]}"


def file_split(
    root: Path,
    paths: Sequence[str],
    targets: Shaped[np.ndarray, "n ..."] | None = None,
    *,
    full_hash: bool = False,
) -> Split:
    """Return the split of the files ``root / path``, in the given order; DataError where one is missing.

    Args:
        root: folder that the paths are relative to; not part of the fingerprint.
        paths: files in order, with forward slashes; they become the ids.
        targets: int64 labels ``[n]``, or multi-labels ``[n c]``, bool or with -1 for a label that counts
            neither way; None where images have no label.
        full_hash: fingerprint the content of every file as well.
    """
    sizes = file_rows(root, paths, full_hash=full_hash)
    labels = [0] * len(paths) if targets is None else _plain(targets)
    rows = ([*size, label] for size, label in zip(sizes, labels, strict=True))
    return Split(paths, ImageFiles(root, paths), targets, fingerprint(rows))


def fingerprint(rows: Iterable[Sequence[Any]]) -> str:
    """Return the sha256 of rows, in their order, of what decides the score of each item.

    That is its name, the size of its file in bytes, on request the sha256 of the content, and its label; not
    where the file lies.
    """
    total, encode = hashlib.sha256(), json.JSONEncoder().encode
    for row in rows:
        total.update(encode(list(row)).encode() + b"\n")
    return total.hexdigest()


def file_rows(root: Path, paths: Iterable[str], *, full_hash: bool) -> Iterator[list[Any]]:
    """Yield what a fingerprint holds of every file: path, size in bytes, on request the sha256."""
    # Called a million times for ImageNet: os and not pathlib, which takes four times as long.
    folder = str(root)
    for name in paths:
        path = os.path.join(folder, name)  # noqa: PTH118
        try:
            size = _size(path, name)
            yield [name, size, file_sha256(path)] if full_hash else [name, size]
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path}: {reason}; the list of images names it") from error


def _size(path: str, name: str) -> int:
    try:
        name.encode()
    except UnicodeError as error:
        raise ValueError("its name is no UTF-8, in which results are stored") from error
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    return status.st_size


def _plain(targets: Shaped[np.ndarray, "n ..."]) -> Iterable[Any]:
    # As JSON can hold them: ints, or the positions of the labels that are set.
    if targets.ndim == 1:
        return map(int, targets)
    if targets.dtype == np.bool_:
        return (np.flatnonzero(row).tolist() for row in targets)
    return ([np.flatnonzero(row > 0).tolist(), np.flatnonzero(row < 0).tolist()] for row in targets)


def split_folders(root: Path, owner: str = "") -> tuple[str, ...]:
    """Return which of train, val and test are folders in ``root``: the first and another, else DataError."""
    if not root.is_dir():
        raise DataError(f"{owner}{root}: no such folder")
    splits = tuple(name for name in SPLITS if (root / name).is_dir())
    if splits[:1] != ("train",) or len(splits) < 2:
        there = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())[:12]) or "no folder"
        raise DataError(f"{owner}{root}: needs train/ with val/ or test/, found {there}; rename them")
    return splits


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the names of the folders in ``root``, sorted by code point as torchvision sorts them."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    folders: list[str] = []
    linked = False
    with os.scandir(root) as entries:
        for entry in entries:
            if is_stray(entry.name):
                continue
            if entry.is_dir():
                folders.append(entry.name)
                linked = linked or entry.is_symlink()
            elif entry.name.lower().endswith(EXTENSIONS):
                raise DataError(f"{entry.path}: an image outside any class folder; put it in one")
    if not folders:
        raise DataError(f"{root}: no class folders; expected one folder of images for every class")
    if linked and len({(root / name).resolve() for name in folders}) < len(folders):
        raise DataError(f"{root}: two class folders are one, through a link; an image has one class")
    return tuple(sorted(folders))


def refuse_other_classes(owner: str, root: Path, folders: Sequence[str], names: Sequence[str]) -> None:
    """Refuse ``folders`` of ``root`` that have other class folders than ``names``, which the first has."""
    for folder in folders[1:]:
        if unlike := sorted(set(names) ^ set(class_folders(root / folder))):
            raise DataError(
                f"{owner}:{root}: {some(unlike)} not in both {folders[0]}/ and {folder}/; all need the same "
                "classes"
            )


def class_files(
    root: Path, names: Sequence[str], seen: Callable[[str], object] | None = None
) -> tuple[Names, Int64[np.ndarray, " n"]]:
    """Return the images in the class folders ``names``, and the position in ``names`` of each image's class.

    Images come class by class, within a class by relative path in code-point order: the same order on every
    file system. Images in sub-folders count. A file that is neither an image nor a known stray is refused.
    ``seen`` is called with every folder before it is read.
    """
    counts = np.zeros(len(names), np.int64)

    def listed() -> Iterator[str]:
        for label, name in enumerate(names):
            paths = sorted(images_below(str(root / name), name, seen=seen))
            if not paths:
                raise DataError(f"{root / name}: no images in this class; add some or remove the folder")
            counts[label] = len(paths)
            yield from paths

    paths = Names(listed())
    return paths, np.repeat(np.arange(len(names)), counts)


def is_stray(name: str) -> bool:
    """Return whether a file or folder of this name is passed over: hidden, or left behind by a program."""
    return name.startswith(".") or name.lower() in _STRAYS


def images_below(
    folder: str,
    prefix: str,
    around: tuple[str, ...] = (),
    seen: Callable[[str], object] | None = None,
    passing: Container[str] = (),
) -> Iterator[str]:
    """Yield ``prefix/PATH`` of every image in ``folder`` and the folders below it, in no order.

    ``around`` are folders that links led from and to; DataError where a link leads back. ``seen`` is called
    with every folder before it is read. Files called as in ``passing`` are passed over, there alone.
    """
    if seen is not None:
        seen(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            name, lower = entry.name, entry.name.lower()
            if is_stray(name):
                continue
            if entry.is_dir():
                inside = _around(entry, folder, around) if entry.is_symlink() else around
                yield from images_below(entry.path, f"{prefix}/{name}", inside, seen)
            elif lower.endswith(EXTENSIONS):
                yield f"{prefix}/{name}"
            elif lower != "tmp" and name not in passing:  # Caltech-101 is published with such a file
                known = " ".join(sorted(EXTENSIONS))
                raise DataError(f"{entry.path}: not an image ({known}); convert or remove it")


def _around(link: os.DirEntry[str], folder: str, around: tuple[str, ...]) -> tuple[str, ...]:
    target, inside = os.path.realpath(link.path), (*around, os.path.realpath(folder))
    if any(f"{one}/".startswith(f"{target}/") for one in inside):
        raise DataError(f"{link.path}: a link to a folder that holds it; remove it")
    return (*inside, target)
