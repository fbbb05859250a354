"""Probes that attend with learned queries: efficient probing, and CAPI's. A grid of heads is one module.

A learned query times projected keys is a projected query times the tokens themselves, and the average of
projected values is the projected average: queries are projected, tokens never. That is the function that
published code computes, for a cost per token that does not grow with the square of its channels, and all
heads share two products with the tokens. A bias of keys would add one number to all scores of a query, which
the softmax takes away; there is none.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssleval.heads.attentive.recipes import CHANNELS_PER_HEAD, refuse_width

DEVIATION = 0.02
"""Of the weights that published code draws from a normal distribution."""


class EfficientProbing(nn.Module):
    """Several queries, each of which averages its own part of the values; a batch normalisation; classes.

    Keys are the tokens as they are; query i gives the i-th part of the channels. The normalisation has no
    affine part.

    Source:
        Psomas et al. 2025, arXiv:2506.10178; poolings/ep.py of billpsomas/efficient-probing.

    Raises:
        NotApplicableError: the channels are no multiple of the queries.
    """

    def __init__(self, heads: int, width: int, classes: int, *, queries: int, seed: int) -> None:
        super().__init__()
        refuse_width("ep", width, queries)
        generator = torch.Generator().manual_seed(seed)
        bound = width**-0.5
        self.queries = nn.Parameter(DEVIATION * torch.randn(heads, queries, width, generator=generator))
        self.values = nn.Parameter(_uniform((heads, width, width), bound, generator))
        self.norm = nn.BatchNorm1d(heads * width, affine=False, eps=1e-6)
        self.weight = nn.Parameter(_uniform((heads, classes, width), bound, generator))
        self.bias = nn.Parameter(_uniform((heads, classes), bound, generator))

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "g b c"]:
        """Return the logits of every head."""
        vectors = grouped(pooled(tokens, self.queries * tokens.shape[2] ** -0.5), self.values)
        flat = self.norm(vectors.transpose(0, 1).flatten(1))
        vectors = flat.view(len(tokens), *self.queries.shape[::2]).transpose(0, 1)
        return torch.baddbmm(self.bias[:, None], vectors, self.weight.transpose(1, 2))


class AttentionPool(nn.Module):
    """One learned query, attention in heads of 64 channels over projected tokens, and classes.

    Source:
        Darcet et al. 2025, arXiv:2502.08769; eval_classification.py of facebookresearch/capi.

    Raises:
        NotApplicableError: the channels are no multiple of 64.
    """

    def __init__(self, heads: int, width: int, classes: int, *, seed: int) -> None:
        super().__init__()
        refuse_width("capi", width)
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(DEVIATION * torch.randn(heads, *shape, generator=generator))

        self.query = drawn(width)
        self.keys = drawn(width, width)
        self.values = drawn(width, width)
        self.values_bias = nn.Parameter(torch.zeros(heads, width))
        self.weight = drawn(classes, width)
        self.bias = nn.Parameter(torch.zeros(heads, classes))

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "g b c"]:
        """Return the logits of every head."""
        heads, width = self.query.shape
        parts = self.query.view(-1, 1, CHANNELS_PER_HEAD) * CHANNELS_PER_HEAD**-0.5
        queries = torch.bmm(parts, self.keys.view(-1, CHANNELS_PER_HEAD, width))
        vectors = grouped(pooled(tokens, queries.view(heads, -1, width)), self.values)
        return torch.baddbmm(
            self.bias[:, None], vectors + self.values_bias[:, None], self.weight.transpose(1, 2)
        )


class Pooled(torch.autograd.Function):
    """The mean of the tokens that each query attends to, by softmax of its products with them.

    Written out for its layouts alone: every product finds its factors as they lie, where torch's own rules
    would turn the scores ``[b n m]`` over several times a step. Tokens get no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, tokens: Float[Tensor, "b n d"], queries: Float[Tensor, "m d"]
    ) -> Float[Tensor, "b m d"]:
        """Return the means."""
        scores = torch.mm(tokens.flatten(0, 1), queries.T).view(*tokens.shape[:2], -1)
        attention = scores.softmax(dim=1)
        ctx.save_for_backward(tokens, attention)
        return torch.bmm(attention.transpose(1, 2), tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Float[Tensor, "m d"]]:
        """Return the gradient of the queries."""
        tokens, attention = ctx.saved_tensors
        gradient = torch.bmm(tokens, gradients[0].transpose(1, 2))
        gradient.mul_(attention)
        gradient.addcmul_(attention, gradient.sum(dim=1, keepdim=True), value=-1)
        return None, torch.mm(gradient.flatten(0, 1).T, tokens.flatten(0, 1))


def pooled(tokens: Float[Tensor, "b n d"], queries: Float[Tensor, "g q d"]) -> Float[Tensor, "b g q d"]:
    """Return the mean of the tokens that each query attends to."""
    means: Tensor = Pooled.apply(tokens, queries.flatten(0, 1))
    return means.view(len(tokens), *queries.shape)


def grouped(vectors: Float[Tensor, "b g q d"], weights: Float[Tensor, "g e d"]) -> Float[Tensor, "g b e"]:
    """Return each vector times its own rows of the weights: those of query i of q are the i-th part of e."""
    batch, heads, queries, width = vectors.shape
    rows = weights.reshape(heads * queries, -1, width)
    parts = torch.bmm(vectors.view(batch, -1, width).transpose(0, 1), rows.transpose(1, 2))
    return parts.view(heads, queries, batch, -1).transpose(1, 2).flatten(2)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    # As torch draws the weights of a linear layer.
    return bound * (2 * torch.rand(shape, generator=generator) - 1)
