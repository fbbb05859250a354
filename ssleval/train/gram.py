"""Gram anchoring: similarities between the student's patches stay those of an earlier teacher (DINOv3).

In long trainings, patches of one image lose what makes them alike and different, while the class token still
gains. The loss compares similarities only, so that the features themselves may change.

Source:
    Simeoni et al. 2025, arXiv:2508.10104, sec. 4. Shapes: ``c`` crops, ``n`` patches, ``d`` channels.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.backbones.vit import Vit
from ssleval.train.config import TrainConfig
from ssleval.train.networks import Network
from ssleval.train.sections import GramConfig
from ssleval.train.start import fill_backbone


class GramTeacher(nn.Module):
    """A frozen backbone of the student's architecture: an earlier EMA teacher, or one of another training."""

    def __init__(self, config: TrainConfig, *, resumed: bool) -> None:
        super().__init__()
        self.backbone = Vit(replace(config.vit(), mask_token=False, drop_path=0.0))
        # The weights of a resumed run come from its checkpoint.
        if config.gram.teacher and not resumed:
            fill_backbone(self.backbone, config.gram.teacher, "gram.teacher")
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, crops: Float[Tensor, "c 3 s s"], grid: int) -> Float[Tensor, "c n d"]:
        """Return the patches of ``crops``, resized to ``grid`` x ``grid`` (bicubic, not antialiased)."""
        patches = self.backbone(crops)[:, self.backbone.config.num_prefix :].float()
        side = math.isqrt(patches.shape[1])
        if side == grid:
            return patches
        planes = patches.transpose(1, 2).unflatten(2, (side, side))
        resized = functional.interpolate(planes, size=(grid, grid), mode="bicubic")
        return resized.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def renew(self, teacher: Network) -> None:
        """Become a copy of the EMA teacher."""
        theirs = teacher.backbone.state_dict()
        for name, value in self.backbone.state_dict().items():
            value.copy_(theirs[name])


def gram_loss(
    student: Float[Tensor, "c n d"],
    teacher: Float[Tensor, "c n e"],
    chosen: Bool[Tensor, "c n"] | None,
    config: GramConfig,
) -> Float[Tensor, ""]:
    """Return the mean squared difference of the similarities of all pairs of patches within a crop.

    ``chosen`` are the patches that count, None for all. Each crop then has equal weight, one without such
    patches counts as 0, and the result is the mean over all crops.
    """
    squares = (_similarities(student, config) - _similarities(teacher, config)).square()
    if chosen is None:
        return squares.mean()
    pairs = chosen.unsqueeze(1) & chosen.unsqueeze(2)
    return ((squares * pairs).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2)).clamp(min=1)).mean()


def _similarities(patches: Tensor, config: GramConfig) -> Float[Tensor, "c n n"]:
    patches = patches.float()
    if config.normalised:
        patches = functional.normalize(patches, dim=-1)
    similarities = patches @ patches.transpose(1, 2)
    return similarities if config.negatives == "kept" else similarities.clamp(min=0)
