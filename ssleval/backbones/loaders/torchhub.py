"""Repositories with a hubconf.py: ``torchhub:owner/repo/entry``, or ``torchhub:owner/repo:ref/entry``.

Naming one downloads and runs its code; no name of the zoo does. Accepted are modules with the
interface of DINO and DINOv2: ``embed_dim``, ``patch_size`` and ``get_intermediate_layers``, either
DINOv2's (patches and class token apart) or DINO's (one sequence after a class token).
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.backbones.weights.checkpoints import fill, read_checkpoint
from ssleval.backbones.weights.hub import explained
from ssleval.core import BackboneCard
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.errors import ConfigError, ContractError, UnknownNameError


class HubBackbone(Backbone):
    """A module that gives its intermediate layers."""

    def __init__(self, card: BackboneCard, model: Any) -> None:
        super().__init__(card, num_blocks=len(model.blocks))
        self.model = model
        parameters = inspect.signature(model.get_intermediate_layers).parameters
        self.splits = {"return_class_token", "norm"} <= set(parameters)

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Ask for all layers from the first one wanted, then keep those wanted."""
        last = self.num_blocks - 1
        count = self.num_blocks - min([*blocks, last])
        if self.splits:
            outputs = self.model.get_intermediate_layers(images, n=count, return_class_token=True, norm=norm)
            (end,) = (
                outputs[-1:]
                if norm
                else self.model.get_intermediate_layers(images, n=1, return_class_token=True)
            )
            return Features(
                end[1], tuple(self._tokens(images, *outputs[index - self.num_blocks]) for index in blocks)
            )
        if not norm:
            raise ConfigError(
                f"{self.card.name}: its get_intermediate_layers gives no layer before the final norm"
            )
        states = self.model.get_intermediate_layers(images, count)
        wanted = [states[index - self.num_blocks] for index in blocks]
        return Features(states[-1][:, 0], tuple(self._tokens(images, s[:, 1:], s[:, 0]) for s in wanted))

    def _tokens(self, images: Tensor, patches: Tensor, cls: Tensor) -> Tokens:
        height, width = (side // self.card.patch_size for side in images.shape[-2:])
        if patches.shape[1] != height * width:
            raise ContractError(
                f"{self.card.name}: {patches.shape[1]} patch tokens for a {height}x{width} grid; "
                "its layers hold other tokens than a class token and patches"
            )
        return Tokens(patches.unflatten(1, (height, width)), cls)


def _card(identifier: str) -> BackboneCard:
    repo, _, entry = identifier.rpartition("/")
    if repo.count("/") != 1 or not entry:
        raise UnknownNameError(f"torchhub:{identifier}: expected torchhub:owner/repo/entry")
    stub = BackboneCard(f"torchhub:{identifier}", "torchhub", identifier, embed_dim=0, patch_size=0)
    model = _model(stub, pretrained=False)
    return BackboneCard(
        name=f"torchhub:{identifier}",
        loader="torchhub",
        arch=identifier,
        embed_dim=model.embed_dim,
        patch_size=_side(model.patch_embed.patch_size),
        resize=256,
        position_embedding="its own code",
        supervision="unknown",
        family=entry,
        weights={"repo": repo, "entry": entry},
        license="unknown",
        parameters=round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        source=f"https://github.com/{repo.partition(':')[0]}",
    )


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = _model(card, pretrained=weights.kind == "published")
    if weights.kind == "checkpoint":
        assert weights.path is not None
        fill(model, read_checkpoint(weights.path, weights.key), name=card.name)
    return HubBackbone(card, model)


def _model(card: BackboneCard, *, pretrained: bool) -> Any:
    repo, _, entry = card.arch.rpartition("/")
    with explained(card):
        model: Any = torch.hub.load(
            repo,
            entry,
            pretrained=pretrained,
            trust_repo=True,  # pyright: ignore[reportArgumentType]
            verbose=False,
        )
    needed = ("embed_dim", "patch_embed", "blocks", "get_intermediate_layers")
    absent = [name for name in needed if not hasattr(model, name)]
    if absent:
        raise ConfigError(
            f"{card.name}: {type(model).__name__} has no {', '.join(absent)}: an unknown token layout; "
            "wrap it in a file of your own (path/to/file.py:factory)"
        )
    return model


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


backbones.register("torchhub")(Loader(_card, _build))
