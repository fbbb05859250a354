"""CAPI's vision transformers, ``capi:vitl14``, with the weights that its authors published.

``pooled`` is the global representation of the official code: the mean over the patches of the first block of
the predictor. Blocks are those of the encoder; there is no class token.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.capi import REGISTERS, Capi, CapiConfig
from ssleval.backbones.weights.checkpoints import drawn_or_empty, fill, millions_of_parameters, read_weights
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.registry import suggestion
from ssleval.errors import UnknownNameError

SIZES = {"vitl14": CapiConfig()}
_UNUSED = re.compile(r"decoder\.blocks\.(?!0\.)")
"""Blocks of the predictor behind the first one, which only the training uses."""


class CapiBackbone(Backbone):
    """A `Capi` as a `Backbone`."""

    def __init__(self, card: BackboneCard, model: Capi) -> None:
        super().__init__(card, num_blocks=model.config.depth)
        self.model = model

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Run encoder and predictor once."""
        pooled, states = self.model(images, blocks)
        grid = self.patch_grid(images)
        states = [self.model.norm(state) if norm else state for state in states]
        tokens = [Tokens.from_sequence(state, grid, has_cls=False, registers=REGISTERS) for state in states]
        return Features(pooled, tuple(tokens))


def _card(identifier: str) -> BackboneCard:
    config = _size(identifier)
    with torch.device("meta"):
        model = Capi(config)
    return BackboneCard(
        name=f"capi:{identifier}",
        loader="capi",
        arch=identifier,
        embed_dim=config.embed_dim,
        patch_size=config.patch_size,
        resize=256,
        pooling="first decoder block, mean",
        position_embedding="rope",
        supervision="none",
        family="CAPI",
        unavailable="an architecture without weights; name a model, such as capi_vitl14_in1k, put random: "
        "before it or pass --checkpoint FILE",
        license="Apache-2.0",
        pretraining_data="none",
        parameters=millions_of_parameters(model),
        source="https://github.com/facebookresearch/capi",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    with drawn_or_empty(weights):
        model = Capi(_size(card.arch))
    if weights.kind != "random":
        card, state = read_weights(card, weights)
        fill(
            model, {key: state[key] for key in state if not _UNUSED.match(key)}, name=card.name, droppable=()
        )
    return CapiBackbone(card, model).eval()


def _size(arch: str) -> CapiConfig:
    if arch not in SIZES:
        raise UnknownNameError(f"capi has no {arch!r}; {suggestion(arch, SIZES)}")
    return SIZES[arch]


backbones.register("capi")(Loader(_card, _build))
