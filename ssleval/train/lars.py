"""LARS: SGD whose step is proportional to the norm of each weight tensor."""

from typing import Any

import torch
from torch import Tensor

_TRUST = 1e-3
"""Length of a step, at a learning rate of 1, as a part of the length of the weights."""


class Lars(torch.optim.Optimizer):
    """SGD with momentum, in which gradient and weight decay are scaled to the length of the weights.

    Groups without ``decays``, which are biases and norms, take plain steps.

    Source:
        You et al. 2017, arXiv:1708.03888, as in facebookresearch/vicreg main_vicreg.py: the norm is of the
        gradient with weight decay, and momentum gathers what was scaled.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "decays": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update all weights that have a gradient."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                update = weight.grad.add(weight, alpha=group["weight_decay"])
                if group["decays"]:
                    update.mul_(_trust(weight, update))
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                weight.add_(state["momentum_buffer"], alpha=-group["lr"])


def _trust(weight: Tensor, update: Tensor) -> Tensor:
    """Return the factor of an update; 1 where its length or that of the weights is 0."""
    ours, theirs = weight.norm(), update.norm()
    return torch.where((ours > 0) & (theirs > 0), _TRUST * ours / theirs, torch.ones_like(ours))
