"""The vocabulary of ssleval, second part: what every backbone is and returns."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.core import BackboneCard
from ssleval.core.registry import Registry
from ssleval.errors import ConfigError, ContractError, NotApplicableError


@dataclass(frozen=True, slots=True)
class Tokens:
    """The output of one block, after the model's final norm unless the caller asked otherwise."""

    patches: Float[Tensor, "b h w d"]
    """Patch tokens, row-major, prefix tokens removed."""
    cls: Float[Tensor, "b d"] | None = None
    """Class token; None where the model has none."""
    registers: Float[Tensor, "b r d"] | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """What every backbone returns for a batch of images."""

    pooled: Float[Tensor, "b p"]
    """The vector the model was trained to give (``pooling`` on its card)."""
    blocks: tuple[Tokens, ...] = ()
    """One entry per block asked for, in the order asked."""


class Similarity(NamedTuple):
    """How a contrastive model turns the cosine of an image and a text into its logit."""

    scale: float
    """Factor of the cosine, the exponential of the learnt ``logit_scale``."""
    bias: float = 0.0
    """Added after scaling; models trained with a sigmoid loss learn one."""


class Backbone(nn.Module, ABC):
    """A frozen feature extractor. Subclasses write `extract`, and what else the model can do."""

    mean: Tensor
    std: Tensor
    num_blocks: int
    """How many block outputs there are to ask for; 1 for a convnet: its last feature map."""

    def __init__(self, card: BackboneCard, *, num_blocks: int) -> None:
        super().__init__()
        self.card = card
        self.num_blocks = num_blocks
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Return the features of normalised ``images``; ``blocks`` are indices from zero.

        ``norm`` says whether the final norm is applied to the blocks asked for; ``pooled`` is always
        as the model was trained to give it.
        """

    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:  # noqa: ARG002
        """Return the last block's attention of the class token to the patches; rows sum to <= 1.

        ``images`` are RGB in [0, 1], as for `forward`: an implementation normalises them itself.
        """
        raise NotApplicableError(f"{self.card.name} has no class-token attention")

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n p"]:  # noqa: ARG002
        """Return text embeddings comparable with ``pooled``, not normalised."""
        raise NotApplicableError(f"{self.card.name} has no text tower")

    def similarity(self) -> Similarity:
        """Return how cosines of ``pooled`` and `encode_text` become logits; asking costs nothing."""
        raise NotApplicableError(f"{self.card.name} has no text tower")

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int] = (), *, norm: bool = True
    ) -> Features:
        """Normalise, extract and check the contract.

        Args:
            images: RGB in [0, 1]; both sides a multiple of ``card.patch_size``.
            blocks: blocks whose tokens are also wanted; negative counts from the last.
            norm: apply the model's final norm to those blocks.

        Raises:
            ConfigError: values outside [0, 1], a partial patch, or no such block.
            ContractError: `extract` returned other shapes than the card promises.
        """
        low, high = (float(value) for value in images.aminmax())
        if low < 0 or high > 1:
            raise ConfigError(f"{self.card.name}: images in [{low:.3g}, {high:.3g}], expected RGB in [0, 1]")
        height, width = images.shape[-2:]
        patch = self.card.patch_size
        if height % patch or width % patch:
            raise ConfigError(
                f"{self.card.name}: {height}x{width} pixels is not a multiple of its patch size {patch}"
            )
        wanted = [self._resolve(block) for block in blocks]
        features = self.extract((images - self.mean) / self.std, wanted, norm=norm)
        self._check(features, len(images), height // patch, width // patch, len(wanted))
        return features

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002
        """Stay in evaluation mode: a backbone under test never updates its statistics."""
        return super().train(False)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of every parameter and buffer as loaded: name, type, shape and bytes, by name."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            array = tensor.detach().cpu().contiguous()
            total.update(f"{name}:{array.dtype}:{tuple(array.shape)}".encode())
            total.update(memoryview(array.reshape(-1).view(torch.uint8).numpy()))
        return total.hexdigest()

    def _resolve(self, block: int) -> int:
        if not -self.num_blocks <= block < self.num_blocks:
            raise ConfigError(f"{self.card.name}: no block {block}; it has {self.num_blocks}")
        return block % self.num_blocks

    def _check(self, features: Features, batch: int, h: int, w: int, count: int) -> None:
        card = self.card
        pooled = (batch, card.pooled_dim or card.embed_dim)
        if tuple(features.pooled.shape) != pooled:
            raise ContractError(f"{card.name}: pooled {tuple(features.pooled.shape)}, expected {pooled}")
        if len(features.blocks) != count:
            raise ContractError(f"{card.name}: {len(features.blocks)} blocks, expected {count}")
        for tokens in features.blocks:
            got, want = tuple(tokens.patches.shape), (batch, h, w, card.embed_dim)
            if got != want:
                raise ContractError(f"{card.name}: patches {got}, expected {want}")


PatchesOf: TypeAlias = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b h w d"]]
"""Runs a frozen backbone on RGB in [0, 1]."""


@dataclass(frozen=True, slots=True)
class WeightsFrom:
    """Which weights a loader puts into the architecture of a card."""

    kind: Literal["published", "random", "checkpoint"] = "published"
    path: Path | None = None
    """The file, for ``checkpoint``."""
    key: str = "teacher"
    """Which network of a full training checkpoint."""
    seed: int = 0
    """For ``random``."""


@dataclass(frozen=True, slots=True)
class Loader:
    """One model library behind two functions."""

    card: Callable[[str], BackboneCard]
    """Describe ``identifier`` of ``source:identifier`` by what the library knows of it."""
    build: Callable[[BackboneCard, WeightsFrom], Backbone]
    """Construct the backbone and fill every tensor of it, or raise WeightsError."""


backbones: Registry[Loader] = Registry("backbone", package="ssleval.backbones.loaders")
"""Loaders, by the ``loader`` field of a card, which is also the source of ``source:identifier``."""
