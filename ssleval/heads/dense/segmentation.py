"""A class for every pixel from a linear head on patch grids."""

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from ssleval.core import IGNORED
from ssleval.heads.dense.grid import Fit, Grids, LinearHead, Targets, at_points, fit, resized

WARMUP_RATIO = 1e-6
"""Of the full learning rate, at the first iteration."""


def fit_classes(
    grids: Grids,
    masks: Targets,
    count: int,
    how: Fit,
    *,
    num_classes: int,
    warmup: int,
    seed: int,
    device: str,
) -> LinearHead:
    """Train batch normalisation and a 1x1 convolution on masks of ``0..num_classes - 1`` and `IGNORED`.

    The loss is `pixel_loss` of the pixels drawn.
    """

    def loss(logits: Tensor, points: Tensor, held: Tensor, iteration: int) -> Tensor:  # noqa: ARG001
        return pixel_loss(at_points(logits, points), held)

    channels = grids(np.zeros(1, dtype=np.int64)).shape[-1]
    head = LinearHead(channels, num_classes, normalise=True, seed=seed)

    def rate(iteration: int) -> float:
        return poly(iteration, how.iterations, warmup)

    return fit(head, grids, masks, count, how, rate=rate, loss=loss, seed=seed, device=device)


def pixel_loss(logits: Float[Tensor, "b c *s"], held: Integer[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """Return the cross-entropy summed over labelled pixels and divided by the number of all pixels.

    Ignored pixels add nothing to the sum, but count in the number.

    Source:
        mmseg's CrossEntropyLoss with ``avg_non_ignore=False``, as in DINOv2's recipe.
    """
    total = nn.functional.cross_entropy(logits, held.long(), ignore_index=IGNORED, reduction="sum")
    return total / held.numel()


def poly(iteration: int, iterations: int, warmup: int) -> float:
    """Return the fraction of the learning rate at an iteration from zero: linear to 0, after a warm-up.

    Source:
        mmcv's PolyLrUpdaterHook with power 1, ``warmup='linear'``.
    """
    left = 1 - iteration / iterations
    if iteration >= warmup:
        return left
    return left * (1 - (1 - iteration / warmup) * (1 - WARMUP_RATIO))


def classes_at(logits: Float[Tensor, "c h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """Return the class of every pixel at ``size`` (H, W); of equals, the smaller.

    Logits are upsampled, then the largest is taken: what lies between two patches can be a third class.
    """
    return resized(logits.unsqueeze(0), size)[0].argmax(0).to(torch.uint8).cpu().numpy()
