"""Stochastic depth: in training, residual branches of random images are dropped, those of others scaled up.

All branches of a forward pass are drawn together, because on an accelerator a kernel for every branch takes
longer than the numbers it draws. Shapes: ``b`` images, ``t`` tokens, of which a branch returns ``f``.

Source:
    Huang et al. 2016, arXiv:1603.09382.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

Branch: TypeAlias = Callable[[Tensor], Tensor]
"""Maps the tokens of some images to what is added to them."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """Every branch is computed and multiplied by 0, or by what makes up for the dropped ones."""

    factors: Float[Tensor, "*b 1"]

    def add(self, tokens: Float[Tensor, "*t d"], branch: Branch, first: int | None) -> Float[Tensor, "*f d"]:
        """Return the ``first`` tokens plus the branch of ``tokens``."""
        kept = _kept(tokens, first)
        if tokens.dtype == self.factors.dtype:
            return torch.addcmul(kept, branch(tokens), self.factors)
        # In 16 bits a factor would be rounded, and all branches with it.
        return kept + (branch(tokens) * self.factors).to(tokens.dtype)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The branch is computed for ``rows`` only, of ``count`` images."""

    rows: Int[Tensor, " k"]
    count: int

    def add(
        self, tokens: Float[Tensor, "b t d"], branch: Branch, first: int | None
    ) -> Float[Tensor, "b f d"]:
        """Return the ``first`` tokens, plus the branch of ``tokens`` in rows that keep it."""
        added = branch(tokens[self.rows]).to(tokens.dtype)
        return _kept(tokens, first).index_add(0, self.rows, added, alpha=self.count / len(self.rows))


def _kept(tokens: Tensor, first: int | None) -> Tensor:
    return tokens if first is None else tokens[:, :first]


Drops: TypeAlias = tuple[Scaled | Chosen, Scaled | Chosen] | None
"""Those of the attention and of the feed-forward of a block; None drops nothing."""


class StochasticDepth:
    """Draws the dropped branches of blocks with ``rates``, two a block.

    ``by="image"`` drops each image's branch independently; ``by="batch"`` an exact share of the batch, whose
    branches then need not be computed, as in DINOv2.
    """

    def __init__(self, rates: Sequence[float], *, by: Literal["image", "batch"]) -> None:
        self.rates, self.by = rates, by

    @property
    def rates(self) -> Sequence[float]:
        """Rates of all blocks."""
        return self._rates

    @rates.setter
    def rates(self, rates: Sequence[float]) -> None:
        self._rates = rates
        self._counted: dict[tuple[int, torch.device], Tensor] = {}
        self._keep = 1 - torch.tensor(rates, device="cpu").repeat_interleave(2).unsqueeze(1)

    def draw(self, tokens: Float[Tensor, "b t d"], *, training: bool) -> list[Drops]:
        """Return what each block drops of a batch whose first block takes ``tokens``."""
        if not (training and any(self.rates)):
            return [None] * len(self.rates)
        images = len(tokens)
        if self.by == "image":
            return _pairs(self._factors(images, tokens)[..., None, None])
        orders = zip(self._orders(images, tokens), self._counts(images), strict=True)
        chosen = [Chosen(order[:count], images) for order, count in orders]
        return list(zip(chosen[::2], chosen[1::2], strict=True))

    def draw_packed(
        self, shapes: Sequence[tuple[int, int]], tokens: Float[Tensor, "n d"], *, training: bool
    ) -> tuple[list[Drops], list[Drops]]:
        """Return what blocks drop of several batches as one matrix, and what the last drops of each batch.

        ``shapes`` are the images of every batch and the tokens of its images. Every branch is computed.
        """
        if not (training and any(self.rates)):
            return [None] * (len(self.rates) - 1), [None] * len(shapes)
        factors = [self._factors(images, tokens) for images, _ in shapes]
        repeated = zip(factors, shapes, strict=True)
        of_tokens = torch.cat([part.repeat_interleave(count, dim=1) for part, (_, count) in repeated], dim=1)
        return _pairs(of_tokens[:-2, :, None]), [_pairs(part[-2:, :, None, None])[0] for part in factors]

    def _factors(self, images: int, like: Tensor) -> Float[Tensor, "r b"]:
        """Return what multiplies the branches of every image."""
        if self.by == "image":
            self._keep = self._keep.to(like.device)
            kept = torch.rand(len(self._keep), images, device=like.device) < self._keep
            return kept / self._keep
        counts = self._counted.get((images, like.device))
        if counts is None:
            # Kept, because a copy to a device waits for it.
            counts = torch.tensor(self._counts(images), device=like.device).unsqueeze(1)
            self._counted[images, like.device] = counts
        return (self._orders(images, like).argsort(dim=1) < counts) * (images / counts)

    def _orders(self, images: int, like: Tensor) -> Int[Tensor, "r b"]:
        return torch.rand(len(self._keep), images, device=like.device).argsort(dim=1)

    def _counts(self, images: int) -> list[int]:
        return [max(1, int(images * (1 - rate))) for rate in self.rates for _ in range(2)]


def _pairs(factors: Float[Tensor, "r ..."]) -> list[Drops]:
    scaled = [Scaled(part) for part in factors]
    return list(zip(scaled[::2], scaled[1::2], strict=True))
