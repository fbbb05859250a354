"""V-JEPA's probe: transformer blocks on the tokens, then one learned query that attends to them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ssleval.heads.attentive.recipes import ATTENTION_HEADS, refuse_width

SELF_BLOCKS = 3
DEVIATION = 0.02


class JepaProbes(nn.ModuleList):
    """One probe for every head of a grid.

    Source:
        Assran et al. 2025, arXiv:2506.09985; src/models/attentive_pooler.py of facebookresearch/vjepa2.

    Raises:
        NotApplicableError: the channels are no multiple of 16, the number of attention heads.
    """

    def __init__(self, heads: int, width: int, classes: int, *, seed: int) -> None:
        refuse_width("vjepa", width)
        super().__init__([_Probe(width, classes) for _ in range(heads)])
        generator = torch.Generator().manual_seed(seed)
        for probe in self:
            probe.draw(generator)  # pyright: ignore[reportCallIssue]

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "g b c"]:
        """Return the logits of every head."""
        # The fused kernels of a GPU add up gradients in any order.
        with sdpa_kernel(SDPBackend.MATH):
            return torch.stack([probe(tokens) for probe in self])


class _Probe(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_SelfBlock(width) for _ in range(SELF_BLOCKS)])
        self.query = nn.Parameter(torch.empty(1, 1, width))
        self.cross = _CrossBlock(width)
        self.linear = nn.Linear(width, classes)

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw all weights; the last layers of block i are divided by sqrt(2 i)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=DEVIATION, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
        for place, block in enumerate(self.blocks, start=1):
            block.damp((2 * place) ** 0.5)  # pyright: ignore[reportCallIssue]
        # Published code counts the cross-attention with the last block before it.
        self.cross.mlp[2].weight.div_((2 * SELF_BLOCKS) ** 0.5)  # pyright: ignore[reportCallIssue, reportUnknownMemberType, reportAttributeAccessIssue]

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        for block in self.blocks:
            tokens = block(tokens)
        return self.linear(self.cross(self.query.expand(len(tokens), -1, -1), tokens)[:, 0])


class _SelfBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.mlp = nn.Linear(width, 3 * width), nn.Linear(width, width), _mlp(width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        tokens = tokens + self.out(_attended(*self.qkv(self.norm1(tokens)).chunk(3, dim=2)))
        return tokens + self.mlp(self.norm2(tokens))

    def damp(self, divisor: float) -> None:
        """Divide the weights of the layers that add to the tokens."""
        for layer in (self.out, self.mlp[2]):
            layer.weight.div_(divisor)  # pyright: ignore[reportCallIssue, reportUnknownMemberType, reportAttributeAccessIssue]


class _CrossBlock(nn.Module):
    """The query, not normalised, attends; attention has no output projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.mlp = nn.Linear(width, width), nn.Linear(width, 2 * width), _mlp(width)

    def forward(
        self, query: Float[Tensor, "b 1 d"], tokens: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b 1 d"]:
        query = query + _attended(self.q(query), *self.kv(self.norm1(tokens)).chunk(2, dim=2))
        return query + self.mlp(self.norm2(query))


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _attended(
    query: Float[Tensor, "b m d"], key: Float[Tensor, "b n d"], value: Float[Tensor, "b n d"]
) -> Float[Tensor, "b m d"]:
    q, k, v = (part.unflatten(2, (ATTENTION_HEADS, -1)).transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
