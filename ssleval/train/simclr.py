"""SimCLR: the crops of an image are told from those of all other images of the batch."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.train.config import TrainConfig
from ssleval.train.objective import Objective, projector
from ssleval.train.processes import gathered, rank
from ssleval.train.views import Views


class Simclr(Objective):
    """The normalised, temperature-scaled cross-entropy of the projections of an image's crops.

    Source:
        Chen et al. 2020, arXiv:2002.05709, sec. 2.1; the projector as in google-research/simclr
        model_util.py, ``projection_head``.
    """

    def __init__(self, width: int, config: TrainConfig) -> None:
        settings = config.simclr
        sizes = [width, *[settings.hidden or width] * (settings.layers - 1)]
        last: list[nn.Module] = [nn.Linear(sizes[-1], settings.projection, bias=False)]
        if settings.batch_norm:
            norm = nn.BatchNorm1d(settings.projection)
            # The published code does not shift the projections.
            norm.bias.requires_grad_(False)
            last.append(norm)
        super().__init__(projector(sizes, batch_norm=settings.batch_norm, last=last))
        self.temperature = settings.temperature

    def losses(self, outputs: Tensor, views: Views, masks: Tensor | None) -> dict[str, Tensor]:
        """Return ``simclr``."""
        del views, masks
        return {"simclr": nt_xent(outputs, self.temperature)}


def nt_xent(projections: Float[Tensor, "v b d"], temperature: float) -> Float[Tensor, ""]:
    """Return the cross-entropy, averaged over images and over pairs of a crop and a different global crop.

    Every crop is to find the other global crop of its image (a local crop: both) among it and the global
    crops of all other images, of all processes. With two crops this is NT-Xent. Local crops are no negatives,
    as they are no targets in DINO.
    """
    unit = functional.normalize(projections.float(), dim=-1)
    keys = gathered(unit[:2])
    batch = unit.shape[1]
    own = torch.zeros(batch, keys.shape[1], dtype=torch.bool, device=unit.device)
    own[:, rank() * batch :].fill_diagonal_(True)
    # Of every crop with every global crop: [v, 2, b, images of all processes]
    scores = torch.einsum("vbd,gnd->vgbn", unit, keys) / temperature
    negatives = scores.masked_fill(own, float("-inf")).logsumexp(dim=(1, 3))
    losses = functional.softplus(negatives.unsqueeze(1) - scores[:, :, own])
    paired = torch.ones(losses.shape[:2], dtype=torch.bool, device=unit.device)
    paired.fill_diagonal_(False)
    return losses[paired].mean()
