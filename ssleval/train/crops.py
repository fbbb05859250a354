"""Random resized crops of whole batches as matrix products, with PIL's antialiased bicubic filter.

Resizing is separable: a crop of ``s`` x ``s`` pixels is ``rows @ image @ columns``. The matrix ``rows``
``[s, H]`` holds the filter weights of every output row, and zeros outside the crop. A horizontal flip
reverses ``columns`` and costs nothing.
"""

from dataclasses import dataclass, fields
from math import log

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ssleval.train.sections import ViewsConfig

_TRIES = 10
"""Candidates for a random box before the central one is used, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """One crop of each of ``n`` images, in whole pixels."""

    top: Int[np.ndarray, " n"]
    left: Int[np.ndarray, " n"]
    height: Int[np.ndarray, " n"]
    width: Int[np.ndarray, " n"]
    flipped: Bool[np.ndarray, " n"]

    def __getitem__(self, rows: slice | Int[np.ndarray, " m"]) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)))


def draw_boxes(
    random: np.random.Generator, sizes: Int[np.ndarray, "n 2"], views: ViewsConfig, kind: int
) -> Boxes:
    """Draw crops of images of ``sizes`` (height, width), as torchvision's RandomResizedCrop does.

    The area is uniform in the scale of the ``kind`` (0 and 1 global, 2 local), the aspect ratio log-uniform.
    The first of ten boxes that fits is used; otherwise the largest central box of an allowed aspect ratio.
    """
    count, ratio = len(sizes), views.ratio
    scale = views.global_scale if kind < 2 else views.local_scale
    full_height, full_width = sizes[:, :1], sizes[:, 1:]
    area = full_height * full_width * random.uniform(scale[0], scale[1], (count, _TRIES))
    aspect = np.exp(random.uniform(log(ratio[0]), log(ratio[1]), (count, _TRIES)))
    width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= full_width) & (height > 0) & (height <= full_height)
    first = (np.arange(count), fits.argmax(axis=1))
    any_fits, (place_y, place_x) = fits.any(axis=1), random.random((2, count))
    central_height, central_width = _central(sizes, ratio)
    height = np.where(any_fits, height[first], central_height)
    width = np.where(any_fits, width[first], central_width)
    free_y, free_x = sizes[:, 0] - height, sizes[:, 1] - width
    return Boxes(
        top=np.where(any_fits, np.floor(place_y * (free_y + 1)), free_y // 2).astype(np.int64),
        left=np.where(any_fits, np.floor(place_x * (free_x + 1)), free_x // 2).astype(np.int64),
        height=height,
        width=width,
        flipped=random.random(count) < views.flip,
    )


def _central(sizes: np.ndarray, ratio: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    height, width = sizes[:, 0], sizes[:, 1]
    aspect = width / height
    narrower = np.where(aspect < ratio[0], np.rint(width / ratio[0]), height)
    shorter = np.where(aspect > ratio[1], np.rint(height * ratio[1]), width)
    # Of an image of a few pixels, an allowed aspect ratio may round to none.
    return np.maximum(narrower, 1).astype(np.int64), np.maximum(shorter, 1).astype(np.int64)


def resized_crops(images: UInt8[Tensor, "n H W 3"], boxes: Boxes, size: int) -> Float[Tensor, "n 3 s s"]:
    """Return crops of equally large images, resized to ``size`` x ``size``, as RGB in [0, 1]."""
    height, width = images.shape[1:3]
    rows = resample(boxes.top, boxes.height, height, size, images.device)
    columns = resample(boxes.left, boxes.width, width, size, images.device)
    flipped = torch.from_numpy(boxes.flipped).to(images.device).view(-1, 1, 1)
    columns = torch.where(flipped, columns.flip(1), columns)
    # Rows first, while colours are the last axis in memory: one product for all three channels.
    tall = torch.bmm(rows, images.to(torch.float32).flatten(2))
    planes = tall.unflatten(2, (width, 3)).permute(0, 3, 1, 2)
    crops = planes.reshape(len(images), 3 * size, width) @ columns.transpose(1, 2)
    return crops.div_(255).clamp_(0, 1).unflatten(1, (3, size))


def resample(
    start: Int[np.ndarray, " n"], length: Int[np.ndarray, " n"], full: int, size: int, device: torch.device
) -> Float[Tensor, "n s f"]:
    """Return the weights that resample ``length`` pixels from ``start`` to ``size`` pixels.

    Source:
        Pillow's Resample.c: a cubic (a = -0.5) scaled by the reduction, truncated at the crop's edges,
        normalised to sum to 1. Pillow rounds to 8 bits after each axis; this does not.
    """
    # Copied as one array, because every copy to a device is a synchronisation.
    edges = np.stack([start, start + length, length / size]).astype(np.float32)
    first, last, step = torch.from_numpy(edges).to(device).view(3, -1, 1, 1)
    width = step.clamp(min=1.0)
    centers = first + (torch.arange(size, dtype=torch.float32, device=device).view(1, -1, 1) + 0.5) * step
    pixels = torch.arange(full, dtype=torch.float32, device=device).view(1, 1, -1)
    weights = _cubic(((pixels + 0.5 - centers) / width).abs_())
    weights *= (pixels >= first) & (pixels < last)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """Return Keys' cubic convolution kernel at distances ``x``."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    x = x.clamp_(max=2)
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, far)
