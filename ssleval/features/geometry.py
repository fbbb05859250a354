"""From a decoded image to the pixels of a model: PIL resizing, centre or random crops, as in torchvision."""

from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import Geometry, Interpolation, RandomView, digest
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
    _refuse_mode(image)
    size = _resized(geometry, *image.size)
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(
            f"{image.width} x {image.height} pixels would become {size[0]:,} x {size[1]:,}; crop it or "
            "leave it out"
        )
    if size != image.size:
        image = image.resize(size, FILTERS[geometry.interpolation])
    if geometry.crop is not None:
        image = _central(image, geometry.crop)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flip else pixels


def random_view(view: RandomView, image: Image.Image, item: str) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, resize and flip an 8-bit RGB image as ``view`` draws it for the id ``item``."""
    # Takes seconds and 170 MB to import, which whole images do without.
    from torchvision.transforms import RandomResizedCrop

    _refuse_mode(image)
    untyped: Any = image  # get_params is annotated for tensors alone
    # torchvision draws from the global CPU generator, whose state is restored; no accelerator's is touched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest([item, view.index, view.seed])[:15], 16))
        top, left, height, width = RandomResizedCrop.get_params(untyped, list(view.scale), list(view.ratio))
        flipped = float(torch.rand(())) < view.flip
    crop = image.crop((left, top, left + width, top + height))
    pixels = np.array(crop.resize((view.size, view.size), FILTERS[view.interpolation]), dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels


def _refuse_mode(image: Image.Image) -> None:
    if image.mode != "RGB":
        raise ContractError(f"an image of mode {image.mode!r}, expected RGB; the dataset must convert it")


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


def _central(image: Image.Image, side: int) -> Image.Image:
    # PIL fills with black whatever a crop takes from outside the image.
    left, top = (_margin(length - side) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _margin(excess: int) -> int:
    """Return where the crop begins: half of the excess to even, of a lack rounded towards zero."""
    return round(excess / 2) if excess >= 0 else -(-excess // 2)
