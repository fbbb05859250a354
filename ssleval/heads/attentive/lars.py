"""LARS, layer-wise adaptive rate scaling, for large batches."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lars(torch.optim.Optimizer):
    """Gradient descent with momentum, the gradient of a matrix scaled to a fraction of the matrix's norm.

    Vectors, such as biases, are not scaled. Weight decay, of groups that state one, is part of the gradient.

    Source:
        You et al. 2017, arXiv:1708.03888, as in util/lars.py of facebookresearch/mae and main_vicreg.py of
        facebookresearch/vicreg.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.0, *, momentum: float = 0.9, trust: float = 0.001
    ) -> None:
        usual = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0}
        super().__init__(params, usual)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step along the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if group["weight_decay"]:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                if parameter.ndim > 1:
                    weight, update = parameter.norm(), gradient.norm()
                    scale = torch.where((weight > 0) & (update > 0), group["trust"] * weight / update, 1.0)
                    gradient = gradient * scale
                state = self.state[parameter]
                if "moving" not in state:
                    state["moving"] = torch.zeros_like(parameter)
                state["moving"].mul_(group["momentum"]).add_(gradient)
                parameter.sub_(group["lr"] * state["moving"])
