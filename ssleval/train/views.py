"""Views of a batch: two global crops and some local ones of every image, drawn and made together.

What is drawn depends on the seed, the step and the image's place in the batch of all processes, on
nothing else: a resumed run, or one on two machines, sees the same crops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ssleval.train.colors import Colors, distort, draw_colors
from ssleval.train.crops import Boxes, draw_boxes, resized_crops
from ssleval.train.sections import ViewsConfig

__all__ = ["MEAN", "STD", "Views", "make_views"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Views:
    """Normalised crops of ``b`` images, crop by crop."""

    globals: Float[Tensor, "2 b 3 s s"]
    locals: Float[Tensor, "l b 3 t t"]

    def part(self, rows: slice) -> "Views":
        """Return the views of some of the images."""
        return Views(self.globals[:, rows], self.locals[:, rows])


def make_views(
    images: Sequence[UInt8[np.ndarray, "_h _w 3"]],
    config: ViewsConfig,
    *,
    seed: int,
    step: int,
    first: int,
    total: int,
    device: str | torch.device,
) -> Views:
    """Return the views of ``images``, which are rows ``first``... of the ``total`` of this step."""
    rows = slice(first, first + len(images))
    groups = _same_size(images, device)
    sizes = np.ones((total, 2), np.int64)
    sizes[rows] = [image.shape[:2] for image in images]
    crops: list[Tensor] = []
    for index in range(2 + config.local_crops):
        random = np.random.default_rng([seed, step, index])
        kind = min(index, 2)
        scale = config.global_scale if kind < 2 else config.local_scale
        boxes = draw_boxes(random, sizes, scale=scale, ratio=config.ratio, flip=config.flip)[rows]
        colors = draw_colors(random, total, config, kind)[rows]
        crops.append(_made(groups, boxes, colors, config.global_size if kind < 2 else config.local_size))
    local = torch.stack(crops[2:]) if config.local_crops else crops[0].new_empty(0, len(images), 3, 1, 1)
    return Views(torch.stack(crops[:2]), local)


def _made(groups: Sequence[tuple[np.ndarray, Tensor]], boxes: Boxes, colors: Colors, size: int) -> Tensor:
    count = sum(len(rows) for rows, _ in groups)
    device = groups[0][1].device
    made = torch.empty(count, 3, size, size, device=device)
    for rows, images in groups:
        made[torch.from_numpy(rows).to(device)] = resized_crops(images, boxes[rows], size)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return distort(made, colors).sub_(mean).div_(std)


def _same_size(
    images: Sequence[np.ndarray], device: str | torch.device
) -> list[tuple[np.ndarray, UInt8[Tensor, "n H W 3"]]]:
    """Return rows and stacked pixels of images of one size, for every size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(row)
    return [
        (np.array(rows), torch.from_numpy(np.stack([images[row] for row in rows])).to(device))
        for rows in by_size.values()
    ]
