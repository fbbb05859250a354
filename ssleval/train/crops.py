"""Random resized crops of whole batches as matrix products, with PIL's antialiased bicubic filter.

Resizing is separable: a crop of ``s`` x ``s`` pixels is ``rows @ image @ columns``. The matrix ``rows``
``[s, H]`` holds the filter weights of every output row, and zeros outside the crop. A horizontal flip
reverses ``columns`` and costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import log

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ssleval.train.chunks import rows_per_chunk
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


def packed(drawn: Sequence[Boxes]) -> Float[np.ndarray, "5 v n"]:
    """Return the boxes of several views as the one array that `resized_crops` takes."""
    edges = [(one.top, one.height, one.left, one.width, one.flipped) for one in drawn]
    return np.array(edges, np.float32).swapaxes(0, 1)


def resized_crops(
    images: UInt8[Tensor, "n H W 3"], boxes: Float[Tensor, "5 v n"], size: int
) -> Float[Tensor, "v n 3 s s"]:
    """Return crops of equally large images, resized to ``size`` x ``size``, as RGB in [0, 1]."""
    height, width = images.shape[1:3]
    views = boxes.shape[1]
    # Whole images only, and no more than stay in a processor's cache.
    count = rows_per_chunk(max(1, views) * size * width * 3, images.device)
    crops = torch.empty(views, len(images), 3, size, size, device=images.device)
    for start in range(0, len(images), count):
        part = slice(start, start + count)
        top, tall, left, wide, flipped = boxes[..., part].transpose(1, 2)
        rows = resample(top, tall, height, size)
        columns = resample(left, wide, width, size)
        columns = torch.where(flipped.bool()[..., None, None], columns.flip(2), columns)
        # Rows first, while colours are the last axis in memory: one product for all views and channels.
        lines = torch.bmm(rows.flatten(1, 2), images[part].to(torch.float32).flatten(2))
        planes = lines.unflatten(2, (width, 3)).unflatten(1, (views, size)).permute(0, 1, 4, 2, 3)
        small = planes.flatten(2, 3) @ columns.transpose(2, 3)
        crops[:, part] = small.unflatten(2, (3, size)).transpose(0, 1)
    return crops.div_(255).clamp_(0, 1)


def resample(
    start: Float[Tensor, "n v"], length: Float[Tensor, "n v"], full: int, size: int
) -> Float[Tensor, "n v s f"]:
    """Return the weights that resample ``length`` pixels from ``start`` to ``size`` pixels.

    Source:
        Pillow's Resample.c: a cubic (a = -0.5) scaled by the reduction, truncated at the crop's edges,
        normalised to sum to 1. Pillow rounds to 8 bits after each axis; this does not.
    """
    first, last, step = (values[..., None, None] for values in (start, start + length, length / size))
    width = step.clamp(min=1.0)
    places = torch.arange(max(size, full), dtype=torch.float32, device=start.device) + 0.5
    centers = first + places[:size, None] * step
    weights = _cubic(((places[:full] - centers) / width).abs_())
    pixels = places[:full] - 0.5
    weights *= (pixels >= first) & (pixels < last)
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    """Return Keys' cubic convolution kernel at distances ``x``."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    x = x.clamp_(max=2)
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return torch.where(x < 1, near, far)
