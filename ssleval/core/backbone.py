"""The vocabulary of ssleval, second part: what every backbone is and returns."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssleval.core import BackboneCard, digest
from ssleval.core.faults import faults_of, is_foreign
from ssleval.core.fingerprints import attributes_sha256, code_sha256
from ssleval.core.registry import Registry
from ssleval.errors import ConfigError, ContractError, NotApplicableError

WRAP_CALL = (
    "ssleval.wrap(module, patch_size=14, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), "
    "image_size=224)"
)
WRAP = f"expected a backbone: return {WRAP_CALL}, with the numbers of your model"
"""What to do with a plain module, for messages."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The output of one block, after the model's final norm unless the caller turned that off."""

    patches: Float[Tensor, "b h w d"]
    """Patch tokens, row-major, prefix tokens removed."""
    cls: Float[Tensor, "b d"] | None = None
    """Class token; None where the model has none."""
    registers: Float[Tensor, "b r d"] | None = None
    """Register tokens; None where the model has none."""

    @classmethod
    def from_sequence(
        cls, tokens: Float[Tensor, "b t d"], grid: Sequence[int], *, has_cls: bool = True, registers: int = 0
    ) -> "Tokens":
        """Split a sequence: class token, registers, the patches of ``grid`` (rows, columns) row by row."""
        prefix, patches = tokens.tensor_split([int(has_cls) + registers], dim=1)
        return cls.from_prefix(patches.unflatten(1, grid), prefix, has_cls=has_cls)

    @classmethod
    def from_prefix(
        cls, patches: Float[Tensor, "b h w d"], prefix: Float[Tensor, "b t d"], *, has_cls: bool
    ) -> "Tokens":
        """Split the tokens before the patches: class token, registers."""
        registers = prefix[:, int(has_cls) :]
        return cls(patches, prefix[:, 0] if has_cls else None, registers if registers.shape[1] else None)


@dataclass(frozen=True, slots=True)
class Features:
    """What every backbone returns for a batch of images."""

    pooled: Float[Tensor, "b p"]
    """The vector the model was trained to give (``pooling`` on its card)."""
    blocks: tuple[Tokens, ...] = ()
    """One entry per requested block, in the order of the request."""


class Similarity(NamedTuple):
    """How a contrastive model turns the cosine of an image and a text into a logit."""

    scale: float
    """Factor of the cosine: the exponential of the learnt ``logit_scale``."""
    bias: float = 0.0
    """Added after scaling; models trained with a sigmoid loss learn one."""

    @classmethod
    def of(cls, model: Any) -> "Similarity":
        """Read ``logit_scale`` and, where the model has one, ``logit_bias``."""
        bias = getattr(model, "logit_bias", None)
        return cls(float(model.logit_scale.exp()), 0.0 if bias is None else float(bias))


