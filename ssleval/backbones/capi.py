"""The encoder of CAPI and the first block of its decoder, equal to the official code.

A transformer without a class token: RMS norms, no biases, 16 registers that have positions on the edge of the
image, and rotary positions of two axes. The representation of an image is made by the first block of the
predictor: a mask token at each patch attends to the encoder's tokens, and the mean of these is taken.
Parameter names are those of the official files.

Source:
    Darcet et al. 2025, arXiv:2502.08769; facebookresearch/capi, model.py and default_pretrain_config.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ssleval.core.settings import Count, check

REGISTERS = 16
_HIGHEST, _LOWEST = 7.0, 7e-4
"""Rotations per side of the image, of the fastest and the slowest channels."""
_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class CapiConfig:
    """The size of a `Capi`; the defaults are those of the published ViT-L/14."""

    embed_dim: Count = 1024
    depth: Count = 24
    num_heads: Count = 16
    patch_size: Count = 14

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        check(self, "capi")


class Capi(nn.Module):
    """The encoder, and what makes one vector of an image."""

    def __init__(self, config: CapiConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.embed_dim, config.patch_size
        self.mask_token = nn.Parameter(torch.empty(1, width))
        self.registers = nn.Parameter(torch.empty(1, REGISTERS, width))
        self.patch_embed = nn.Conv2d(3, width, kernel_size=patch, stride=patch)
        self.encoder = _Transformer(config, config.depth)
        self.decoder = _Transformer(config, 1)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise as the official code does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.registers, std=0.02)

    def forward(
        self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int]
    ) -> tuple[Float[Tensor, "b d"], list[Float[Tensor, "b t d"]]]:
        """Return the vector of each of the normalised ``images``, and the tokens after each of ``blocks``.

        Tokens are registers, then patches row by row, before the final norm, which is `norm`.
        """
        patches = self.patch_embed(images)
        places = _places(*patches.shape[-2:], like=patches)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat((self.registers.to(tokens.dtype).expand(len(images), -1, -1), tokens), dim=1)
        around = torch.cat((_edge(places), places))
        outputs: list[Tensor] = []
        for block in self.encoder.blocks:
            tokens = block(tokens, around)
            outputs.append(tokens)
        asked = self.mask_token.to(tokens.dtype).expand(len(images), len(places), -1)
        answers = self.decoder.blocks[0](asked, places, self.norm(tokens), around)
        return self.norm(answers).mean(dim=1), [outputs[index] for index in blocks]

    def norm(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Apply the final norm, which has no parameters."""
        return functional.rms_norm(tokens, tokens.shape[-1:], eps=_NORM_EPS)


def _places(rows: int, columns: int, like: Tensor) -> Float[Tensor, "n 2"]:
    """Return row and column of every patch, in [0, 1]."""
    down, across = (torch.linspace(0, 1, n, device=like.device, dtype=like.dtype) for n in (rows, columns))
    return torch.cartesian_prod(down, across)


def _edge(places: Float[Tensor, "n 2"]) -> Float[Tensor, "r 2"]:
    """Return places of the registers: round the edge of what the patches span, a quarter of them a side."""
    step = torch.arange(REGISTERS // 4, device=places.device, dtype=places.dtype) / (REGISTERS // 4)
    zero, one = torch.zeros_like(step), torch.ones_like(step)
    sides = ((step, zero), (one, step), (1 - step, one), (zero, 1 - step))
    edge = torch.cat([torch.stack(side, dim=1) for side in sides])
    low, high = places.amin(dim=0), places.amax(dim=0)
    return low + edge * (high - low)


class _Transformer(nn.Module):
    def __init__(self, config: CapiConfig, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(config) for _ in range(depth))


class _Block(nn.Module):
    def __init__(self, config: CapiConfig) -> None:
        super().__init__()
        self.residual1 = _Residual(config.embed_dim, _Attention(config))
        self.residual2 = _Residual(config.embed_dim, _Mlp(config.embed_dim))

    def forward(self, tokens: Tensor, places: Tensor, *context: Tensor) -> Float[Tensor, "b t d"]:
        tokens = tokens + self.residual1.fn(self.residual1.norm(tokens), places, *context)
        return tokens + self.residual2.fn(self.residual2.norm(tokens))


class _Residual(nn.Module):
    """A norm and what follows it, under the names of the official files."""

    def __init__(self, width: int, layer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=_NORM_EPS)
        self.fn = layer


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class _Attention(nn.Module):
    """Attention of tokens to themselves, or to a context, with rotary positions."""

    def __init__(self, config: CapiConfig) -> None:
        super().__init__()
        width, self.num_heads = config.embed_dim, config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.rope = _Rope(width // config.num_heads)

    def forward(
        self,
        tokens: Float[Tensor, "b t d"],
        places: Float[Tensor, "t 2"],
        context: Float[Tensor, "b c d"] | None = None,
        context_places: Float[Tensor, "c 2"] | None = None,
    ) -> Float[Tensor, "b t d"]:
        if context is None or context_places is None:
            context, context_places = tokens, places
        query = self.rope(self._heads(self.q_proj(tokens)), places)
        key = self.rope(self._heads(self.k_proj(context)), context_places)
        mixed = functional.scaled_dot_product_attention(query, key, self._heads(self.v_proj(context)))
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Float[Tensor, "b heads t k"]:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class _Rope(nn.Module):
    """Rotation of pairs of channels by angles that grow with the row, half of them, or with the column."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        speeds = _HIGHEST * (_HIGHEST / _LOWEST) ** torch.linspace(0, -1, dim // 4, device="cpu")
        freqs = torch.zeros(2, dim, device="cpu")
        freqs[0, : dim // 2] = freqs[1, dim // 2 :] = 2 * torch.pi * speeds.repeat(2)
        self.freqs = nn.Parameter(freqs.to(torch.get_default_device()))

    def forward(
        self, heads: Float[Tensor, "b heads t k"], places: Float[Tensor, "t 2"]
    ) -> Float[Tensor, "b heads t k"]:
        angle = places @ self.freqs.to(places.dtype)
        first, second = heads.chunk(2, dim=-1)
        return heads * angle.cos() + torch.cat((-second, first), dim=-1) * angle.sin()
