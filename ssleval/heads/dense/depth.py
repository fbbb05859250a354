"""Metres for every pixel from a linear head on patch grids: a mean over fixed bins of depth."""

from dataclasses import dataclass
from math import cos, pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssleval.errors import ContractError
from ssleval.heads.dense.grid import Fit, Grids, LinearHead, Targets, at_points, fit, resized

FLOOR = 0.1
"""Added to every bin's rectified logit, so that none ever has weight zero."""
LOG_EPS = 1e-3
MEAN_WEIGHT = 0.15
"""Of the squared mean of log errors, beside their variance."""
UNCENTRED = 100
"""First iterations, in which the loss is of the mean alone."""
WARMUP_RATIO = 1e-3
LAST_RATIO = 1e-8


@dataclass(frozen=True, slots=True)
class Bins:
    """Depths that are mixed, in metres: ``count`` of them, evenly from ``nearest`` to ``farthest``."""

    nearest: float
    farthest: float
    count: int
    upsample: int
    """The mix is computed on a grid this many times finer than the patches, then upsampled on."""

    def mix(self, logits: Float[Tensor, "b c *s"]) -> Float[Tensor, "b *s"]:
        """Return the mean bin, weighted by rectified logits.

        Source:
            DINOv2's depth head: bins ``UD``, ``norm_strategy='linear'``.
        """
        depths = torch.linspace(self.nearest, self.farthest, self.count, device=logits.device)
        # One product for both sums; the floor adds the same to each of them everywhere.
        sums = torch.stack([depths, torch.ones_like(depths)], dim=1)
        above, below = (logits.movedim(1, -1).relu() @ sums).unbind(-1)
        return (above + FLOOR * depths.sum()) / (below + FLOOR * self.count)


def depth_map(logits: Float[Tensor, "c h w"], bins: Bins, size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Return metres at ``size`` (H, W): logits upsampled, mixed, and the mix upsampled and clamped."""
    fine = resized(logits.unsqueeze(0), _fine(logits.shape[1:], bins))
    metres = resized(bins.mix(fine).unsqueeze(1), size)
    return metres[0, 0].clamp(bins.nearest, bins.farthest)


def depth_at(
    logits: Float[Tensor, "b c h w"], points: Float[Tensor, "b k 2"], bins: Bins
) -> Float[Tensor, "b k"]:
    """Return what `depth_map` would hold at some points, not clamped.

    A pixel lies between four cells of the finer grid; only those are mixed.
    """
    height, width = _fine(logits.shape[2:], bins)
    cells = torch.tensor([width, height], device=points.device)
    place = (points * cells - 0.5).clamp(min=0).minimum(cells - 1)
    low = place.floor()
    high = (low + 1).minimum(cells - 1)
    right, down = (place - low).unbind(2)
    corners = [
        torch.stack([x[..., 0], y[..., 1]], dim=2)
        for x, y in ((low, low), (high, low), (low, high), (high, high))
    ]
    mixed = bins.mix(at_points(logits, (torch.cat(corners, dim=1) + 0.5) / cells)).chunk(4, dim=1)
    upper, lower = (a * (1 - right) + b * right for a, b in (mixed[:2], mixed[2:]))
    return upper * (1 - down) + lower * down


def sig_loss(
    predicted: Float[Tensor, " n"], target: Float[Tensor, " n"], *, centred: bool = True
) -> Float[Tensor, ""]:
    """Return the scale-invariant loss of metres: the spread of log errors, and some of their mean.

    Source:
        Eigen et al. 2014, eq. 4, as SigLoss of the Monocular-Depth-Estimation-Toolbox; ``centred`` is
        false during its warm-up.
    """
    error = (predicted + LOG_EPS).log() - (target + LOG_EPS).log()
    if not centred:
        return MEAN_WEIGHT**0.5 * error.mean().abs()
    return (error.var() + MEAN_WEIGHT * error.mean().square()).sqrt()


def fit_depth(
    grids: Grids,
    depths: Targets,
    count: int,
    how: Fit,
    bins: Bins,
    *,
    warmup: int,
    seed: int,
    device: str,
) -> LinearHead:
    """Train a 1x1 convolution on metres; pixels of 0, or beyond the last bin, count nowhere.

    Raises:
        ContractError: a step too large has silenced every bin.
    """

    def loss(logits: Tensor, points: Tensor, held: Tensor, iteration: int) -> Tensor:
        known: Bool[Tensor, "b k"] = (held > 0) & (held <= bins.farthest)
        if known.sum() < 2:
            return logits.sum() * 0
        metres = depth_at(logits, points, bins)
        return sig_loss(metres[known], held[known], centred=iteration >= UNCENTRED)

    def rate(iteration: int) -> float:
        return annealed(iteration, how.iterations, warmup)

    channels = grids(np.zeros(1, dtype=np.int64)).shape[-1]
    head = LinearHead(channels, bins.count, normalise=False, seed=seed)
    fitted = fit(head, grids, depths, count, how, rate=rate, loss=loss, seed=seed, device=device)
    with torch.no_grad():
        # Rectified bins that a large step has pushed below zero everywhere get no gradient ever again, and
        # the head then answers the mean of all bins for every pixel: a plausible map of nothing.
        if not bool((fitted(grids(np.arange(min(count, how.batch_size)))) > 0).any()):
            raise ContractError("depth head: no bin answers any more; lower depth.learning_rate")
    return fitted


def annealed(iteration: int, iterations: int, warmup: int) -> float:
    """Return the fraction of the learning rate at an iteration from zero: a cosine, after a warm-up.

    Source:
        mmcv's CosineAnnealing updater with ``min_lr_ratio=1e-8, warmup='linear', warmup_ratio=0.001``.
    """
    left = LAST_RATIO + (1 - LAST_RATIO) * 0.5 * (1 + cos(pi * iteration / iterations))
    if iteration >= warmup:
        return left
    return left * (1 - (1 - iteration / warmup) * (1 - WARMUP_RATIO))


def _fine(grid: torch.Size | tuple[int, ...], bins: Bins) -> tuple[int, int]:
    return grid[0] * bins.upsample, grid[1] * bins.upsample
