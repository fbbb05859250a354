"""Detection at one scale: 1x1 convolutions on patch grids give classes, sides of a box, and masks.

Of every patch: a score for each class, the distances from its centre to the left, top, right and bottom of a
box, and, for each class, whether it belongs to an object of it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchvision.ops import batched_nms, generalized_box_iou_loss, roi_align, sigmoid_focal_loss

from ssleval.core import Context
from ssleval.core.batches import batches
from ssleval.core.settings import NonNegative, OpenFraction
from ssleval.core.targets import Objects
from ssleval.heads.dense.grid import Fit, Grids, LinearHead, channels_of, descend, resized, warmed

_LARGEST = 8.0
"""Of the logarithm of a distance in patches, so that no exponential overflows."""
_CANDIDATES = 10
"""Boxes that are compared, for each that may be kept."""


class Example(NamedTuple):
    """The objects of an image that count."""

    boxes: Float[Tensor, "m 4"]
    """Left, top, right, bottom in fractions of the image."""
    labels: Int[Tensor, " m"]
    masks: Float[Tensor, "m s s"]
    """Whether points of a grid over the box belong to the object; s = 0 where there are no masks."""


@dataclass(frozen=True, slots=True)
class Losses:
    """How the losses of classes, boxes and masks are computed."""

    alpha: OpenFraction
    gamma: NonNegative
    box_weight: NonNegative
    points: int
    """Along each side of a box, where the mask is looked at; 0: no masks."""


class Found(NamedTuple):
    """Detections in an image, the surest first."""

    boxes: Float[Tensor, "k 4"]
    """In fractions of the image."""
    scores: Float[Tensor, " k"]
    labels: Int[Tensor, " k"]


def example_of(objects: Objects, points: int) -> Example:
    """Return what a head is fitted on: boxes within the image, and ``points`` x ``points`` of each mask.

    A point belongs to the object where most of its cell of the box does.
    """
    counted = objects.counted
    boxes = torch.from_numpy(objects.boxes[counted]).float()
    sides = _sides(*objects.size, boxes)
    boxes = boxes.clamp(min=0).minimum(sides)
    masks = torch.zeros(len(boxes), points, points)
    if points and objects.masks is not None and len(boxes):
        pixels = torch.from_numpy(objects.masks[counted])
        places = zip(pixels, boxes, strict=True)
        masks = torch.cat(
            [roi_align(one[None, None].float(), [box[None]], points, aligned=True) for one, box in places]
        )
        masks = (masks[:, 0] >= 0.5).float()
    return Example(boxes / sides, torch.from_numpy(objects.labels[counted]).long(), masks)


def detector(channels: int, num_classes: int, prior: float, *, masks: bool, seed: int) -> LinearHead:
    """Return a head of scores, distances and maps of classes, in this order; scores begin at ``prior``."""
    outputs = num_classes + 4 + num_classes * masks
    head = LinearHead(channels, outputs, normalise=True, seed=seed)
    with torch.no_grad():
        head.linear.bias[:num_classes] = math.log(prior / (1 - prior))
    return head


def owners(boxes: Float[Tensor, "m 4"], height: int, width: int) -> Int[Tensor, " hw"]:
    """Return, for every cell row by row, the smallest of the boxes that its centre is inside; -1: none.

    Source:
        Tian et al. 2019, arXiv:1904.01355, sec. 3.1.
    """
    near, placed = _centres(height, width, boxes), boxes * _sides(height, width, boxes)
    distances = torch.cat([near[:, None] - placed[None, :, :2], placed[None, :, 2:] - near[:, None]], dim=2)
    areas = (placed[:, 2:] - placed[:, :2]).prod(1).expand(len(near), -1)
    inside = torch.where(distances.amin(2) > 0, areas, math.inf)
    if not len(boxes):
        return torch.full((len(near),), -1, device=boxes.device)
    smallest, owner = inside.min(1)
    return torch.where(smallest.isfinite(), owner, -1)


def owning(objects: Objects, height: int, width: int) -> Int[np.ndarray, " k"]:
    """Return the objects that own a cell, by number."""
    owner = owners(example_of(objects, 0).boxes, height, width).unique().numpy()
    return np.flatnonzero(objects.counted)[owner[owner >= 0]]


def _sides(height: int, width: int, like: Tensor) -> Int[Tensor, " 4"]:
    """Return what turns the edges of a box from fractions of an image into its pixels or cells."""
    return torch.tensor([width, height, width, height], device=like.device)


def _centres(height: int, width: int, like: Tensor) -> Float[Tensor, "hw 2"]:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1).to(like.device) + 0.5


def placed_boxes(distances: Float[Tensor, "hw 4"], height: int, width: int) -> Float[Tensor, "hw 4"]:
    """Return the boxes of all cells, in cells; ``distances`` are logarithms."""
    centres, reach = _centres(height, width, distances), distances.clamp(max=_LARGEST).exp()
    return torch.cat([centres - reach[:, :2], centres + reach[:, 2:]], dim=1)


def detection_loss(
    outputs: Float[Tensor, "b o h w"], examples: Sequence[Example], num_classes: int, settings: Losses
) -> Float[Tensor, ""]:
    """Return the focal loss of classes plus weighted GIoU of boxes, per cell with an object, plus the masks'.

    That of masks is the binary cross-entropy of the points in the boxes of objects.

    Source:
        Lin et al. 2017, arXiv:1708.02002; Rezatofighi et al. 2019, arXiv:1902.09630; He et al. 2017,
        arXiv:1703.06870 (masks).
    """
    height, width = outputs.shape[2:]
    flat = outputs.flatten(2).transpose(1, 2)
    owner = torch.stack([owners(example.boxes, height, width) for example in examples])
    positive = owner >= 0
    own = [which[which >= 0] for which in owner]
    labels = torch.cat([example.labels[which] for example, which in zip(examples, own, strict=True)])
    boxes = torch.cat([example.boxes[which] for example, which in zip(examples, own, strict=True)])
    truth = torch.zeros_like(flat[..., :num_classes])
    truth[positive] = nn.functional.one_hot(labels, num_classes).to(truth.dtype)
    classes = sigmoid_focal_loss(flat[..., :num_classes], truth, settings.alpha, settings.gamma, "sum")
    distances = flat[..., num_classes : num_classes + 4]
    guessed = torch.stack([placed_boxes(one, height, width) for one in distances])[positive]
    overlap = generalized_box_iou_loss(guessed, boxes * _sides(height, width, outputs), "sum")
    loss = (classes + settings.box_weight * overlap) / max(1, len(labels))
    if not settings.points:
        return loss
    return loss + mask_loss(outputs[:, num_classes + 4 :], examples, settings.points)


def mask_loss(maps: Float[Tensor, "b c h w"], examples: Sequence[Example], points: int) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the points of all objects, each read from the map of its class."""
    count, height, width = maps.shape[1:]
    # Each map is an image of its own: only that of an object's class is read.
    image = torch.cat([row * count + example.labels for row, example in enumerate(examples)])
    truth = torch.cat([example.masks for example in examples])
    if not len(image):
        return maps.sum() * 0
    boxes = torch.cat([example.boxes for example in examples]) * _sides(height, width, maps)
    places = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    values = roi_align(maps.reshape(-1, 1, height, width), places, points, sampling_ratio=2, aligned=True)
    return nn.functional.binary_cross_entropy_with_logits(values[:, 0], truth)


