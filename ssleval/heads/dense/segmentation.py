"""Linear segmentation: batch normalisation and a 1x1 convolution on patch grids, trained on masks."""

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from ssleval.core import IGNORED, Context
from ssleval.heads.dense.grid import Examples, Fit, LinearHead, at_points, channels_of, fit, resized, warmed

WARMUP_RATIO = 1e-6
"""Of the full learning rate, at the first iteration."""


def fit_classes(examples: Examples, settings: Fit, num_classes: int, context: Context) -> LinearHead:
    """Train a head on masks of ``0..num_classes - 1`` and `IGNORED`, by `pixel_loss` of the drawn pixels."""

    def loss(logits: Tensor, points: Tensor, labels: Tensor, _iteration: int) -> Tensor:
        return pixel_loss(at_points(logits, points), labels)

    head = LinearHead(channels_of(examples[0]), num_classes, normalise=True, seed=context.seed)
    return fit(head, examples, settings, context, rate=poly, loss=loss)


def pixel_loss(logits: Float[Tensor, "b c *s"], labels: Integer[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropy over labelled pixels, divided by the number of all pixels.

    Source:
        mmseg's CrossEntropyLoss with ``avg_non_ignore=False``, as in DINOv2's recipe.
    """
    total = nn.functional.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total / labels.numel()


def poly(iteration: int, iterations: int, warmup: int) -> float:
    """Return the fraction of the learning rate at an iteration from zero: linear decay to 0, after a warm-up.

    Source:
        mmcv's PolyLrUpdaterHook with power 1, ``warmup='linear'``.
    """
    return (1 - iteration / iterations) * warmed(iteration, warmup, WARMUP_RATIO)


def classes_at(logits: Float[Tensor, "c h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """Return the class of every pixel at ``size`` (H, W); of ties, the smaller.

    Logits are upsampled before the argmax: between patches of two classes, a third can win.
    """
    return resized(logits.unsqueeze(0), size)[0].argmax(0).to(torch.uint8).cpu().numpy()
