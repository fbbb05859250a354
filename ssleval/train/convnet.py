"""Convolutional networks of timm, built by the same loader that evaluates them."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.loaders.timm import TimmBackbone, shared_batch_norms
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig
from ssleval.train.processes import world_size


class Convnet(nn.Module):
    """A network whose pooled features take the place of a transformer's class token."""

    def __init__(self, model: nn.Module, card: BackboneCard) -> None:
        super().__init__()
        self.model = model
        self.card = card
        """Describes the untrained architecture."""
        self.width = card.pooled_dim or card.embed_dim
        """Channels of the pooled features."""

    def forward(
        self, images: Float[Tensor, "b 3 H W"], masks: None = None, first: int | None = None
    ) -> Float[Tensor, "b 1 d"]:
        """Return pooled features; ``masks`` and ``first`` only match the signature of `Vit`."""
        del masks, first
        model: Any = self.model
        return model.forward_head(model.forward_features(images), pre_logits=True).unsqueeze(1)


def build_convnet(config: TrainConfig) -> Convnet:
    """Return an untrained network in training mode; refuse other networks, and crops in broken strides."""
    arch = config.model.arch
    backbone = load(f"random:{arch}", seed=config.run.seed)
    if not isinstance(backbone, TimmBackbone) or not backbone.is_convolutional:
        raise ConfigError(
            f"train: {arch} is no convolutional network; for a transformer, name a size such as vit_small"
        )
    config.check_sizes(backbone.card.patch_size, ("global_size", "high_resolution_size"))
    card = replace(backbone.card, arch=backbone.card.arch.partition(".")[0])
    return Convnet(backbone.model.requires_grad_(True).train(), card)


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Share the statistics of batch norms over processes; on CPUs, where torch cannot, they stay separate."""
    if world_size() > 1 and device.type != "cpu":
        shared_batch_norms(network)
