"""The vision transformer of ssleval: the encoders of DINO, DINOv2, iBOT and MAE, equal to the official code.

One class covers them all. Parameter names are those of the official DINO and DINOv2 files, whose checkpoints
load without renaming. ``loaders/native.py`` makes a frozen `Backbone` of it. The order of tokens is class
token, registers, patches (row-major).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ssleval.backbones.stems import PatchEmbed, ResidualStem
from ssleval.backbones.stochastic_depth import Drops, StochasticDepth
from ssleval.core.registry import suggestion
from ssleval.core.settings import Depth, Positive, Side, Width, check
from ssleval.errors import ConfigError, UnknownNameError

PositionEmbedding: TypeAlias = Literal["dino", "dinov2", "size", "size_antialias"]
"""How position embeddings are resized to other resolutions than the native one; always bicubic.

``dino`` and ``dinov2``: by a scale factor of (patches + 0.1) / grid, as in the official DINO, iBOT and
DINOv2 without registers. The 0.1 guards against rounding but shifts every value; published scores include
it. ``size_antialias``: to the exact size, antialiased, as in DINOv2 with registers and in timm. ``size``: to
the exact size, not antialiased, as in transformers and in MAE's fine-tuning.
"""

SIZES: dict[str, tuple[int, int, int]] = {
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
    "vit_giant2": (1536, 40, 24),
}
"""Width, depth and heads by name. ``vit_giant2`` is DINOv2's giant, which is narrower than other giants."""

CLASS_TOKEN_STD = 0.02
"""Standard deviation of DINO's class token before training."""

_FEW_TOKENS = 256
"""Up to so many, the backward pass of torch's fused attention in bfloat16 takes two to four times as long on
a CPU as the written-out products, whose weights are few."""

TRAINING_ONLY = ("drop_path_draw", "class_token_std", "residual")
"""Fields on which no feature of a trained network depends, outside autocast; they are in no key."""


