"""Images of `Pixels` "fast": torchvision's JPEG decoder, and its antialiased resizing of 8-bit pixels.

Decoded here are JPEGs of one baseline scan without restarts, grey or of three components: most photographs.
PIL decodes all else. What decides is the content of the file alone. Both libraries use libjpeg.
"""

import struct
import warnings
from contextlib import suppress
from struct import unpack_from
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ssleval.core import Geometry, Interpolation, RandomView, Split
from ssleval.core.geometry import FILTERS, MOST_PIXELS, margin, refuse_mode, resized
from ssleval.errors import DataError
from ssleval.features.geometry import drawn_box

_TABLES = frozenset({0xC4, 0xDB, 0xFE, *range(0xE0, 0xF0)})
"""Segments before the pixels of a JPEG that need no look: Huffman and quantisation tables, comments."""
_BASELINE, _INTERVAL, _SCAN = {0xC0, 0xC1}, 0xDD, 0xDA


def fast_view(geometry: Geometry | RandomView, split: Split, row: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return image ``row`` as `ssleval.core.geometry.apply` or `random_view` do, up to two grey levels off.

    Raises:
        DataError: what decoding by PIL would raise, or the resized image is too large.
    """
    pixels = _decoded(split, row)
    height, width = pixels.shape[:2]
    if isinstance(geometry, RandomView):
        box = drawn_box(geometry, width, height, split.ids[row])
        crop = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        pixels = _resize(crop, (geometry.size, geometry.size), geometry.interpolation)
        return np.ascontiguousarray(pixels[:, ::-1]) if box.flipped else pixels
    try:
        size = resized(geometry, width, height)
    except DataError as error:
        raise DataError(f"{split.ids[row]}: {error}") from error
    if size != (width, height):
        pixels = _resize(pixels, size, geometry.interpolation)
    if geometry.crop is not None:
        pixels = _central(pixels, geometry.crop, geometry.crop_start)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flip else pixels


def _decoded(split: Split, row: int) -> UInt8[np.ndarray, "H W 3"]:
    if split.encoded is not None and (pixels := decode_jpeg(split.encoded(row))) is not None:
        return pixels
    image = split.image(row)
    refuse_mode(image)
    return np.array(image, dtype=np.uint8)


def decode_jpeg(content: bytes) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decode a whole plain JPEG to RGB; None for what PIL must decode, or refuse."""
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_jpeg as decode

    if not _is_plain(content):
        return None
    try:
        # torchvision 0.29 announces that another package will have its decoders.
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            # Annotated as a list too, which it is for a list.
            decoded = cast("Tensor", decode(encoded, mode=ImageReadMode.RGB))
    except RuntimeError:
        return None
    pixels = decoded.permute(1, 2, 0).numpy()
    # So libjpeg leaves blocks that the data do not reach. Whether it was that, PIL's check tells.
    return None if pixels[-1, -1].tobytes() == b"\x80\x80\x80" else pixels


def _is_plain(content: bytes) -> bool:
    """Return whether this begins like a JPEG of one baseline scan, without restarts, of a size to decode."""
    position, components = 2, 0
    with suppress(struct.error):
        while content[:2] == b"\xff\xd8":
            mark, marker, length = unpack_from(">BBH", content, position)
            if mark != 0xFF:
                return False
            if marker in _BASELINE and not components:
                bits, height, width, components = unpack_from(">BHHB", content, position + 4)
                if bits != 8 or components not in {1, 3} or not 0 < height * width <= MOST_PIXELS:
                    return False
            elif marker == _SCAN:
                return unpack_from(">B", content, position + 4)[0] == components
            elif marker == _INTERVAL:
                if unpack_from(">H", content, position + 4)[0]:
                    return False
            elif marker not in _TABLES:
                return False
            position += 2 + length
    return False


def _resize(
    pixels: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], interpolation: Interpolation
) -> UInt8[np.ndarray, "h w 3"]:
    """Resize to (width, height); by PIL where torchvision has no such filter."""
    if interpolation not in {"bilinear", "bicubic"}:
        return np.array(Image.fromarray(pixels).resize(size, FILTERS[interpolation]), dtype=np.uint8)
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    (height, width), (across, down) = pixels.shape[:2], size
    mode = InterpolationMode(interpolation)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    # torchvision resizes rows first, and so does PIL unless columns lose more than twice as many pixels. Each
    # pass rounds and clips: at sharp edges the order tells, by up to 20 grey levels.
    if height - down > max(0, 2 * (width - across)):
        image = resize(image, [down, width], mode, antialias=True)
    return resize(image, [down, across], mode, antialias=True).permute(1, 2, 0).contiguous().numpy()


def _central(pixels: UInt8[np.ndarray, "H W 3"], side: int, start: str) -> UInt8[np.ndarray, "s s 3"]:
    """Cut out the central square; what lies outside the image is black, as in PIL."""
    height, width = pixels.shape[:2]
    top, left = margin(height - side, start), margin(width - side, start)
    if top >= 0 and left >= 0:
        return pixels[top : top + side, left : left + side]
    return np.array(Image.fromarray(pixels).crop((left, top, left + side, top + side)))
