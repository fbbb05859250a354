"""From a decoded image to the pixels of a model: PIL resizing and centre crops, as in torchvision."""

from typing import get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssleval.core.vocabulary import Geometry, Interpolation
from ssleval.errors import ContractError, DataError

MOST_PIXELS = 178_956_970
"""Of a resized image: as many as PIL decodes. A long and narrow image can become a million times larger."""

FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}


def apply(geometry: Geometry, image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Resize, crop and flip an 8-bit RGB image according to ``geometry``.

    Source:
        torchvision.transforms.Resize and CenterCrop on PIL images, to the last bit. The side that ``mode``
        does not name is rounded down, as there; with a ``multiple``, both are rounded to the nearest one.
    """
    refuse_mode(image)
    size = resized(geometry, *image.size)
    if size != image.size:
        image = image.resize(size, FILTERS[geometry.interpolation])
    if geometry.crop is not None:
        image = _central(image, geometry.crop, geometry.crop_start)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flip else pixels


def refuse_mode(image: Image.Image) -> None:
    """Refuse an image that is not RGB."""
    if image.mode != "RGB":
        raise ContractError(f"an image of mode {image.mode!r}, expected RGB; the dataset must convert it")


def resized(geometry: Geometry, width: int, height: int) -> tuple[int, int]:
    """Return the width and height that an image is resized to; a DataError where that is too large."""
    size = _resized(geometry, width, height)
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"{width} x {height} pixels would become {size[0]:,} x {size[1]:,}; crop it or leave it out"
        )
    return size


def _resized(geometry: Geometry, width: int, height: int) -> tuple[int, int]:
    size, step = geometry.resize, geometry.multiple
    if size is not None and geometry.mode == "square":
        return size, size
    named = min(width, height) if geometry.mode == "short" else max(width, height)
    size = named if size is None else size
    if step == 1:
        return max(1, size * width // named), max(1, size * height // named)
    assert isinstance(step, int), "multiple='patch' is replaced by the patch size before images are read"
    across, down = (max(1, round(size * side / named / step)) * step for side in (width, height))
    return across, down


def _central(image: Image.Image, side: int, start: str) -> Image.Image:
    # PIL fills with black whatever a crop takes from outside the image.
    left, top = (margin(length - side, start) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def margin(excess: int, start: str) -> int:
    """Return where the crop begins: half of the excess, rounded as ``start`` says, of a lack towards zero."""
    if excess < 0:
        return -(-excess // 2)
    return round(excess / 2) if start == "even" else excess // 2