class Backbone(nn.Module, ABC):
    """A frozen feature extractor.

    Subclasses implement `extract`, and `attention`, `keys`, `encode_text` and `similarity` where the model
    has them.
    """

    mean: Tensor
    std: Tensor
    num_blocks: int
    """Number of blocks whose output can be requested; 1 for a convnet: its last feature map."""
    configuration: Mapping[str, Any] = MappingProxyType({})
    """What a file states of the architecture beyond the card, as JSON; empty where the name says all."""

    def __init__(self, card: BackboneCard, *, num_blocks: int) -> None:
        super().__init__()
        self.card = card
        self.num_blocks = num_blocks
        self._map_grids: dict[tuple[int, ...], tuple[int, int]] = {}
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1), persistent=False)

    @abstractmethod
    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Return the features of normalised ``images``; ``blocks`` are indices from zero.

        ``norm`` applies the final norm to the tokens of these blocks; ``pooled`` does not depend on it.
        """

    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:  # noqa: ARG002
        """Return the last block's attention of the class token to the patches.

        The map of a head sums to at most 1, because the class token also attends to the prefix tokens.
        ``images`` are RGB in [0, 1], as for `forward`: an implementation normalises them itself.
        """
        raise NotApplicableError(f"{self.card.name} has no class-token attention")

    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:  # noqa: ARG002
        """Return the keys of the patches in the last block's attention, all heads after one another.

        ``images`` are RGB in [0, 1], as for `forward`: an implementation normalises them itself.
        """
        raise NotApplicableError(f"{self.card.name} has no keys of a last attention that ssleval can read")

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n p"]:  # noqa: ARG002
        """Return text embeddings in the space of ``pooled``, not normalised to unit length."""
        raise NotApplicableError(f"{self.card.name} has no text tower")

    def similarity(self) -> Similarity:
        """Return how cosines of ``pooled`` and `encode_text` become logits; runs no tower."""
        raise NotApplicableError(f"{self.card.name} has no text tower")

    @torch.no_grad()
    def forward(
        self,
        images: Float[Tensor, "b 3 H W"] | UInt8[Tensor, "b 3 H W"],
        blocks: Sequence[int] = (),
        *,
        norm: bool = True,
    ) -> Features:
        """Normalise the images, extract their features and check the shapes.

        ``images`` are RGB in [0, 1], or of 8 bits, of a size that `patch_grid` takes. Tokens of ``blocks``
        are returned too, after the model's final norm with ``norm``; negative indices count from the last.

        Raises:
            ConfigError: values outside [0, 1], a size that the model cannot take, or no such block.
            ContractError: `extract` raised an error, or returned something else than the card states.
        """
        unit = self._in_unit_range(images)
        grid = self.patch_grid(unit)
        if unknown := [block for block in blocks if not -self.num_blocks <= block < self.num_blocks]:
            raise ConfigError(f"{self.card.name}: no block {unknown[0]}; it has {self.num_blocks}")
        indices = [block % self.num_blocks for block in blocks]
        # In place where nobody else has them, which is faster.
        pixels = (unit - self.mean if unit is images else unit.sub_(self.mean)).div_(self.std)
        foreign = is_foreign(self)
        with faults_of(self.card.name, foreign=foreign, passing=(torch.OutOfMemoryError,)):
            features = self.extract(pixels, indices, norm=norm)
        self._check(features, len(images), grid, len(indices))
        return features

    def _in_unit_range(self, images: Tensor) -> Float[Tensor, "b 3 H W"]:
        if images.dtype == torch.uint8:
            # Nothing to look for: an accelerator goes on without being asked.
            return images.float().div_(255)
        low, high = map(float, images.aminmax())
        if low < 0 or high > 1:
            raise ConfigError(f"{self.card.name}: images in [{low:.3g}, {high:.3g}], expected RGB in [0, 1]")
        return images

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the rows and columns of patches that ``images`` have; refuse a size the model cannot take.

        Only their shape is read. Here both sides are a multiple of the patch size; networks that take other
        sizes override it.
        """
        height, width = images.shape[-2:]
        patch = self.card.patch_size
        if height % patch or width % patch:
            raise ConfigError(
                f"{self.card.name}: {height}x{width} pixels is not a multiple of its patch size {patch}"
            )
        return height // patch, width // patch

    @torch.no_grad()
    def map_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the rows and columns of the last map of a convolutional network, which takes most sizes.

        Networks round up or down where a side is no multiple of the patch size, each in its own way, so
        that the map of a black image of this size is measured.
        """
        size, patch = tuple(images.shape[-2:]), self.card.patch_size
        if not (size[0] % patch or size[1] % patch):
            return size[0] // patch, size[1] // patch
        if size not in self._map_grids:
            black = torch.zeros(1, 3, *size, device=self.mean.device)
            try:
                rows, columns = self.extract(black, [0], norm=False).blocks[0].patches.shape[1:3]
            except RuntimeError as error:  # a map without pixels, or one smaller than a kernel
                raise ConfigError(
                    f"{self.card.name}: its layers cannot take {size[0]}x{size[1]} pixels ({error})"
                ) from error
            self._map_grids[size] = rows, columns
        return self._map_grids[size]

    def refuse_other_size(self, images: Tensor, size: Sequence[int], library: str) -> None:
        """Refuse images of another (height, width) than ``size``, to which ``library`` fixes the model."""
        height, width = images.shape[-2:]
        if (height, width) != tuple(size):
            raise ConfigError(
                f"{self.card.name}: {height}x{width} pixels, but {library} fixes this model to "
                f"{size[0]}x{size[1]}; use a geometry of that size"
            )

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002
        """Stay in evaluation mode: no statistics are updated while a backbone is evaluated."""
        return super().train(False)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of every parameter and buffer as loaded: name, type, shape and bytes, sorted by name."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                continue  # what `get_extra_state` of a user's module returns
            array = tensor.detach().cpu().contiguous()
            total.update(f"{name}:{array.dtype}:{tuple(array.shape)}".encode())
            total.update(array.reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()

    @cached_property
    def definition(self) -> Mapping[str, str]:
        """Hashes of what decides features beside weights and card; empty for an architecture known by name.

        ``code`` and ``attributes`` are those of a user's model, ``configuration`` is of a file.
        """
        code = code_sha256(self)
        hashes = {
            "code": code,
            "attributes": attributes_sha256(self) if code else "",
            "configuration": digest(dict(self.configuration)) if self.configuration else "",
        }
        return {name: value for name, value in hashes.items() if value}

    def forget_hashes(self) -> None:
        """Have `weights_sha256` and `definition` computed anew: the model may have changed since."""
        for name in ("weights_sha256", "definition"):
            vars(self).pop(name, None)

    def _check(self, features: Any, batch: int, grid: tuple[int, int], count: int) -> None:
        card = self.card
        if not isinstance(features, Features):
            raise ContractError(f"{card.name}: extract returned {type(features).__name__}, expected Features")
        self.check_tensor("pooled", features.pooled, (batch, card.pooled_dim or card.embed_dim))
        blocks: Any = features.blocks
        if not isinstance(blocks, tuple) or len(blocks) != count:
            shown = len(blocks) if isinstance(blocks, tuple) else type(blocks).__name__
            raise ContractError(f"{card.name}: {shown} blocks, expected a tuple of {count}")
        for tokens in blocks:
            if not isinstance(tokens, Tokens):
                raise ContractError(f"{card.name}: a block is {type(tokens).__name__}, expected Tokens")
            self.check_tensor("patches", tokens.patches, (batch, *grid, card.embed_dim))
            if tokens.cls is not None:
                self.check_tensor("cls", tokens.cls, (batch, card.embed_dim))
            if tokens.registers is not None:
                self.check_tensor("registers", tokens.registers, (batch, None, card.embed_dim))

    def check_tensor(self, name: str, value: Any, shape: tuple[int | None, ...]) -> None:
        """Refuse what is no tensor of floats of that ``shape`` (None: any size) on this model's device."""
        expected = f"expected {tuple('any' if size is None else size for size in shape)}".replace("'", "")
        if not isinstance(value, Tensor):
            raise ContractError(f"{self.card.name}: {name} is {type(value).__name__}, expected a tensor")
        sizes = tuple(value.shape)
        fits = len(sizes) == len(shape) and all(
            want in {None, size} for want, size in zip(shape, sizes, strict=True)
        )
        if not fits:
            raise ContractError(f"{self.card.name}: {name} {sizes}, {expected}")
        if not value.is_floating_point() or value.layout != torch.strided:
            raise ContractError(
                f"{self.card.name}: {name} has {value.dtype}, {value.layout}; expected floats"
            )
        if value.device != self.mean.device:
            raise ContractError(
                f"{self.card.name}: {name} is on {value.device}, its images are on {self.mean.device}"
            )


