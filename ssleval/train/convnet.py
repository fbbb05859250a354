"""Convolutional networks of timm as the trainer takes them, through the loader that evaluates them too."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

from ssleval.backbones.loaders.timm import TimmBackbone, shared_batch_norms
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig


class Convnet(nn.Module):
    """A network whose pooled features stand where a transformer has its class token."""

    def __init__(self, model: nn.Module, card: BackboneCard) -> None:
        super().__init__()
        self.model = model
        self.card = card
        """Of the architecture, untrained."""

    @property
    def width(self) -> int:
        """Channels of the pooled features."""
        return self.card.pooled_dim or self.card.embed_dim

    def forward(
        self, images: Float[Tensor, "b 3 H W"], masks: None = None, first: int | None = None
    ) -> Float[Tensor, "b 1 d"]:
        """Return pooled features; ``masks`` and ``first`` are there for the sake of transformers."""
        del masks, first
        model: Any = self.model
        return model.forward_head(model.forward_features(images), pre_logits=True).unsqueeze(1)


def build_convnet(config: TrainConfig) -> Convnet:
    """Return an untrained network, all of it trainable and in training mode.

    Raises:
        ConfigError: timm's model of that name is none, or evaluation could not use its crop size.
    """
    arch = config.model.arch
    backbone = load(f"random:{arch}", seed=config.run.seed)
    if not isinstance(backbone, TimmBackbone) or not backbone.is_convolutional:
        raise ConfigError(
            f"train: {arch} is no convolutional network; for transformers name a size such as vit_small"
        )
    step = backbone.card.patch_size
    for name in ("global_size", "high_resolution_size"):
        if (size := getattr(config.views, name)) % step:
            raise ConfigError(
                f"train: {arch} has a step of {step} pixels, and crops of {size} are no multiple of it; "
                f"--set views.{name}={max(1, round(size / step)) * step}"
            )
    card = replace(backbone.card, arch=backbone.card.arch.partition(".")[0])
    return Convnet(backbone.model.requires_grad_(True).train(), card)


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Let several processes share the statistics of batch normalisation, where there is any.

    torch can do so on accelerators alone: on a CPU statistics remain those of a process's own images.
    """
    shared = distributed.is_initialized() and distributed.get_world_size() > 1
    if shared and device.type != "cpu":
        shared_batch_norms(network)
