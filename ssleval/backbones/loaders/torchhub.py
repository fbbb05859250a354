"""Repositories with a hubconf.py: ``torchhub:owner/repo/entry``, or ``torchhub:owner/repo:ref/entry``.

Arguments of the entry may follow, as texts: ``torchhub:valeoai/Franca/franca_vitl14?weights=LAION_224``.

Such a name downloads the repository and runs its code. Modules need the interface of DINO and DINOv2, whose
``get_intermediate_layers`` returns patches and class token in one sequence (DINO) or apart (DINOv2).
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.weights.checkpoints import (
    fill,
    from_checkpoint,
    in_layout_of,
    millions_of_parameters,
)
from ssleval.backbones.weights.downloads import explained
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.core.faults import faults_of
from ssleval.errors import ConfigError, ContractError, UnknownNameError


class HubBackbone(Backbone):
    """A module that has ``get_intermediate_layers``."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        super().__init__(card, num_blocks=len(model.blocks))
        self.model = model
        parameters = inspect.signature(model.get_intermediate_layers).parameters
        self.splits = {"return_class_token", "norm"} <= set(parameters)

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Request all layers from the first of ``blocks`` on, and return those of ``blocks``."""
        layers = self.model.get_intermediate_layers
        count = self.num_blocks - min([*blocks, self.num_blocks - 1])
        if self.splits:
            outputs = layers(images, n=count, return_class_token=True, norm=norm)
            pooled = (outputs if norm else layers(images, n=1, return_class_token=True))[-1][1]
        elif norm:
            outputs = [(state[:, 1:], state[:, 0]) for state in layers(images, count)]
            pooled = outputs[-1][1]
        else:
            raise ConfigError(
                f"{self.card.name}: its get_intermediate_layers gives no layer before the final norm"
            )
        tokens = [self._tokens(images, *outputs[index - self.num_blocks]) for index in blocks]
        return Features(pooled, tuple(tokens))

    def _tokens(self, images: Tensor, patches: Tensor, cls: Tensor) -> Tokens:
        height, width = self.patch_grid(images)
        if patches.shape[1] != height * width:
            raise ContractError(
                f"{self.card.name}: {patches.shape[1]} patch tokens for a {height}x{width} grid; "
                "its layers hold other tokens than a class token and patches"
            )
        return Tokens(patches.unflatten(1, (height, width)), cls)


def _card(identifier: str) -> BackboneCard:
    repo, _, entry = identifier.partition("?")[0].rpartition("/")
    if repo.count("/") != 1 or not entry:
        raise UnknownNameError(f"torchhub:{identifier}: expected torchhub:owner/repo/entry")
    stub = BackboneCard(f"torchhub:{identifier}", "torchhub", identifier, embed_dim=1, patch_size=1)
    model = _model(stub, pretrained=False)
    side = model.patch_embed.patch_size
    return replace(
        stub,
        embed_dim=model.embed_dim,
        patch_size=side if isinstance(side, int) else side[0],
        resize=256,
        normalisation="unknown",
        position_embedding="its own code",
        supervision="unknown",
        family=entry,
        weights={"repo": repo, "entry": entry},
        license="unknown",
        parameters=millions_of_parameters(model),
        source=f"https://github.com/{repo.partition(':')[0]}",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = _model(card, pretrained=weights.kind == "published")
    if weights.kind == "checkpoint":
        card, state = from_checkpoint(card, weights)
        fill(model, in_layout_of(model.state_dict(), state), name=card.name)
    return HubBackbone(card, model)


def _model(card: BackboneCard, *, pretrained: bool) -> Any:
    place, _, given = card.arch.partition("?")
    repo, _, entry = place.rpartition("/")
    try:
        options: dict[str, Any] = dict(parse_qsl(given, strict_parsing=bool(given)))
    except ValueError as error:
        raise ConfigError(f"{card.name}: arguments are NAME=VALUE, joined by &, got {given!r}") from error
    if taken := sorted({"pretrained", "trust_repo", "verbose"} & set(options)):
        raise ConfigError(f"{card.name}: {taken[0]} is this loader's to choose; leave it out")
    with explained(card), faults_of(card.name, foreign=True, passing=(OSError,)):
        options |= {"trust_repo": True, "verbose": False}
        model: Any = torch.hub.load(repo, entry, pretrained=pretrained, **options)
    needed = ("embed_dim", "patch_embed", "blocks", "get_intermediate_layers")
    absent = [name for name in needed if not hasattr(model, name)]
    if absent:
        raise ConfigError(
            f"{card.name}: {type(model).__name__} has no {', '.join(absent)}: an unknown token layout; "
            "wrap it in a file of your own (path/to/file.py:factory)"
        )
    return model


backbones.register("torchhub")(Loader(_card, _build))
