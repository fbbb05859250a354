"""Random resized crops of images; `ssleval.core.geometry` has the pinned ones."""

import math
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import RandomView, digest
from ssleval.core.geometry import FILTERS, refuse_mode

_ONE_AT_A_TIME = Lock()


class Box(NamedTuple):
    """What is cut out of an image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


def drawn_box(view: RandomView, width: int, height: int, item: str) -> Box:
    """Return what ``view`` draws for an image of this size with the id ``item``."""
    draw = _drawn_once if view.drawn == "tensorflow" else _drawn_again
    # torchvision draws from the global CPU generator, whose state is restored; no accelerator's is touched.
    # Threads share it.
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest([item, view.index, view.seed])[:15], 16))
        box = draw(view, width, height)
        return Box(*box, float(torch.rand(())) < view.flip)


def _drawn_again(view: RandomView, width: int, height: int) -> tuple[int, int, int, int]:
    # Takes seconds and 170 MB to import, which whole images do without.
    from torchvision.transforms import RandomResizedCrop

    image = torch.empty(3, height, width, device="meta")
    return RandomResizedCrop.get_params(image, list(view.scale), list(view.ratio))


def _drawn_once(view: RandomView, width: int, height: int) -> tuple[int, int, int, int]:
    """Return a crop of random area and shape, cut to the image.

    Source:
        util/crop.py of facebookresearch/mae, after the crops of BYOL and TensorFlow's.
    """
    area = width * height * _uniform(*view.scale)
    ratio = math.exp(_uniform(*map(math.log, view.ratio)))
    rows = min(height, max(1, round(math.sqrt(area / ratio))))
    columns = min(width, max(1, round(math.sqrt(area * ratio))))
    top, left = (int(torch.randint(0, free + 1, ())) for free in (height - rows, width - columns))
    return top, left, rows, columns


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def random_view(view: RandomView, image: Image.Image, item: str) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, resize and flip an 8-bit RGB image as ``view`` draws it for the id ``item``."""
    refuse_mode(image)
    box = drawn_box(view, image.width, image.height, item)
    crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    pixels = np.array(crop.resize((view.size, view.size), FILTERS[view.interpolation]), dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if box.flipped else pixels