def fit_detector(
    grids: Grids,
    objects: Callable[[int], Objects],
    count: int,
    num_classes: int,
    settings: Fit,
    losses: Losses,
    prior: float,
    context: Context,
) -> LinearHead:
    """Train a `detector` on ``count`` images; the rate rises linearly, then falls by half a cosine to 0."""

    @cache
    def example(row: int) -> Example:
        return Example(*(part.to(context.device) for part in example_of(objects(row), losses.points)))

    head = detector(channels_of(grids), num_classes, prior, masks=losses.points > 0, seed=context.seed)

    def computed() -> Iterator[Tensor]:
        for rows in batches(count, settings.batch_size, settings.iterations, context.seed):
            examples = [example(int(row)) for row in rows]
            yield detection_loss(head(grids(rows)), examples, num_classes, losses)

    return descend(head, computed(), settings, _rate, context.device)


def _rate(iteration: int, iterations: int, warmup: int) -> float:
    progress = max(0, iteration - warmup) / max(1, iterations - warmup)
    return warmed(iteration + 1, warmup, 0.0) * 0.5 * (1 + math.cos(math.pi * progress))


def decoded(
    outputs: Float[Tensor, "o h w"], num_classes: int, threshold: float, nms: float, most: int
) -> Found:
    """Return the ``most`` surest detections of one grid: above the threshold, of overlapping ones the surest.

    Boxes of one class overlap if their intersection over union exceeds ``nms``.
    """
    height, width = outputs.shape[1:]
    flat = outputs.flatten(1).T
    scores = flat[:, :num_classes].sigmoid()
    cells, labels = torch.where(scores > threshold)
    surest, order = scores[cells, labels].sort(descending=True, stable=True)
    surest, order = (part[: _CANDIDATES * most] for part in (surest, order))
    cells, labels = cells[order], labels[order]
    sides = _sides(height, width, outputs)
    boxes = placed_boxes(flat[:, num_classes : num_classes + 4], height, width)[cells]
    boxes = boxes.clamp(min=0).minimum(sides) / sides
    kept = batched_nms(boxes, surest, labels, nms)[:most]
    return Found(boxes[kept], surest[kept], labels[kept])


