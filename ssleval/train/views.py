"""Views of a batch: two global crops, or one, and some local crops of every image.

They depend only on the seed, the step and the position of the image in the batch of all processes. A resumed
run, or one on two machines, therefore sees the same crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ssleval.train.colors import Colors, concatenated, distort, draw_colors
from ssleval.train.copies import copied, to_device
from ssleval.train.crops import Boxes, draw_boxes, packed, resized_crops
from ssleval.train.sections import ViewsConfig

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Views:
    """Normalised crops of ``b`` images."""

    globals: Float[Tensor, "g b 3 s s"]
    locals: Float[Tensor, "l b 3 t t"]
    undistorted: Float[Tensor, "g b 3 u u"] | None = None
    """The global crops with their colours as they are, possibly larger."""

    def __getitem__(self, rows: slice) -> "Views":
        """Return the views of some of the images."""
        plain = None if self.undistorted is None else self.undistorted[:, rows]
        return Views(self.globals[:, rows], self.locals[:, rows], plain)


def make_views(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    config: ViewsConfig,
    *,
    seed: int,
    step: int,
    first: int,
    total: int,
    device: str | torch.device,
    global_crops: int = 2,
    undistorted: int = 0,
) -> Views:
    """Return the views of ``images``: rows ``first`` and following of the ``total`` images of this step.

    ``global_crops`` is 2, or 1 for the first alone. ``undistorted`` adds the global crops without
    distortion, of so many pixels a side.
    """
    rows, place = slice(first, first + len(images)), torch.device(device)
    sizes = np.ones((total, 2), np.int64)
    sizes[rows] = [image.shape[:2] for image in images]
    boxes: list[Boxes] = []
    colors: list[Colors] = []
    for index in [*range(global_crops), *range(2, 2 + config.local_crops)]:
        random = np.random.default_rng([seed, step, index])
        kind = min(index, 2)
        boxes.append(draw_boxes(random, sizes, config, kind)[rows])
        colors.append(draw_colors(random, total, config, kind)[rows])
    stack = _Stack.of(images, boxes, place)
    wide, narrow = slice(0, global_crops), slice(global_crops, len(boxes))
    return Views(
        _normalised(stack.crops(wide, config.global_size), colors[wide]),
        _normalised(stack.crops(narrow, config.local_size), colors[narrow]),
        _normalised(stack.crops(wide, undistorted), ()) if undistorted else None,
    )


def _normalised(crops: Float[Tensor, "v b 3 s s"], colors: Sequence[Colors]) -> Float[Tensor, "v b 3 s s"]:
    if colors:
        # All views together: on an accelerator, launching a kernel takes as long as running it.
        distort(crops.flatten(0, 1), concatenated(colors))
    mean, std = _normalisation(crops.device)
    return crops.sub_(mean).div_(std)


@cache
def _normalisation(device: torch.device) -> Float[Tensor, "2 3 1 1"]:
    return torch.tensor([MEAN, STD], device=device).view(2, 3, 1, 1)


_GROUPED_ON_CPU, _GROUPED_ON_DEVICE = 1, 128
"""Sides are rounded up to so many pixels for grouping: an accelerator prefers few, large groups."""


@dataclass(frozen=True, slots=True)
class _Stack:
    """Images of a batch on a device, in groups of about one size, with the boxes of all views."""

    groups: Sequence[UInt8[Tensor, "_n _H _W 3"]]
    boxes: Float[Tensor, "5 v b"]
    """In the order of the groups."""
    order: Int[Tensor, " b"]
    """Where in that order each image of the batch is."""

    @classmethod
    def of(cls, images: Sequence[np.ndarray], boxes: Sequence[Boxes], device: torch.device) -> "_Stack":
        """Group the images, pad them with black, and copy them together."""
        step = _GROUPED_ON_CPU if device.type == "cpu" else _GROUPED_ON_DEVICE
        by_size: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            by_size.setdefault(tuple(-(-side // step) for side in image.shape[:2]), []).append(row)
        stacks = [_stacked([images[row] for row in rows]) for rows in by_size.values()]
        order = np.concatenate([np.array(rows) for rows in by_size.values()])
        edges = packed(boxes)[..., order]
        (places,), (there,) = copied([order.argsort()], [edges.ravel()], device)
        joined = to_device(torch.from_numpy(np.concatenate([stack.ravel() for stack in stacks])), device)
        parts = joined.split([stack.size for stack in stacks])
        groups = [part.view(stack.shape) for part, stack in zip(parts, stacks, strict=True)]
        return cls(groups, there.view(edges.shape), places)

    def crops(self, views: slice, size: int) -> Float[Tensor, "v b 3 s s"]:
        """Return the crops of some views, of ``size`` pixels a side, as RGB in [0, 1]."""
        boxes = self.boxes[:, views].split([len(group) for group in self.groups], dim=2)
        parts = [resized_crops(group, part, size) for group, part in zip(self.groups, boxes, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1).index_select(1, self.order)


def _stacked(images: Sequence[np.ndarray]) -> UInt8[np.ndarray, "n H W 3"]:
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    padded = np.zeros((len(images), height, width, 3), np.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return padded
