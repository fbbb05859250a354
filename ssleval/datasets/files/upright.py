"""Images turned as their EXIF orientation says, on request: published protocols ignore it, as PIL does.

TIFF is the exception: PIL turns it whoever loads it, so that it is upright in published protocols too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO

from PIL import Image, ImageOps
from PIL.ExifTags import Base

from ssleval.core import Dataset, Split, digest
from ssleval.datasets.files.images import DAMAGED
from ssleval.errors import ConfigError, DataError

_WHOLE_IMAGES = {"label", "multilabel", "open_set", "groups", "captions", "none"}
"""Targets that stay right when an image is turned; masks, depth and key points would lie otherwise."""


def upright(dataset: Dataset) -> Dataset:
    """Return a dataset whose images are turned; its fingerprints are others, so that no feature is mistaken.

    Raises:
        ConfigError: its targets belong to places in the image.
    """
    card, fitted_on = dataset.card, dataset.fitted_on
    if card.target not in _WHOLE_IMAGES:
        raise ConfigError(
            f"{card.name}: exif turns images, and its targets ({card.target}) would not fit them; turn both "
            "on disk, or leave out --exif"
        )
    return Dataset(
        replace(card, exif=True),
        lambda name: _upright(dataset.split(name)),
        None if fitted_on is None else cache(lambda: upright(fitted_on())),
        dataset.pictures and f"{dataset.pictures}, upright",
    )


def _upright(split: Split) -> Split:
    return replace(
        split,
        image=_Upright(split.image, split.ids),
        fingerprint=digest([split.fingerprint, "upright"]),
        pictures=split.pictures and digest([split.pictures, "upright"]),
    )


@dataclass(frozen=True, slots=True)
class _Upright:
    """Decodes image i and turns it; can be pickled."""

    load: Callable[[int], Image.Image]
    ids: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        image = self.load(index)
        try:
            return ImageOps.exif_transpose(image)
        except DAMAGED as error:
            raise DataError(f"{self.ids[index]}: its EXIF cannot be read ({error}); remove it") from error

    @property
    def encoded(self) -> "_Encoded | None":
        encoded = getattr(self.load, "encoded", None)
        return None if encoded is None else _Encoded(encoded)

    @property
    def file(self) -> Callable[[int], str] | None:
        return getattr(self.load, "file", None)


@dataclass(frozen=True, slots=True)
class _Encoded:
    load: Callable[[int], bytes]

    def __call__(self, index: int) -> bytes:
        """Return the file of an image that lies upright; nothing where PIL must turn it, or refuse it."""
        content = self.load(index)
        try:
            # A header: no pixel is decoded.
            with Image.open(BytesIO(content), formats=("JPEG",)) as image:
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
                return content if exif.get(Base.Orientation, 1) == 1 else b""
        except DAMAGED:
            return b""
