"""Which backbones can be trained, and a copy of one that is: the model that is evaluated stays as it is."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ssleval.core.backbone import Backbone
from ssleval.errors import NotApplicableError


def refuse_untrainable(backbone: Backbone) -> None:
    """Refuse a model without weights, and a graph, whose layers stay as they were exported.

    Raises:
        NotApplicableError: it cannot be trained.
    """
    name = backbone.card.name
    graphs = (torch.jit.ScriptModule, torch.fx.GraphModule)
    if any(isinstance(part, graphs) for part in backbone.modules()):
        raise NotApplicableError(f"{name}: an exported graph cannot be fine-tuned; load the model itself")
    if not any(weight.is_floating_point() for weight in backbone.parameters()):
        raise NotApplicableError(f"{name} has no weights that torch can train; fine-tuning needs some")


def trainable_copy(backbone: Backbone) -> Backbone:
    """Return a copy in training mode and float32, all of whose weights take gradients.

    Its `Backbone.extract` is to be called, not the module itself, which computes without gradients.
    """
    refuse_untrainable(backbone)
    copied = deepcopy(backbone).float()
    copied.forget_hashes()
    for weight in copied.parameters():
        weight.requires_grad_(True)
    return copied


def train(module: nn.Module, *, mode: bool) -> None:
    """Put a module into training or evaluation mode, and a backbone in it too, which by itself stays."""
    for part in module.modules():
        part.training = mode


def reached(output: Tensor, module: nn.Module) -> set[str]:
    """Return the names of the weights that ``output`` depends on."""
    names, weights = zip(*module.named_parameters(), strict=True)
    gradients: Any = torch.autograd.grad(output.sum(), weights, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
