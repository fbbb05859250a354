"""The projection head: an MLP to a bottleneck, L2 normalisation, and a last layer of prototypes."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.train.sections import HeadConfig


class _Prototypes(nn.Module):
    """A linear layer without bias, weight-normalised: ``weight_g`` times the direction of ``weight_v``."""

    def __init__(self, width: int, count: int, *, fixed_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not fixed_length)
        self.weight_v = nn.Parameter(nn.Linear(width, count, bias=False).weight.detach().clone())

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        return functional.linear(inputs, torch.ops.aten._weight_norm(self.weight_v, self.weight_g, 0))


def _last_layer(config: HeadConfig) -> nn.Module:
    if config.weight_norm:
        return _Prototypes(config.bottleneck, config.prototypes, fixed_length=config.norm_last_layer)
    plain = nn.Linear(config.bottleneck, config.prototypes, bias=False)
    nn.init.trunc_normal_(plain.weight, std=0.02)
    return plain


class DinoHead(nn.Module):
    """Maps features to logits. Parameter names are those of the official code.

    Source:
        Caron et al. 2021, appendix C; facebookresearch/dino vision_transformer.py, ``DINOHead``; without
        weight norm, facebookresearch/dinov3 layers/dino_head.py.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        sizes = [width, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            linear = nn.Linear(inputs, outputs)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, *([nn.BatchNorm1d(outputs)] if config.batch_norm else []), nn.GELU()]
        # The bottleneck has no norm and no activation.
        self.mlp = nn.Sequential(*layers[: -2 if config.batch_norm else -1])
        self.last_layer = _last_layer(config)

    def forward(self, features: Float[Tensor, "n d"], temperature: float = 1.0) -> Float[Tensor, "n k"]:
        """Return cosines with the prototypes (times their lengths), divided by ``temperature``."""
        # Dividing the bottleneck's few channels is cheaper than dividing the many logits.
        return self.last_layer(functional.normalize(self.mlp(features), dim=-1) / temperature)
