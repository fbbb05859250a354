"""LeJEPA: crops of an image agree, and projections are distributed as an isotropic Gaussian (SIGReg)."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.nn import functional

from ssleval.train.config import TrainConfig
from ssleval.train.objective import Objective, projector
from ssleval.train.processes import mean_over_processes, world_size
from ssleval.train.views import Views


class Lejepa(Objective):
    """The prediction of an image's mean global projection by all its crops, and SIGReg of every crop.

    Source:
        Balestriero & LeCun 2025, arXiv:2511.08544, algorithms 1 and 2; rbalestr-lab/lejepa MINIMAL.md.
    """

    def __init__(self, width: int, config: TrainConfig) -> None:
        settings = config.lejepa
        sizes = [width, *[settings.hidden] * (settings.layers - 1)]
        last = nn.Linear(sizes[-1], settings.projection)
        super().__init__(projector(sizes, batch_norm=settings.batch_norm, last=[last]))
        self.settings = settings

    def losses(self, outputs: Tensor, views: Views, masks: Tensor | None) -> dict[str, Tensor]:
        """Return ``prediction`` and ``sigreg``."""
        del views, masks
        settings = self.settings
        random = directions(outputs.shape[-1], settings.directions, outputs.device)
        gaussian = sigreg(outputs, random, settings.knots, settings.limit)
        return {
            "prediction": (1 - settings.weight) * prediction(outputs),
            "sigreg": settings.weight * gaussian,
        }


def prediction(projections: Float[Tensor, "v b d"]) -> Float[Tensor, ""]:
    """Return the mean squared difference between all crops and the mean of their image's global crops."""
    return (projections[:2].mean(dim=0) - projections).square().mean()


def directions(channels: int, count: int, device: torch.device) -> Float[Tensor, "d k"]:
    """Draw unit vectors, the same in all processes: those of the first."""
    # On the CPU, so that a seed means the same on every device.
    drawn = functional.normalize(torch.randn(channels, count), dim=0).to(device)
    if world_size() > 1:
        distributed.broadcast(drawn, 0)
    return drawn


def sigreg(
    projections: Float[Tensor, "v b d"], directions: Float[Tensor, "d k"], knots: int, limit: float
) -> Float[Tensor, ""]:
    """Return the Epps-Pulley statistic of normality, averaged over crops and directions.

    It is the number of images n times the squared distance of the characteristic functions of n scalars and
    of the standard normal, weighted by the latter. The integral over [-``limit``, ``limit``] is twice that of
    a trapezoid rule over [0, ``limit``] with ``knots`` points, because it is even.
    """
    points = torch.linspace(0, limit, knots, device=projections.device, dtype=projections.dtype)
    normal = (-points.square() / 2).exp()
    step = limit / (knots - 1)
    weights = torch.full_like(points, 2 * step)
    weights[[0, -1]] = step
    # Of every crop, direction, image and point.
    angles = (projections @ directions).transpose(1, 2).unsqueeze(-1) * points
    parts = torch.stack([angles.cos().mean(dim=2), angles.sin().mean(dim=2)])
    real, imaginary = mean_over_processes(parts)
    distance = ((real - normal).square() + imaginary.square()) @ (weights * normal)
    return distance.mean() * projections.shape[1] * world_size()
