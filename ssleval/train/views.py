"""Views of a batch: two global crops, or one, and some local crops of every image.

They depend only on the seed, the step and the position of the image in the batch of all processes. A resumed
run, or one on two machines, therefore sees the same crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssleval.train.colors import Colors, concatenated, distort, draw_colors
from ssleval.train.crops import Boxes, draw_boxes, resized_crops
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
    rows = slice(first, first + len(images))
    groups = _grouped(images, torch.device(device))
    sizes = np.ones((total, 2), np.int64)
    sizes[rows] = [image.shape[:2] for image in images]
    drawn: list[tuple[Boxes, Colors]] = []
    for index in [*range(global_crops), *range(2, 2 + config.local_crops)]:
        random = np.random.default_rng([seed, step, index])
        kind = min(index, 2)
        boxes = draw_boxes(random, sizes, config, kind)[rows]
        drawn.append((boxes, draw_colors(random, total, config, kind)[rows]))
    return Views(
        _crops(groups, drawn[:global_crops], config.global_size),
        _crops(groups, drawn[global_crops:], config.local_size),
        _crops(groups, [(boxes, None) for boxes, _ in drawn[:global_crops]], undistorted)
        if undistorted
        else None,
    )


def _crops(
    groups: Sequence[tuple[np.ndarray, Tensor]], drawn: Sequence[tuple[Boxes, Colors | None]], size: int
) -> Float[Tensor, "v b 3 s s"]:
    count = sum(len(rows) for rows, _ in groups)
    device = groups[0][1].device
    crops = torch.empty(len(drawn), count, 3, size, size, device=device)
    for rows, images in groups:
        places = torch.from_numpy(rows).to(device)
        for view, (boxes, _) in zip(crops, drawn, strict=True):
            view[places] = resized_crops(images, boxes[rows], size)
    if colors := [colors for _, colors in drawn if colors is not None]:
        # All views together: on an accelerator, launching a kernel takes as long as running it.
        distort(crops.flatten(0, 1), concatenated(colors))
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return crops.sub_(mean).div_(std)


_GROUPED_ON_CPU, _GROUPED_ON_DEVICE = 1, 128
"""Sides are rounded up to so many pixels for grouping: an accelerator prefers few, large groups."""


def _grouped(
    images: Sequence[np.ndarray], device: torch.device
) -> list[tuple[np.ndarray, UInt8[Tensor, "n H W 3"]]]:
    """Group images of about one size; return the rows and the pixels of each group, padded with black."""
    step = _GROUPED_ON_CPU if device.type == "cpu" else _GROUPED_ON_DEVICE
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(tuple(-(-side // step) for side in image.shape[:2]), []).append(row)
    return [
        (np.array(rows), torch.from_numpy(_stacked([images[row] for row in rows])).to(device))
        for rows in by_size.values()
    ]


def _stacked(images: Sequence[np.ndarray]) -> UInt8[np.ndarray, "n H W 3"]:
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    padded = np.zeros((len(images), height, width, 3), np.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return padded