def masks_in(
    maps: Float[Tensor, "c h w"],
    boxes: Float[np.ndarray, "k 4"],
    labels: Int[np.ndarray, " k"],
    size: tuple[int, int],
) -> Iterator[Bool[np.ndarray, "H W"]]:
    """Yield the mask of every box, in pixels of an image of ``size`` (H, W): the map of its class, inside it.

    The maps are interpolated as `mask_loss` reads them, at every pixel.
    """
    shown = {
        label: resized(maps[None, [label]], size)[0, 0].cpu().numpy() > 0 for label in set(labels.tolist())
    }
    for box, label in zip(boxes, labels.tolist(), strict=True):
        mask, window = np.zeros(size, bool), window_of(box, size)
        mask[window] = shown[label][window]
        yield mask


def window_of(box: Float[np.ndarray, " 4"], size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the pixels whose centres are in a box."""
    ends = np.array([size[1], size[0]] * 2)
    left, top, right, bottom = np.ceil(box - 0.5).clip(0, ends).astype(int).tolist()
    return slice(top, bottom), slice(left, right)


def best_patches(
    masks: Bool[np.ndarray, "m H W"], boxes: Float[np.ndarray, "m 4"], height: int, width: int
) -> tuple[Float[np.ndarray, " m"], Bool[np.ndarray, "m H W"]]:
    """Return, for each mask, the IoU of the union of patches in its box that fits it best, and that union.

    Of all unions of patches, the best holds those of the largest share in the mask.
    """
    size = masks.shape[1:]
    rows, columns = (
        np.arange(side) * cells // side for side, cells in zip(size, (height, width), strict=True)
    )
    patch = rows[:, None] * width + columns
    scores, best = np.zeros(len(masks)), np.zeros_like(masks)
    for place, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        window = window_of(box, size)
        inside = patch[window]
        pixels = np.bincount(inside.ravel(), minlength=height * width)
        own = np.bincount(inside.ravel(), mask[window].ravel(), height * width)
        order = np.argsort(-own / np.maximum(pixels, 1), kind="stable")
        shared = own[order].cumsum()
        overlaps = shared / np.maximum(mask.sum() + pixels[order].cumsum() - shared, 1)
        scores[place] = overlaps.max()
        best[place][window] = np.isin(inside, order[: int(overlaps.argmax()) + 1])
    return scores, best
