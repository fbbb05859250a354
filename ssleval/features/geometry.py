"""Random resized crops of images, as in torchvision; `ssleval.core.geometry` has the pinned ones."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import RandomView, digest
from ssleval.core.geometry import FILTERS, refuse_mode


class Box(NamedTuple):
    """What is cut out of an image, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


def drawn_box(view: RandomView, width: int, height: int, item: str) -> Box:
    """Return what ``view`` draws for an image of this size with the id ``item``."""
    # Takes seconds and 170 MB to import, which whole images do without.
    from torchvision.transforms import RandomResizedCrop

    image = torch.empty(3, height, width, device="meta")
    # torchvision draws from the global CPU generator, whose state is restored; no accelerator's is touched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest([item, view.index, view.seed])[:15], 16))
        box = RandomResizedCrop.get_params(image, list(view.scale), list(view.ratio))
        return Box(*box, float(torch.rand(())) < view.flip)


def random_view(view: RandomView, image: Image.Image, item: str) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, resize and flip an 8-bit RGB image as ``view`` draws it for the id ``item``."""
    refuse_mode(image)
    box = drawn_box(view, image.width, image.height, item)
    crop = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    pixels = np.array(crop.resize((view.size, view.size), FILTERS[view.interpolation]), dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if box.flipped else pixels
