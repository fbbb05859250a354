"""The vision transformer of `ssleval.backbones.vit`: DINO, DINOv2, iBOT and MAE.

Names are ``native:SIZE/FLAVOUR``, such as ``native:vit_small/dinov2``. The default flavour is DINO's, which
is also the plain ViT of supervised weights. A file that `ssleval train` wrote describes itself: the
``arch`` of its card is ``file:PATH``, or ``packaged:NAME`` where it is part of the package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.vit import TRAINING_ONLY, Vit, VitConfig, sized
from ssleval.backbones.weights.checkpoints import (
    drawn_or_empty,
    fill,
    millions_of_parameters,
    on_own_grid,
    read_weights,
    to_native,
)
from ssleval.backbones.weights.limits import refuse_giant
from ssleval.backbones.weights.weightfile import SUFFIX, read_card, read_config
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.packaged import packaged_weights
from ssleval.core.registry import suggestion
from ssleval.core.settings import build, updated
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

_FILE = "file:"
_PACKAGED = "packaged:"
# Mask tokens are absent: only training uses them, and `fill` leaves them out by name.
_DINOV2: dict[str, Any] = {"patch_size": 14, "image_size": 518, "layerscale": 1.0}
_FLAVOURS: dict[str, dict[str, Any]] = {
    "dino": {"position_embedding": "dino"},
    "dinov2": {"position_embedding": "dinov2", **_DINOV2},
    "dinov2_reg4": {"position_embedding": "size_antialias", "num_registers": 4, **_DINOV2},
    "franca": {"position_embedding": "dinov2", "ffn": "swiglu", **_DINOV2},
    "mae": {"position_embedding": "size", "fixed_positions": True},
    "mocov3": {"position_embedding": "size", "fixed_positions": True},
}
"""The settings of `VitConfig` that a method chooses, apart from the size."""
_HEADS = {"vit_small/mocov3": 12}
"""Heads where a method has another number than `SIZES`, which no shape of a tensor tells.

Source: facebookresearch/moco-v3, vits.py, vit_small.
"""
_QUERY = "base_encoder"
"""The network that MoCo v3 evaluates, as its files call it; the other one is its momentum encoder."""


class NativeBackbone(Backbone):
    """A `Vit` as a `Backbone`."""

    def __init__(self, card: BackboneCard, vit: Vit) -> None:
        super().__init__(card, num_blocks=vit.config.depth)
        if card.pooling not in {"cls", "mean"}:
            raise ConfigError(f"{card.name}: pooling is {card.pooling!r}; a native ViT has cls or mean")
        self.vit = vit

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run all blocks once; ``pooled`` is the class token, or the mean of the patches, after the norm."""
        *states, last = self.vit.intermediate(images, [*blocks, self.num_blocks - 1])
        final = self._split(images, self.vit.norm(last))
        pooled = final.patches.mean(dim=(1, 2)) if self.card.pooling == "mean" else final.cls
        assert pooled is not None
        tokens = [self._split(images, self.vit.norm(state) if norm else state) for state in states]
        return Features(pooled, tuple(tokens))

    @torch.no_grad()
    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Attend as in `Backbone.attention`."""
        return self.vit.class_attention((images - self.mean) / self.std)

    @torch.no_grad()
    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Return keys as `Backbone.keys` does."""
        return self.vit.last_keys((images - self.mean) / self.std)

    def _split(self, images: Tensor, tokens: Tensor) -> Tokens:
        return Tokens.from_sequence(
            tokens, self.vit.patch_grid(images), registers=self.vit.config.num_registers
        )


