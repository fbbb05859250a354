"""Masks for patches of global crops: blocks, as in BEiT, iBOT and DINOv2, or random ones, as in MAE."""

import math

import numpy as np
from jaxtyping import Bool

_LEAST = 4
"""Patches of the smallest block."""
_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10


def draw_masks(
    random: np.random.Generator, crops: int, grid: int, probability: float, ratio: tuple[float, ...]
) -> Bool[np.ndarray, "n g"]:
    """Return masks for ``crops`` crops of ``grid`` x ``grid`` patches.

    ``int(crops x probability)`` random crops are masked. The range of ratios is divided into as many equal
    intervals, one for each masked crop, so that every batch covers the range.

    Source:
        DINOv2's data/collate.py.
    """
    masks = np.zeros((crops, grid, grid), bool)
    masked = random.permutation(crops)[: int(crops * probability)]
    bounds = np.linspace(ratio[0], ratio[1], len(masked) + 1)
    for crop, low, high in zip(masked, bounds[:-1], bounds[1:], strict=True):
        masks[crop] = block_mask(random, grid, int(grid**2 * random.uniform(low, high)))
    return masks.reshape(crops, -1)


def block_mask(random: np.random.Generator, grid: int, wanted: int) -> Bool[np.ndarray, "g g"]:
    """Return a mask of at most ``wanted`` patches, made of rectangles.

    The area of a rectangle is between 4 patches and half the crop, or what is still missing if that is less.
    Its aspect ratio is between 0.3 and 1 / 0.3. Ten failed attempts in a row end the mask early.

    Source:
        DINOv2's data/masking.py, after BEiT.
    """
    mask = np.zeros((grid, grid), bool)
    while (missing := wanted - int(mask.sum())) > 0:
        for _ in range(_TRIES):
            area = random.uniform(_LEAST, max(_LEAST, min(missing, grid**2 // 2)))
            aspect = math.exp(random.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < height < grid and 0 < width < grid):
                continue
            top, left = random.integers(grid - height + 1), random.integers(grid - width + 1)
            block = mask[top : top + height, left : left + width]
            if 0 < height * width - int(block.sum()) <= missing:
                block[:] = True
                break
        else:
            break
    return mask


def visible_patches(patches: int, ratio: float) -> int:
    """Return how many of an image's patches the encoder sees."""
    return int(patches * (1 - ratio))


def random_masks(
    random: np.random.Generator, images: int, patches: int, ratio: float
) -> Bool[np.ndarray, "n g"]:
    """Return which patches of every image are hidden: equally many, each set of them as likely."""
    ranks = random.random((images, patches)).argsort(axis=1).argsort(axis=1)
    return ranks >= visible_patches(patches, ratio)
