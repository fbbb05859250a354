"""From a decoded image to the pixels a model sees: PIL resizing, central or random crops, as torchvision."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from ssleval.core import Geometry, RandomView, digest
from ssleval.errors import ContractError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def apply(geometry: Geometry, image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Resize, crop and mirror ``image`` as ``geometry`` says.

    Raises:
        ContractError: the image is not 8-bit RGB.

    Source:
        torchvision.transforms.Resize and CenterCrop on PIL images, to the last bit. The side that is
        not named by ``mode`` is rounded down, as there; with a ``multiple`` both go to the nearest one.
    """
    _refuse_mode(image)
    size = _resized(geometry, *image.size)
    if size != image.size:
        image = image.resize(size, FILTERS[geometry.interpolation])
    if geometry.crop is not None:
        image = _central(image, geometry.crop)
    pixels = np.array(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if geometry.flip else pixels


def random_view(view: RandomView, image: Image.Image, item: str) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, resize and flip ``image``, whose id is ``item``, as ``view`` draws it.

    Raises:
        ContractError: the image is not 8-bit RGB.
    """
    _refuse_mode(image)
    # Its annotation admits tensors alone.
    drawn: Any = image
    # The global generator is torchvision's only source; it is put back, and no accelerator's is touched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest([item, view.index, view.seed])[:15], 16))
        top, left, height, width = RandomResizedCrop.get_params(drawn, list(view.scale), list(view.ratio))
        flipped = float(torch.rand(())) < view.flip
    crop = image.crop((left, top, left + width, top + height))
    found = np.array(crop.resize((view.size, view.size), FILTERS[view.interpolation]), dtype=np.uint8)
    return np.ascontiguousarray(found[:, ::-1]) if flipped else found


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
    assert isinstance(step, int), "requests are put on the model's grid before images are read"
    across, down = (max(1, round(size * side / named / step)) * step for side in (width, height))
    return across, down


def _central(image: Image.Image, side: int) -> Image.Image:
    # PIL fills with black whatever a crop takes from outside the image.
    left, top = (_margin(length - side) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _margin(excess: int) -> int:
    """Return where the crop begins: half of the excess to even, of a lack rounded towards zero."""
    return round(excess / 2) if excess >= 0 else -(-excess // 2)