def _card(identifier: str) -> BackboneCard:
    if identifier.endswith(SUFFIX):
        arch = identifier if identifier.startswith(_PACKAGED) else f"{_FILE}{identifier}"
        return replace(read_card(_described(arch)), arch=arch)
    arch = identifier if "/" in identifier else f"{identifier}/dino"
    config = _config(arch)
    with torch.device("meta"):
        vit = Vit(config)
    return BackboneCard(
        name=f"native:{identifier}",
        loader="native",
        arch=arch,
        embed_dim=config.embed_dim,
        patch_size=config.patch_size,
        image_size=config.image_size,
        resize=256 if config.image_size == 224 else 0,
        normalisation="unknown",
        position_embedding=config.position_embedding,
        supervision="none",
        family="native",
        unavailable="an architecture without weights; put random: before it or pass --checkpoint FILE",
        license="Apache-2.0",
        pretraining_data="none",
        parameters=millions_of_parameters(vit),
        source="this program, after the official DINO, DINOv2 and MAE code",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    described, untrained = card.arch.startswith((_FILE, _PACKAGED)), weights.kind == "random"
    state: dict[str, Tensor] = {}
    if not untrained:
        card, read = read_weights(card, weights)
        state = to_native(read)
    if weights.kind == "checkpoint":
        _refuse_other_heads(card)
        card = card if described else on_own_grid(card, state)
    config = _stated(card) if described else _as_stored(_flavoured(card), state)
    if config.embed_dim != card.embed_dim:
        raise ConfigError(
            f"{card.name}: its card says {card.embed_dim} channels, {card.arch} has {config.embed_dim}"
        )
    if untrained and described:
        with torch.device("meta"):
            refuse_giant(Vit(config), card.name)
    with drawn_or_empty(weights):
        vit = Vit(config)
    if not untrained:
        fill(vit, state, name=card.name)
    backbone = NativeBackbone(card, vit)
    if card.arch.startswith(_FILE):
        stated = asdict(config)
        backbone.configuration = {name: stated[name] for name in stated if name not in TRAINING_ONLY}
    return backbone.eval()


def _refuse_other_heads(card: BackboneCard) -> None:
    """Refuse a file of MoCo v3, by the networks found in it, for other architectures of that shape."""
    size, _, flavour = card.arch.partition("/")
    beside = card.weights.get("other_networks", "").split(", ")
    if flavour != "mocov3" and _QUERY in {*card.weights.get("network", "").split("."), *beside}:
        raise WeightsError(
            f"{card.name}: the file is MoCo v3's, whose heads no tensor tells; use native:{size}/mocov3"
        )


def _stated(card: BackboneCard) -> VitConfig:
    path = _described(card.arch)
    try:
        return build(VitConfig, read_config(path), "vit")
    except (TypeError, ConfigError, UnknownNameError) as error:
        raise WeightsError(f"{path}: its header states no architecture of this version ({error})") from error


def _described(arch: str) -> Path:
    """Return the file that ``file:PATH`` or ``packaged:NAME`` means."""
    kind, _, name = arch.partition(":")
    return packaged_weights(name) if f"{kind}:" == _PACKAGED else Path(name)


def _flavoured(card: BackboneCard) -> VitConfig:
    """Return the architecture of a size and flavour, with the sizes and positions that the card states."""
    stated: dict[str, Any] = {"patch_size": card.patch_size, "image_size": card.image_size}
    if card.position_embedding:
        stated["position_embedding"] = card.position_embedding
    return updated(_config(card.arch), stated, card.name)


def _as_stored(config: VitConfig, state: Mapping[str, Tensor]) -> VitConfig:
    """Return a DINOv2 architecture with the feed-forward and the number of registers that tensors have.

    Trainings with the official class choose both freely. Whether there are registers is part of the name,
    which also says how positions are resized.
    """
    if config.layerscale is None or not state:
        return config
    ffn = "swiglu" if any(".mlp.w12." in key for key in state) else "mlp"
    registers = state.get("register_tokens")
    if not config.num_registers or registers is None or registers.ndim != 3:
        return replace(config, ffn=ffn)
    return replace(config, ffn=ffn, num_registers=registers.shape[1])


def _config(arch: str) -> VitConfig:
    """Return the architecture of ``SIZE/FLAVOUR`` at the native size of the flavour."""
    size, _, flavour = arch.partition("/")
    if flavour not in _FLAVOURS:
        raise UnknownNameError(f"native:{arch}: no flavour {flavour!r}; {suggestion(flavour, _FLAVOURS)}")
    width, depth, heads = sized(size)
    ffn: dict[str, Any] = {"ffn": "swiglu"} if size == "vit_giant2" and flavour.startswith("dinov2") else {}
    return VitConfig(width, depth, _HEADS.get(arch, heads), **_FLAVOURS[flavour] | ffn)


backbones.register("native")(Loader(_card, _build))
