"""Sliding-window inference: logits of whole images, at several scales, mirrored or not."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ssleval.core import Interpolation
from ssleval.heads.dense.augment import rescaled
from ssleval.heads.dense.grid import resized

LogitsOf: TypeAlias = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b c h w"]]
"""Returns the logits of every patch of RGB in [0, 1]."""


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Return where windows begin along one side: every ``stride`` pixels, the last flush with the end.

    Source:
        ``slide_inference`` of mmseg.
    """
    return [*range(0, length - crop, stride), max(0, length - crop)]


def slid(
    logits_of: LogitsOf, pixels: Float[Tensor, "1 3 H W"], crop: int, stride: int
) -> Float[Tensor, "1 c H W"]:
    """Return the logits of every pixel, averaged over the windows that contain it."""
    total, height, width = None, *pixels.shape[2:]
    count = torch.zeros(1, 1, height, width, device=pixels.device)
    for top, left in product(starts(height, crop, stride), starts(width, crop, stride)):
        window = (..., slice(top, top + crop), slice(left, left + crop))
        cut = pixels[window]
        logits = resized(logits_of(cut), (cut.shape[2], cut.shape[3]))
        if total is None:
            total = logits.new_zeros(1, logits.shape[1], height, width)
        total[window] += logits
        count[window] += 1
    assert total is not None
    return total / count


def classes_of_views(
    logits_of: LogitsOf,
    image: Image.Image,
    size: tuple[int, int],
    *,
    shorts: Sequence[int],
    mirrored: bool,
    crop: int,
    stride: int,
    interpolation: Interpolation,
    device: str,
) -> UInt8[np.ndarray, "H W"]:
    """Return the class of every pixel at ``size`` (H, W).

    There is a view with each of ``shorts`` pixels on the short side and, if ``mirrored``, its mirror image.
    Logits of a view are upsampled to ``size``; the softmaxes of all views are added.
    """
    total: Tensor | int = 0
    for short in shorts:
        scaled = torch.from_numpy(np.array(rescaled(image, short, interpolation)))
        pixels = scaled.to(device).permute(2, 0, 1).unsqueeze(0).float() / 255
        for flipped in (False, True) if mirrored else (False,):
            view = pixels.flip(3) if flipped else pixels
            with torch.no_grad():
                scores = resized(slid(logits_of, view, crop, stride), size).softmax(dim=1)
            total = total + (scores.flip(3) if flipped else scores)
    assert isinstance(total, Tensor)
    return total[0].argmax(0).to(torch.uint8).cpu().numpy()
