"""VICReg: crops of an image agree; every channel varies over images, and no two channels vary together."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.train.config import TrainConfig
from ssleval.train.objective import Objective, projector
from ssleval.train.processes import gathered
from ssleval.train.views import Views

_EPS = 1e-4
"""Added to variances, whose root has an infinite slope at zero."""


class Vicreg(Objective):
    """Invariance, variance and covariance of the outputs of an expander.

    Source:
        Bardes et al. 2022, arXiv:2105.04906, sec. 4.1; facebookresearch/vicreg main_vicreg.py, which takes
        the mean of squared differences where eq. 5 has their sum, and averages the variance of the crops.
    """

    def __init__(self, width: int, config: TrainConfig) -> None:
        settings = config.vicreg
        sizes = [width, *[settings.hidden] * (settings.layers - 1)]
        last = nn.Linear(sizes[-1], settings.projection, bias=False)
        super().__init__(projector(sizes, batch_norm=settings.batch_norm, last=[last]))
        self.settings = settings

    def losses(self, outputs: Tensor, views: Views, masks: Tensor | None) -> dict[str, Tensor]:
        """Return ``invariance``, ``variance`` and ``covariance``."""
        del views, masks
        settings, every = self.settings, gathered(outputs)
        return {
            "invariance": settings.invariance * invariance(outputs),
            "variance": settings.variance * variance(every, settings.deviation),
            "covariance": settings.covariance * covariance(every),
        }


def invariance(projections: Float[Tensor, "v b d"]) -> Float[Tensor, ""]:
    """Return the mean squared difference between crops and each different global crop of their image."""
    crops = len(projections)
    pairs = [(view, target) for target in range(2) for view in range(crops) if view != target]
    return torch.stack([functional.mse_loss(projections[a], projections[b]) for a, b in pairs]).mean()


def variance(projections: Float[Tensor, "v n d"], least: float) -> Float[Tensor, ""]:
    """Return by how much the channels' deviations over images are below ``least``, averaged."""
    return functional.relu(least - (projections.var(dim=1) + _EPS).sqrt()).mean()


def covariance(projections: Float[Tensor, "v n d"]) -> Float[Tensor, ""]:
    """Return the sum of squared covariances of different channels, per channel, of two crops.

    Of more crops, it is twice the mean of one.
    """
    crops, images, channels = projections.shape
    centered = projections - projections.mean(dim=1, keepdim=True)
    total = projections.new_zeros(())
    for crop in centered:
        matrix = crop.T @ crop / (images - 1)
        total = total + matrix.square().sum() - matrix.diagonal().square().sum()
    return total * 2 / (crops * channels)
