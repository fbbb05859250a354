"""Random resized crops of images, as in torchvision; `ssleval.core.geometry` has the pinned ones."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import RandomView, digest
from ssleval.core.geometry import FILTERS, refuse_mode


def random_view(view: RandomView, image: Image.Image, item: str) -> UInt8[np.ndarray, "s s 3"]:
    """Crop, resize and flip an 8-bit RGB image as ``view`` draws it for the id ``item``."""
    # Takes seconds and 170 MB to import, which whole images do without.
    from torchvision.transforms import RandomResizedCrop

    refuse_mode(image)
    untyped: Any = image  # get_params is annotated for tensors alone
    # torchvision draws from the global CPU generator, whose state is restored; no accelerator's is touched.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(digest([item, view.index, view.seed])[:15], 16))
        top, left, height, width = RandomResizedCrop.get_params(untyped, list(view.scale), list(view.ratio))
        flipped = float(torch.rand(())) < view.flip
    crop = image.crop((left, top, left + width, top + height))
    pixels = np.array(crop.resize((view.size, view.size), FILTERS[view.interpolation]), dtype=np.uint8)
    return np.ascontiguousarray(pixels[:, ::-1]) if flipped else pixels
