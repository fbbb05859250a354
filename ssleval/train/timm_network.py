"""Networks of timm, convolutional or plain vision transformers, built by the loader that evaluates them."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.backbones.blocks import PLAIN
from ssleval.backbones.loaders.timm import TimmBackbone, shared_batch_norms
from ssleval.backbones.zoo import load
from ssleval.core import BackboneCard
from ssleval.errors import ConfigError
from ssleval.train.config import TrainConfig
from ssleval.train.processes import world_size


class TimmNetwork(nn.Module):
    """A network whose pooled features take the place of the class token of a `Vit`."""

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


def build_timm_network(config: TrainConfig) -> TimmNetwork:
    """Return an untrained network in training mode; refuse other networks, and crops in broken strides.

    The position embedding of a transformer has the grid of the global crops, and is resampled for others.
    """
    arch, seed, side = config.model.arch, config.run.seed, config.views.global_size
    backbone = load(f"random:{arch}", seed=seed)
    kind = type(getattr(backbone, "model", None)).__name__
    if not isinstance(backbone, TimmBackbone) or not (backbone.is_convolutional or kind in PLAIN):
        raise ConfigError(
            f"train: {arch} is neither a convolutional network of timm nor a plain vision transformer; for a "
            "transformer of ours, name a size such as vit_small"
        )
    sizes = ("global_size", "high_resolution_size")
    if backbone.is_transformer:
        _refuse_settings(config, backbone)
        sizes = ("global_size", "local_size") if config.views.local_crops else ("global_size",)
    config.check_sizes(backbone.card.patch_size, sizes)
    if backbone.is_transformer:
        backbone = load(f"random:{arch}", seed=seed, card={"image_size": side, "resize": side})
        assert isinstance(backbone, TimmBackbone)
    card = replace(backbone.card, arch=backbone.card.arch.partition(".")[0])
    return TimmNetwork(backbone.model.requires_grad_(True).train(), card)


def _refuse_settings(config: TrainConfig, backbone: TimmBackbone) -> None:
    """Refuse what a transformer of timm does not have, and one whose patches a network of its own embeds."""
    arch, patch, model = config.model.arch, backbone.card.patch_size, config.model.patch_size
    wrong = ""
    if config.views.high_resolution_size:
        wrong = "views.high_resolution_size needs a transformer of ours"
    elif model not in {patch, TrainConfig().model.patch_size}:
        wrong = f"model.patch_size is {model}, and its patches have {patch} pixels"
    elif type(getattr(backbone.model, "patch_embed", None)).__name__ != "PatchEmbed":
        wrong = "how it embeds patches is not known to ssleval"
    if wrong:
        raise ConfigError(f"train: {arch}: {wrong}")


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Share the statistics of batch norms over processes; on CPUs, where torch cannot, they stay separate."""
    if world_size() > 1 and device.type != "cpu":
        shared_batch_norms(network)
