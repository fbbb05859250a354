"""How widely the features of different images are spread."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def effective_rank(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the exponential of the entropy of the centred features' singular values; 1 if all are equal.

    It is `metrics.spectrum.effective_rank` for a batch of few rows, whose singular values cost far less than
    the eigenvalues of ``d`` x ``d`` moments.
    """
    # NaN has no decomposition. The losses are then NaN too, and `Log.flush` reports them.
    finite = features.float().nan_to_num(0, 0, 0)
    values = torch.linalg.svdvals(finite - finite.mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return torch.special.entr(share).sum().exp()


def spread(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the variance of unit vectors, summed over channels: 0 if all are equal, 1 if they are centred.

    Source:
        Chen & He 2021, arXiv:2011.10566, fig. 2, which shows the deviation of one channel.
    """
    unit = functional.normalize(features.float().nan_to_num(0, 0, 0), dim=-1)
    return (unit - unit.mean(dim=0)).square().sum(dim=-1).mean()