@dataclass(frozen=True, slots=True)
class VitConfig:
    """The architecture of a `Vit`."""

    embed_dim: Width
    depth: Depth
    num_heads: Depth
    patch_size: Side = 16
    image_size: Side = 224
    """Side of the native square image, whose patch grid the position embeddings have."""
    stem: Literal["patch", "residual"] = "patch"
    """Patch embedding by a linear map, or by residual blocks, with which small networks learn in a fraction
    of the steps; see `ssleval.backbones.stems`."""
    mlp_ratio: Annotated[float, Meta(gt=0, le=64)] = 4.0
    ffn: Literal["mlp", "swiglu"] = "mlp"
    qkv_bias: bool = True
    layerscale: float | None = None
    """Initial value of the learned scale of each residual branch; None has no such scale."""
    num_registers: Annotated[int, Meta(ge=0, le=1_000)] = 0
    mask_token: bool = False
    """Whether there is a token that replaces masked patches in training."""
    drop_path: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Rate of stochastic depth of the last block, in training only."""
    drop_path_rule: Literal["linear", "uniform"] = "linear"
    """Whether rates grow linearly from 0 at the first block, or are the same for all blocks."""
    drop_path_draw: Literal["image", "batch"] = "image"
    """Whether each image's branch is dropped independently, or an exact share of the batch at a time."""
    class_token_std: Positive = CLASS_TOKEN_STD
    """Standard deviation of the class token of an untrained network (DINOv2: 1e-6)."""
    residual: Literal["computed", "fp32"] = "computed"
    """Under autocast, whether the sum over blocks is kept in the type of the patch embedding, or in fp32."""
    norm_eps: Positive = 1e-6
    position_embedding: PositionEmbedding = "dino"
    fixed_positions: bool = False
    """Fixed sine-cosine positions, as in MAE, instead of learned ones."""

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        check(self, "vit")
        if self.image_size % self.patch_size:
            raise ConfigError(f"vit: image size {self.image_size} is no multiple of patch {self.patch_size}")
        if self.embed_dim % self.num_heads:
            raise ConfigError(f"vit: width {self.embed_dim} is no multiple of {self.num_heads} heads")
        if self.stem == "residual" and (self.patch_size < 4 or self.patch_size & (self.patch_size - 1)):
            raise ConfigError(
                f"vit: a residual stem needs a power of 2 from 4 on as the patch size, got {self.patch_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along a side of the native image."""
        return self.image_size // self.patch_size

    @property
    def drop_path_rates(self) -> list[float]:
        """Rates of stochastic depth of all blocks."""
        if self.drop_path_rule == "uniform":
            return [self.drop_path] * self.depth
        return torch.linspace(0.0, self.drop_path, self.depth, device="cpu").tolist()

    @property
    def num_prefix(self) -> int:
        """Tokens in front of the patches."""
        return 1 + self.num_registers

    @property
    def ffn_width(self) -> int:
        """Hidden width; a SwiGLU has two thirds of it, rounded up to a multiple of 8, as in DINOv2."""
        hidden = int(self.embed_dim * self.mlp_ratio)
        return hidden if self.ffn == "mlp" else (int(hidden * 2 / 3) + 7) // 8 * 8


def sized(name: str) -> tuple[int, int, int]:
    """Return the width, depth and heads of a size; an UnknownNameError offers the nearest names."""
    if name not in SIZES:
        raise UnknownNameError(f"no vit size {name!r}; {suggestion(name, SIZES)}")
    return SIZES[name]


class Vit(nn.Module):
    """A vision transformer; see the module docstring."""

    mask_token: Tensor | None
    register_tokens: Tensor | None

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        stem = ResidualStem if config.stem == "residual" else PatchEmbed
        self.patch_embed = stem(width, config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, width))
        registers = torch.empty(1, config.num_registers, width)
        self.register_tokens = nn.Parameter(registers) if config.num_registers else None
        self.mask_token = nn.Parameter(torch.empty(1, width)) if config.mask_token else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.stochastic_depth = StochasticDepth(config.drop_path_rates, by=config.drop_path_draw)
        self.recompute = False
        """Whether a backward pass computes each block again instead of keeping what is inside of it."""
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise as in DINO (torch's defaults for convolution and norms); registers as in DINOv2."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for name, parameter in module.named_parameters():
                    if name == "weight":
                        nn.init.trunc_normal_(parameter, std=0.02)
                    else:
                        nn.init.zeros_(parameter)
        nn.init.trunc_normal_(self.cls_token, std=self.config.class_token_std)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)
        if self.config.fixed_positions:
            self.pos_embed.copy_(sincos_positions(self.config.embed_dim, self.config.grid))
            self.pos_embed.requires_grad_(False)
        else:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(
        self,
        images: Float[Tensor, "b 3 H W"],
        masks: Bool[Tensor, "b n"] | None = None,
        first: int | None = None,
        visible: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        """Return the tokens of the last block after the final norm, for normalised ``images``.

        Patches where ``masks`` is set (row-major) become the mask token. ``first`` returns only this number
        of tokens, which saves most of the last block's work. Of each image, only the patches ``visible``
        pass through the blocks, where it is given (MAE).
        """
        tokens, drops = self._before_last(images, masks, visible)
        return self.norm(self._block(self.blocks[-1], tokens, first, drops))

    def packed(
        self,
        images: Sequence[Float[Tensor, "_b 3 _s _s"]],
        masks: Bool[Tensor, "b n"] | None,
        firsts: Sequence[int | None],
    ) -> list[Float[Tensor, "_b _f d"]]:
        """Return what `forward` returns for each of several batches, of which only the first has ``masks``.

        Norms and linear maps see the tokens of all batches as one matrix, which takes fewer and larger
        products; attention stays within each image.
        """
        batches = [self.embed(part, None if index else masks) for index, part in enumerate(images)]
        shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
        tokens = torch.cat([batch.flatten(0, 1) for batch in batches])
        drops, last = self.stochastic_depth.draw_packed(shapes, tokens, training=self.training)
        for block, dropped in zip(self.blocks[:-1], drops, strict=True):
            tokens = self._block(block, tokens, None, dropped, shapes)
        parts = tokens.split([images * length for images, length in shapes])
        return [
            self.norm(self._block(self.blocks[-1], part.unflatten(0, shape), first, dropped))
            for part, shape, first, dropped in zip(parts, shapes, firsts, last, strict=True)
        ]

    def _block(self, block: nn.Module, tokens: Tensor, *rest: Any) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return block(tokens, *rest)
        # Blocks draw nothing themselves.
        return checkpoint(block, tokens, *rest, use_reentrant=False, preserve_rng_state=False)

    def intermediate(
        self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "b t d"]]:
        """Return the tokens after each of ``blocks`` (from zero), in their order, before the final norm."""
        if unknown := [index for index in blocks if not 0 <= index < self.config.depth]:
            raise ConfigError(f"vit: no block {unknown[0]}; it has {self.config.depth}")
        outputs: dict[int, Tensor] = {}
        tokens = self.embed(images)
        drops = self.stochastic_depth.draw(tokens, training=self.training)
        for index, block in enumerate(self.blocks[: max(blocks, default=-1) + 1]):
            tokens = self._block(block, tokens, None, drops[index])
            if index in blocks:
                outputs[index] = tokens
        return [outputs[index] for index in blocks]

    def class_attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Return the last block's attention of the class token to the patches.

        The softmax runs over all tokens, so that the map of a head sums to less than 1.
        """
        last = cast("_Block", self.blocks[-1])
        weights = last.attn.first_row(last.norm1(self._before_last(images)[0]))[..., self.config.num_prefix :]
        return weights.unflatten(-1, self.patch_grid(images))

    def last_keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Return the keys of the patches in the last block, all heads after one another."""
        last = cast("_Block", self.blocks[-1])
        keys = last.attn.keys(last.norm1(self._before_last(images)[0]))[:, self.config.num_prefix :]
        return keys.unflatten(1, self.patch_grid(images))

    def _before_last(
        self, images: Tensor, masks: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Float[Tensor, "b t d"], Drops]:
        """Return the input of the last block, and what it drops."""
        tokens = self.embed(images, masks)
        if visible is not None:
            prefix, patches = tokens.tensor_split([self.config.num_prefix], dim=1)
            places = visible.unsqueeze(-1).expand(-1, -1, patches.shape[-1])
            tokens = torch.cat((prefix, patches.gather(1, places)), dim=1)
        *drops, last = self.stochastic_depth.draw(tokens, training=self.training)
        for block, dropped in zip(self.blocks[:-1], drops, strict=True):
            tokens = self._block(block, tokens, None, dropped)
        return tokens, last

    def embed(
        self, images: Float[Tensor, "b 3 H W"], masks: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return the input of the first block: class token, registers and patches, with positions."""
        height, width = self.patch_grid(images)
        patches = self.patch_embed(images)
        if self.config.residual == "fp32":
            patches = patches.float()
        if masks is not None:
            if self.mask_token is None:
                raise ConfigError("vit: masks need a config with mask_token")
            patches = torch.where(masks.unsqueeze(-1), self.mask_token.to(patches.dtype), patches)
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1).to(patches.dtype), patches), dim=1)
        positions = resize_positions(self.pos_embed, height, width, self.config.position_embedding)
        tokens = tokens + positions.to(tokens.dtype)
        if self.register_tokens is None:
            return tokens
        # Registers have no position, so they are inserted after the sum.
        registers = self.register_tokens.expand(len(images), -1, -1).to(tokens.dtype)
        return torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)

    def patch_grid(self, images: Float[Tensor, "b 3 H W"]) -> tuple[int, int]:
        """Return the rows and columns of patches; refuse a side that is no multiple of their size."""
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ConfigError(f"vit: {height}x{width} pixels is no multiple of patch {patch}; crop or pad")
        return height // patch, width // patch


def resize_positions(
    positions: Float[Tensor, "1 n d"], height: int, width: int, rule: PositionEmbedding
) -> Float[Tensor, "1 m d"]:
    """Return position embeddings for a grid of ``height`` x ``width`` patches.

    The position of the class token, which is first, is kept. Positions of the native grid are returned
    unchanged, as in the official code. Others are resized in fp32, whatever the type of the parameters.

    Source:
        facebookresearch/dino vision_transformer.py and facebookresearch/dinov2
        dinov2/models/vision_transformer.py, ``interpolate_pos_encoding`` (whose ``w`` is the height).
    """
    grid = math.isqrt(positions.shape[1] - 1)
    if (height, width) == (grid, grid):
        return positions
    patches = positions[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    if rule in ("dino", "dinov2"):
        scale = ((height + 0.1) / grid, (width + 0.1) / grid)
        resized = functional.interpolate(patches, scale_factor=scale, mode="bicubic")
    else:
        antialias = rule == "size_antialias"
        resized = functional.interpolate(patches, size=(height, width), mode="bicubic", antialias=antialias)
    flat = resized.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat((positions[:, :1], flat.to(positions.dtype)), dim=1)


def sincos_positions(width: int, grid: int) -> Float[Tensor, "1 n d"]:
    """Return the fixed positions of MAE: zero for the class token, then sines and cosines of column and row.

    Source:
        He et al. 2021; the released weights were trained with the column before the row.
    """
    if width % 4:
        raise ConfigError(f"vit: sine-cosine positions need a width divisible by 4, got {width}")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(grid, dtype=torch.float64).outer(frequency)
    wave = torch.cat((angle.sin(), angle.cos()), dim=1)
    rows, columns = wave.repeat_interleave(grid, dim=0), wave.repeat(grid, 1)
    positions = torch.cat((columns, rows), dim=1)
    return functional.pad(positions, (0, 0, 1, 0)).float().unsqueeze(0)


def _explicit_attention(
    query: Float[Tensor, "b heads f d"],
    key: Float[Tensor, "b heads t d"],
    value: Float[Tensor, "b heads t d"],
) -> Float[Tensor, "b heads f d"]:
    """Return what `scaled_dot_product_attention` does, with all weights in memory."""
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1) @ value


class _Attention(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, tokens: Float[Tensor, "b t d"], first: int | None = None) -> Float[Tensor, "b f d"]:
        return self.proj(self._mixed(self.qkv(tokens), first))

    def packed(self, tokens: Float[Tensor, "n d"], shapes: Sequence[tuple[int, int]]) -> Float[Tensor, "n d"]:
        """Return the mixed tokens of several batches, given as one matrix, image by image."""
        parts = self.qkv(tokens).split([images * length for images, length in shapes])
        mixed = [self._mixed(part.unflatten(0, shape)) for part, shape in zip(parts, shapes, strict=True)]
        return self.proj(torch.cat([part.flatten(0, 1) for part in mixed]))

    def first_row(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b heads t"]:
        """Return the attention weights of the first token only."""
        query, key, _ = self._heads(self.qkv(tokens))
        logits = query[:, :, :1] @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return logits.float().softmax(dim=-1).squeeze(2)

    def keys(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the keys of all heads."""
        return self.qkv(tokens).chunk(3, dim=-1)[1]

    def _mixed(self, qkv: Tensor, first: int | None = None) -> Float[Tensor, "b f d"]:
        query, key, value = self._heads(qkv)
        slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and key.shape[2] <= _FEW_TOKENS
        attend = _explicit_attention if slow and self.training else functional.scaled_dot_product_attention
        return attend(query[:, :, :first], key, value).transpose(1, 2).flatten(2)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class _SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class _LayerScale(nn.Module):
    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return tokens * self.gamma


class _Block(nn.Module):
    """Pre-norm attention and feed-forward, each with layer scale."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width = config.embed_dim
        ffn = _Mlp if config.ffn == "mlp" else _SwiGlu
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn = _Attention(config)
        self.ls1 = nn.Identity() if config.layerscale is None else _LayerScale(width, config.layerscale)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = ffn(width, config.ffn_width)
        self.ls2 = nn.Identity() if config.layerscale is None else _LayerScale(width, config.layerscale)

    def forward(
        self,
        tokens: Float[Tensor, "*b d"],
        first: int | None = None,
        drops: Drops = None,
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> Float[Tensor, "*c d"]:
        """Return the ``first`` tokens, or all; the others then serve only as keys and values.

        ``shapes`` are the images of several batches and the tokens of these, where ``tokens`` are those of
        all batches as one matrix.
        """

        def mixed(tokens: Tensor) -> Tensor:
            normed = self.norm1(tokens)
            return self.ls1(self.attn(normed, first) if shapes is None else self.attn.packed(normed, shapes))

        def fed(tokens: Tensor) -> Tensor:
            return self.ls2(self.mlp(self.norm2(tokens)))

        if drops is None:
            tokens = (tokens if first is None else tokens[:, :first]) + mixed(tokens)
            return tokens + fed(tokens)
        return drops[1].add(drops[0].add(tokens, mixed, first), fed, None)
