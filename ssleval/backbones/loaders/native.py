"""The vision transformer of ssleval's own: DINO, DINOv2, iBOT and MAE, exact to their official code.

``native:SIZE/FLAVOUR``, such as ``native:vit_small/dinov2``; without a flavour it is DINO's, which is
also the plain ViT of supervised weights. Sizes are those of `backbones.vit`. A file that `ssleval train`
wrote describes itself and needs no name: its card's ``arch`` is ``file:PATH``, or ``packaged:NAME`` where it
is part of the package.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.vit import PositionEmbedding, Vit, VitConfig, sized
from ssleval.backbones.weights.checkpoints import fill, read_checkpoint, to_native
from ssleval.backbones.weights.downloads import fetch_card
from ssleval.backbones.weights.weightfile import SUFFIX, read_card, read_config
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.packaged import packaged_weights
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError, WeightsError

_FILE = "file:"
_PACKAGED = "packaged:"


@dataclass(frozen=True, slots=True)
class _Flavour:
    """What a method adds to the size of its transformer.

    There is no mask token: it takes part in training alone, and `fill` leaves it out by name.
    """

    patch_size: int
    image_size: int
    position_embedding: PositionEmbedding
    layerscale: float | None = None
    registers: int = 0
    fixed_positions: bool = False
    swiglu: tuple[str, ...] = ()
    """Sizes whose feed-forward is a SwiGLU."""


_FLAVOURS = {
    "dino": _Flavour(16, 224, "dino"),
    "dinov2": _Flavour(14, 518, "dinov2", layerscale=1.0, swiglu=("vit_giant2",)),
    "dinov2_reg4": _Flavour(14, 518, "size_antialias", layerscale=1.0, registers=4, swiglu=("vit_giant2",)),
    "mae": _Flavour(16, 224, "size", fixed_positions=True),
}


class NativeBackbone(Backbone):
    """A `Vit` behind the contract."""

    def __init__(self, card: BackboneCard, vit: Vit) -> None:
        super().__init__(card, num_blocks=vit.config.depth)
        if card.pooling not in {"cls", "mean"}:
            raise ConfigError(f"{card.name}: pooling is {card.pooling!r}; a native ViT has cls or mean")
        self.vit = vit

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run all blocks once; ``pooled`` is the class token, or the mean of the patches, after the norm."""
        *wanted, last = self.vit.intermediate(images, [*blocks, self.num_blocks - 1], norm=False)
        final = self._split(images, self.vit.norm(last))
        pooled = final.patches.mean(dim=(1, 2)) if self.card.pooling == "mean" else final.cls
        assert pooled is not None
        tokens = [self._split(images, self.vit.norm(item) if norm else item) for item in wanted]
        return Features(pooled, tuple(tokens))

    @torch.no_grad()
    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Return the last block's attention of the class token to the patches; rows sum to <= 1.

        ``images`` are RGB in [0, 1], as for `forward`.
        """
        return self.vit.class_attention((images - self.mean) / self.std)

    def _split(self, images: Tensor, tokens: Tensor) -> Tokens:
        first = self.vit.config.num_prefix
        patches = tokens[:, first:].unflatten(1, self.vit.patch_grid(images))
        return Tokens(patches, tokens[:, 0], tokens[:, 1:first] if first > 1 else None)


def _card(identifier: str) -> BackboneCard:
    if identifier.endswith(SUFFIX):
        arch = identifier if identifier.startswith(_PACKAGED) else f"{_FILE}{identifier}"
        return replace(read_card(_described(arch)), arch=arch)
    arch = identifier if "/" in identifier else f"{identifier}/dino"
    size, flavour = _parse(arch)
    with torch.device("meta"):
        vit = Vit(_config(arch, flavour.patch_size, flavour.image_size, flavour.position_embedding))
    return BackboneCard(
        name=f"native:{identifier}",
        loader="native",
        arch=arch,
        embed_dim=sized(size)[0],
        patch_size=flavour.patch_size,
        image_size=flavour.image_size,
        resize=256 if flavour.image_size == 224 else 0,
        position_embedding=flavour.position_embedding,
        supervision="none",
        family="native",
        unavailable="an architecture without weights; put random: before it or pass --checkpoint FILE",
        license="Apache-2.0",
        pretraining_data="none",
        parameters=round(sum(parameter.numel() for parameter in vit.parameters()) / 1e6, 2),
        source="this program, after the official DINO, DINOv2 and MAE code",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    config = _stated(card) if card.arch.startswith((_FILE, _PACKAGED)) else _flavoured(card)
    if config.embed_dim != card.embed_dim:
        raise ConfigError(
            f"{card.name}: its card says {card.embed_dim} channels, {card.arch} has {config.embed_dim}"
        )
    if weights.kind == "random":
        return NativeBackbone(card, _random(config, weights.seed)).eval()
    if weights.kind == "published":
        path = fetch_card(card)
    else:
        if weights.path is None:
            raise ConfigError(f"{card.name}: weights from a checkpoint need its path")
        path = weights.path
    with torch.device("meta"):
        vit = Vit(config)
    fill(vit, to_native(read_checkpoint(path, weights.key)), name=card.name)
    return NativeBackbone(card, vit).eval()


def _stated(card: BackboneCard) -> VitConfig:
    """Return the architecture that a file states in its header."""
    path = _described(card.arch)
    try:
        return VitConfig(**read_config(path))
    except TypeError as error:
        raise WeightsError(f"{path}: its header states no architecture of this version ({error})") from error


def _described(arch: str) -> Path:
    """Return the file that ``file:PATH`` or ``packaged:NAME`` means."""
    if arch.startswith(_PACKAGED):
        return packaged_weights(arch.removeprefix(_PACKAGED))
    return Path(arch.removeprefix(_FILE))


def _flavoured(card: BackboneCard) -> VitConfig:
    """Return the architecture of a size and flavour, as far as the card does not say otherwise."""
    _, flavour = _parse(card.arch)
    positions = card.position_embedding or flavour.position_embedding
    if positions not in get_args(PositionEmbedding):
        known = suggestion(positions, get_args(PositionEmbedding))
        raise ConfigError(f"{card.name}: no position embedding {positions!r}; {known}")
    return _config(card.arch, card.patch_size, card.image_size, cast("PositionEmbedding", positions))


def _random(config: VitConfig, seed: int) -> Vit:
    """Initialise on the CPU, so that a seed means the same everywhere, and disturb no other generator."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Vit(config)


def _parse(arch: str) -> tuple[str, _Flavour]:
    size, _, flavour = arch.partition("/")
    sized(size)
    if flavour not in _FLAVOURS:
        raise UnknownNameError(f"native:{arch}: no flavour {flavour!r}; {suggestion(flavour, _FLAVOURS)}")
    return size, _FLAVOURS[flavour]


def _config(arch: str, patch_size: int, image_size: int, positions: PositionEmbedding) -> VitConfig:
    size, flavour = _parse(arch)
    return VitConfig(
        *sized(size),
        patch_size=patch_size,
        image_size=image_size,
        ffn="swiglu" if size in flavour.swiglu else "mlp",
        layerscale=flavour.layerscale,
        num_registers=flavour.registers,
        position_embedding=positions,
        fixed_positions=flavour.fixed_positions,
    )


backbones.register("native")(Loader(_card, _build))
