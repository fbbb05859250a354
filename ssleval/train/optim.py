"""The optimiser: parameter groups, weight decay, layer-wise learning rates, and gradient clipping."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ssleval.heads.attentive.lars import Lars
from ssleval.train.sections import OptimConfig


def parameter_groups(network: nn.Module, config: OptimConfig, depth: int) -> list[dict[str, Any]]:
    """Return groups of trainable parameters, each with ``decays``, ``lr_scale`` and ``freezes``.

    Weight decay skips biases, norms and LayerScale. It applies to the class token and position embeddings,
    as in DINO and DINOv2.
    """
    groups: defaultdict[tuple[bool, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and not name.endswith(".bias")
            freezes = config.freeze_last_layer_by == "lr" and "last_layer" in name
            groups[decays, _lr_scale(name, config, depth), freezes].append(parameter)
    return [
        {"params": part, "decays": decays, "lr_scale": scale, "freezes": freezes}
        for (decays, scale, freezes), part in groups.items()
    ]


def _lr_scale(name: str, config: OptimConfig, depth: int) -> float:
    """Return the learning rate factor: 1 for heads and the final norm, smallest for the embeddings."""
    if not name.startswith("backbone."):
        return 1.0
    block = re.match(r"backbone\.blocks\.(\d+)\.", name)
    embeds = re.match(r"backbone\.(patch_embed|cls_token|pos_embed|register_tokens|mask_token)", name)
    layer = int(block.group(1)) + 1 if block else 0 if embeds else depth + 1
    scale = config.layer_decay ** (depth + 1 - layer)
    return scale * (config.patch_embed_lr if "patch_embed" in name else 1.0)


def optimizer(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """Return fused AdamW, or SGD or LARS with a momentum of 0.9."""
    if config.kind == "lars":
        return Lars(groups, lr=0.0, momentum=0.9)
    if config.kind == "sgd":
        # Fused SGD needs a gradient for every weight in the first step; frozen prototypes have none.
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)


def gradient_norm(network: nn.Module) -> Float[Tensor, ""]:
    """Return the L2 norm of all gradients, of all shards where there are some."""
    norm = nn.utils.get_total_norm(
        [weight.grad for weight in network.parameters() if weight.grad is not None]
    )
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip(modules: Sequence[nn.Module], limit: float, by: str) -> None:
    """Scale gradients whose L2 norm is above ``limit`` down to it; 0 disables clipping.

    ``by="tensor"`` takes the norm of each parameter's gradient (DINO), ``by="module"`` that of all gradients
    of a module (DINOv2).
    """
    for module in modules if limit > 0 else ():
        trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
        if by == "module":
            nn.utils.clip_grad_norm_(trained, limit)
        elif trained:
            # Fused calls: for hundreds of small gradients, launching kernels would dominate.
            gradients: list[Any] = [parameter.grad for parameter in trained]
            norms = torch.stack(torch._foreach_norm(gradients))  # pyright: ignore[reportPrivateImportUsage]
            factors = (limit / (norms + 1e-6)).clamp(max=1)
            torch._foreach_mul_(gradients, list(factors.unbind()))  # pyright: ignore[reportPrivateImportUsage]