PatchesOf: TypeAlias = Callable[[Float[Tensor, "b 3 H W"]], Float[Tensor, "b h w d"]]
"""Runs a frozen backbone on RGB in [0, 1]."""


@dataclass(frozen=True, slots=True)
class WeightsFrom:
    """Which weights a loader fills the architecture of a card with."""

    kind: Literal["published", "random", "checkpoint"] = "published"
    path: Path | None = None
    """The file, for ``checkpoint``."""
    key: str = "teacher"
    """Which network of a full training checkpoint."""
    seed: int = 0
    """Seed of ``random`` weights."""

    @property
    def file(self) -> Path:
        """The file of a checkpoint; a ConfigError where there is none."""
        if self.path is None:
            raise ConfigError(f"{self.kind} weights were requested without the path of a file")
        return self.path


@dataclass(frozen=True, slots=True)
class Loader:
    """One model library, as two functions."""

    card: Callable[[str], BackboneCard]
    """Describe the ``identifier`` of ``source:identifier`` by what the library states about it."""
    build: Callable[[BackboneCard, WeightsFrom], Backbone]
    """Construct the backbone and fill all its tensors, or raise WeightsError."""


backbones: Registry[Loader] = Registry(
    "backbone", "ssleval.backbones.loaders", lambda item: isinstance(item, Loader)
)
"""Loaders by name: the ``loader`` of a card, and the source of ``source:identifier``."""
