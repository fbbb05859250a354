"""CAPI's 30 attentive heads trained at once, against their bare products and against heads one by one.

The bound, for b = 128 images of n = 196 tokens of d = 384 channels, 30 heads of 6 parts and c = 100 classes.
Queries are projected, not tokens, so that the 180 parts share four products with the tokens: scores and
averages, forward and backward, 2 x 128 x 196 x 384 x 180 operations each: 13.9 GFLOP. The values take three
products of 2 x 128 x 30 x 384 x 384 (1.1 GFLOP each), keys, queries and classes less than 1 GFLOP: 18 GFLOP
in all, 0.18 s at 100 GFLOP/s. Beside them a softmax over 128 x 180 x 196 scores, forward and backward (18 MB,
six passes), and AdamW on 10 million weights (40 MB, seven passes): 0.4 GB, 0.04 s where memory moves 10 GB/s.
The published module projects all tokens to keys and values: 2 x 4 x 128 x 196 x 384 x 384 = 30 GFLOP a head.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from ssleval.core import Context
from ssleval.heads.attentive.fit import AttentiveFit
from ssleval.heads.attentive.pooling import AttentionPool
from ssleval.heads.attentive.recipes import RECIPES

BATCH, TOKENS, CHANNELS, CLASSES, STEPS, REPEATS = 128, 196, 384, 100, 2, 5
PRODUCT_BAR, ALONE_BAR = 1.6, 4.0
"""Times the bare products, at most; times as fast as heads one by one, at least."""
ALONE = 3
"""Heads that are trained one by one; all cost the same, so that the time is that of 30 by 30 / 3."""
RECIPE = RECIPES["capi"]
HEADS = RECIPE.grid(RECIPE.rates, RECIPE.decays)


class Published(nn.Module):
    """The published head: keys and values of every token, one query."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(CHANNELS))
        self.kv, self.linear = nn.Linear(CHANNELS, 2 * CHANNELS), nn.Linear(CHANNELS, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        size = len(tokens)
        key, value = (part.unflatten(2, (-1, 64)).transpose(1, 2) for part in self.kv(tokens).chunk(2, dim=2))
        query = self.query.view(1, -1, 1, 64).expand(size, -1, -1, -1)
        return self.linear(scaled_dot_product_attention(query, key, value).reshape(size, CHANNELS))


class Together:
    """All heads, trained as the package does; the start is not timed."""

    def __init__(self, tokens: Tensor, labels: Tensor) -> None:
        context = Context("cpu", progress=False)
        count = STEPS * (REPEATS + 1)
        shape = 32, count, len(labels), count, ()
        fit = AttentiveFit("capi", RECIPE, HEADS, *shape, CLASSES, context)
        module = AttentionPool(len(HEADS), CHANNELS, CLASSES, seed=0)
        self.stages = fit.stages_of(module, lambda _: tokens, labels.numpy())

    def __call__(self) -> None:
        """Take some steps."""
        for _ in range(STEPS):
            next(self.stages)


def bare_products(tokens: Tensor) -> Callable[[], None]:
    """Return the products of a step of all heads alone: forward, then those for the gradients."""
    heads, parts = len(HEADS), len(HEADS) * CHANNELS // 64
    queries, values = torch.randn(parts, CHANNELS), torch.randn(parts, 64, CHANNELS)
    keys, query = torch.randn(parts, 64, CHANNELS), torch.randn(parts, 1, 64)
    weight = torch.randn(heads, CLASSES, CHANNELS)
    scores, averages = torch.randn(BATCH, TOKENS, parts), torch.randn(BATCH, parts, CHANNELS)
    vectors, logits = torch.randn(parts, 64, BATCH), torch.randn(heads, BATCH, CLASSES)
    pooled = torch.randn(heads, BATCH, CHANNELS)

    def multiply() -> None:
        for _ in range(STEPS):
            torch.bmm(query, keys)
            torch.mm(tokens.view(-1, CHANNELS), queries.T)
            torch.bmm(scores.transpose(1, 2), tokens)
            torch.bmm(averages.transpose(0, 1), values.transpose(1, 2))
            torch.bmm(pooled, weight.transpose(1, 2))
            torch.bmm(logits, weight)
            torch.bmm(logits.transpose(1, 2), pooled)
            torch.bmm(vectors, averages.transpose(0, 1))
            torch.bmm(vectors.transpose(1, 2), values)
            torch.bmm(tokens, averages.transpose(1, 2))
            torch.mm(scores.view(-1, parts).T, tokens.view(-1, CHANNELS))
            torch.bmm(query.transpose(1, 2), averages[:1].transpose(0, 1))
            torch.bmm(keys, averages[:1].permute(1, 2, 0))

    return multiply


def one_by_one(tokens: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return what trains some heads as a plain loop does, a module and an optimiser for each."""
    modules = [Published() for _ in range(ALONE)]
    optimizers = [torch.optim.AdamW(module.parameters(), 1e-4, betas=RECIPE.betas) for module in modules]

    def train() -> None:
        for module, optimizer in zip(modules, optimizers, strict=True):
            for _ in range(STEPS):
                optimizer.zero_grad()
                cross_entropy(module(tokens), labels).backward()
                optimizer.step()

    return train


def timed(work: Callable[[], None]) -> float:
    """Return the seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    """Print the comparisons and their bars; return 1 where one falls short."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(BATCH, TOKENS, CHANNELS, generator=generator)
    labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    ways = Together(tokens, labels), bare_products(tokens), one_by_one(tokens, labels)
    times = np.array([[timed(way) for way in ways] for _ in range(REPEATS + 1)])[1:]
    against_products = statistics.median(times[:, 0] / times[:, 1])
    faster = statistics.median(times[:, 2] / times[:, 0]) * len(HEADS) / ALONE
    print(
        f"attentive: {len(HEADS)} heads, {float(np.median(times[:, 0])) / STEPS:.3f} s for {BATCH} images, "
        f"{against_products:.2f} x their bare products, bar {PRODUCT_BAR} ({REPEATS} interleaved repeats of "
        f"{STEPS} steps)"
    )
    print(
        f"attentive: {faster:.1f} x as fast as the published module head by head, bar {ALONE_BAR:g} "
        f"({ALONE} heads timed, x {len(HEADS) // ALONE})"
    )
    return int(against_products > PRODUCT_BAR or faster < ALONE_BAR)


if __name__ == "__main__":
    sys.exit(main())
