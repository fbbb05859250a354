"""Depth estimation on patch grids: every pixel is a weighted mean of fixed depth bins."""

from dataclasses import dataclass
from math import cos, pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssleval.core import Context
from ssleval.errors import ContractError
from ssleval.heads.dense.grid import Examples, Fit, H, at_points, fit, resized, surrounding, warmed

FLOOR = 0.1
"""Added to every bin's rectified logit, so that no bin ever has weight zero."""
LOG_EPS = 1e-3
MEAN_WEIGHT = 0.15
"""Weight of the squared mean log error; the variance of log errors has weight 1."""
UNCENTRED = 100
"""First iterations, in which the loss is of the mean log error alone."""
WARMUP_RATIO = 1e-3
LAST_RATIO = 1e-8


@dataclass(frozen=True, slots=True)
class Bins:
    """Depth bins in metres: ``count`` of them, evenly spaced from ``nearest`` to ``farthest``."""

    nearest: float
    farthest: float
    count: int
    upsample: int
    """Depths are computed on a grid this many times finer than the patches, then upsampled to the image."""

    def mix(self, logits: Float[Tensor, "b c *s"]) -> Float[Tensor, "b *s"]:
        """Return the mean of the bins, weighted by rectified logits.

        Source:
            DINOv2's depth head: bins ``UD``, ``norm_strategy='linear'``.
        """
        depths = torch.linspace(self.nearest, self.farthest, self.count, device=logits.device)
        # One product computes both sums; the floor adds a constant to each.
        sums = torch.stack([depths, torch.ones_like(depths)], dim=1)
        above, below = (logits.movedim(1, -1).relu() @ sums).unbind(-1)
        return (above + FLOOR * depths.sum()) / (below + FLOOR * self.count)


def depth_map(logits: Float[Tensor, "c h w"], bins: Bins, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Return metres at ``size`` (H, W): logits upsampled and mixed, then upsampled again and clamped."""
    height, width = (bins.upsample * side for side in logits.shape[1:])
    metres = resized(bins.mix(resized(logits.unsqueeze(0), (height, width))).unsqueeze(1), size)
    return metres[0, 0].clamp(bins.nearest, bins.farthest)


def depth_at(
    logits: Float[Tensor, "b c h w"], points: Float[Tensor, "b k 2"], bins: Bins
) -> Float[Tensor, "b k"]:
    """Return the values of `depth_map` at points, not clamped.

    A pixel lies between four cells of the finer grid; only these are mixed.
    """
    height, width = (bins.upsample * side for side in logits.shape[2:])
    cells = torch.tensor([width, height], device=points.device)
    near, far, (right, down) = surrounding(points, height, width)
    corners = [torch.stack([x[..., 0], y[..., 1]], dim=2) for y in (near, far) for x in (near, far)]
    mixed = bins.mix(at_points(logits, (torch.cat(corners, dim=1) + 0.5) / cells)).chunk(4, dim=1)
    upper, lower = (a * (1 - right) + b * right for a, b in (mixed[:2], mixed[2:]))
    return upper * (1 - down) + lower * down


def sig_loss(
    predicted: Float[Tensor, " n"], target: Float[Tensor, " n"], *, centred: bool = True
) -> Float[Tensor, ""]:
    """Return the scale-invariant loss: the root of the variance of log errors and part of their squared mean.

    Source:
        Eigen et al. 2014, eq. 4, as SigLoss of the Monocular-Depth-Estimation-Toolbox; ``centred`` is
        false during its warm-up.
    """
    error = (predicted + LOG_EPS).log() - (target + LOG_EPS).log()
    if not centred:
        return MEAN_WEIGHT**0.5 * error.mean().abs()
    return (error.var() + MEAN_WEIGHT * error.mean().square()).sqrt()


def fit_bins(head: H, examples: Examples, settings: Fit, bins: Bins, context: Context) -> H:
    """Train a head of the logits of ``bins`` on metres; pixels of 0, or beyond the last bin, are ignored."""

    def loss(logits: Tensor, points: Tensor, metres: Tensor, iteration: int) -> Tensor:
        known: Bool[Tensor, "b k"] = (metres > 0) & (metres <= bins.farthest)
        if known.sum() < 2:
            return logits.sum() * 0
        predicted = depth_at(logits, points, bins)
        return sig_loss(predicted[known], metres[known], centred=iteration >= UNCENTRED)

    fitted = fit(head, examples, settings, context, rate=annealed, loss=loss)
    grids, _, count = examples
    with torch.no_grad():
        # Logits that a large step has pushed below zero everywhere get no gradient ever again. The head
        # then predicts the mean of all bins for every pixel, which looks plausible.
        if not bool((fitted(grids(np.arange(min(count, settings.batch_size)))) > 0).any()):
            raise ContractError("depth head: no bin has a positive logit any more; lower depth.learning_rate")
    return fitted


def annealed(iteration: int, iterations: int, warmup: int) -> float:
    """Return the fraction of the learning rate at an iteration from zero: cosine decay, after a warm-up.

    Source:
        mmcv's CosineAnnealing updater with ``min_lr_ratio=1e-8, warmup='linear', warmup_ratio=0.001``.
    """
    left = LAST_RATIO + (1 - LAST_RATIO) * 0.5 * (1 + cos(pi * iteration / iterations))
    return left * warmed(iteration, warmup, WARMUP_RATIO)
