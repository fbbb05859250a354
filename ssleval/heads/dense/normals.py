"""Surface normals on patch grids: a direction and a concentration for every pixel."""

from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ssleval.core import Context
from ssleval.heads.dense.grid import Examples, Fit, H, at_points, fit, resized

OUTPUTS = 4
"""Three of the vector, one of the concentration."""
NEAR_ONE = 1e-4
"""How near to -1 and 1 cosines may come: the arc cosine has no slope there."""
LAST_RATIO = 0.01


def angular_loss(outputs: Float[Tensor, "n 4"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """Return the negative log likelihood of angles, up to a constant, by the predicted concentration.

    Source:
        Bae et al. 2021, arXiv:2109.09881 (angular von Mises-Fisher distribution), with the concentration
        ELU + 1.01 as in ``angular_loss`` of probe3d.
    """
    cosine = functional.cosine_similarity(outputs[:, :3], normals, dim=1)
    angle = cosine.clamp(NEAR_ONE - 1, 1 - NEAR_ONE).acos()
    kappa = functional.elu(outputs[:, 3]) + 1.01
    return (kappa * angle + torch.log1p((-pi * kappa).exp()) - torch.log1p(kappa.square())).mean()


def fit_normals(head: H, examples: Examples, settings: Fit, context: Context) -> H:
    """Train a head of 4 outputs on unit normals; pixels of 0 are ignored."""

    def loss(outputs: Tensor, points: Tensor, targets: Tensor, _iteration: int) -> Tensor:
        known = targets.any(dim=2)
        if not known.any():
            return outputs.sum() * 0
        return angular_loss(at_points(outputs, points).transpose(1, 2)[known], targets[known])

    return fit(head, examples, settings, context, rate=quarter_cosine, loss=loss)


def quarter_cosine(iteration: int, iterations: int, warmup: int) -> float:
    """Return the fraction of the learning rate at an iteration from zero: a quarter of a cosine to 1/100.

    A linear warm-up from 1/100 comes before it.

    Source:
        ``cosine_decay_linear_warmup`` of probe3d, evals/utils/optim.py.
    """
    if iteration < warmup:
        return LAST_RATIO + (1 - LAST_RATIO) * iteration / warmup
    return LAST_RATIO + (1 - LAST_RATIO) * cos(pi / 2 * (iteration - warmup) / (iterations - warmup))


def normal_map(outputs: Float[Tensor, "4 h w"], size: tuple[int, int]) -> Float[Tensor, "H W 3"]:
    """Return unit normals at ``size`` (H, W): outputs upsampled bilinearly, then scaled to length 1."""
    return functional.normalize(resized(outputs[None, :3], size)[0], dim=0).permute(1, 2, 0)
