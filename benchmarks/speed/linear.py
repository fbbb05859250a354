"""52 linear heads trained together, against their bare matrix products and against heads one by one.

The bound: a head of w inputs costs two products per step, 4 x batch x w x classes operations. The 13
heads of a column set share one product each way; over the four sets of 1, 2, 4 and 5 x 384 columns that
is 4 x 256 x 12 x 384 x 13 x 100 = 6.1 GFLOP a step, 0.06 s at 100 GFLOP/s. Beside them a softmax over
256 x 52 x 100 logits (5 MB, a few passes) and one pass over 6 million weights (24 MB) to update them:
together under a tenth of the products where memory moves 10 GB/s.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ssleval.heads.linear import HeadGrid, LinearHeads, Training

CHANNELS, CLASSES, BATCH, STEPS, REPEATS = 384, 100, 256, 3, 5
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
PRODUCT_BAR = 1.6
"""Times the bare products, at most."""
EQUAL_STEPS, EQUAL_BAR, EQUAL_CHANNELS = 500, 1e-5, 48
"""Steps after which weights of both ways still agree, how closely, and on how many channels."""
BACKBONE_IMAGES_PER_SECOND = 1_000
"""Of a ViT-S/16 on a good GPU, to say what a loop with the backbone inside would cost."""


def columns(channels: int) -> tuple[tuple[int, int], ...]:
    """Return the column sets of 1 block, 1 block and mean patch, 4 blocks, 4 blocks and mean patch."""
    return tuple((start * channels, stop * channels) for start, stop in ((3, 4), (3, 5), (0, 4), (0, 5)))


def together(heads: LinearHeads, batches: list[tuple[Tensor, Tensor]], training: Training) -> None:
    """Train as the package does."""
    for step, (inputs, labels) in enumerate(batches):
        heads.step(inputs, labels, training, step)


@torch.no_grad()
def products(heads: LinearHeads, batches: list[tuple[Tensor, Tensor]], errors: list[Tensor]) -> None:
    """Multiply only: one forward and one weight-gradient product per column set."""
    for inputs, _ in batches:
        for (start, stop), weight, error in zip(heads.grid.columns, heads.weights, errors, strict=True):
            torch.mm(inputs[:, start:stop], weight.T)
            torch.mm(error.T, inputs[:, start:stop])


def one_by_one(
    layers: list[tuple[nn.Linear, slice, float]], batches: list[tuple[Tensor, Tensor]], training: Training
) -> None:
    """Train as a plain loop does: a layer, an optimiser and a schedule for each head."""
    for layer, used, rate in layers:
        optimizer = torch.optim.SGD(layer.parameters(), rate * BATCH / 256, momentum=training.momentum)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.iterations)
        for inputs, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(inputs[:, used]), labels).backward()
            optimizer.step()
            schedule.step()


def layers_of(heads: LinearHeads, chosen: list[tuple[int, int]]) -> list[tuple[nn.Linear, slice, float]]:
    """Return layers that start like the heads of those column sets and rates."""
    found: list[tuple[nn.Linear, slice, float]] = []
    for index, head in chosen:
        rows = heads.weights[index][head * CLASSES : (head + 1) * CLASSES]
        layer = nn.Linear(rows.shape[1], CLASSES)
        layer.weight.data.copy_(rows)
        layer.bias.data.zero_()
        found.append((layer, slice(*heads.grid.columns[index]), RATES[head]))
    return found


def drawn(steps: int, channels: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of features with classes to find in them."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 5 * channels, generator=generator)
    labels = torch.randint(0, CLASSES, (steps, BATCH), generator=generator)
    noise = torch.randn(steps, BATCH, 5 * channels, generator=generator)
    return [(0.3 * centres[y] + x, y) for x, y in zip(noise, labels, strict=True)]


def timed(work: Callable[[], None]) -> float:
    """Return the seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def largest_difference() -> float:
    """Train both ways for long, on fewer channels; return how far any weight has moved apart."""
    training, batches = Training(EQUAL_STEPS, BATCH), drawn(EQUAL_STEPS, EQUAL_CHANNELS)
    heads = LinearHeads(HeadGrid(columns(EQUAL_CHANNELS), RATES), CLASSES)
    chosen = [(0, 12), (1, 9), (2, 6), (3, 11)]
    layers = layers_of(heads, chosen)
    together(heads, batches, training)
    one_by_one(layers, batches, training)
    return max(
        float(
            (heads.weights[index][head * CLASSES : (head + 1) * CLASSES] - layer.weight.detach()).abs().max()
        )
        for (index, head), (layer, _, _) in zip(chosen, layers, strict=True)
    )


def main() -> int:
    """Print the comparisons and their bars; return 1 where one falls short."""
    training, batches = Training(STEPS, BATCH), drawn(STEPS, CHANNELS)
    heads = LinearHeads(HeadGrid(columns(CHANNELS), RATES), CLASSES)
    errors = [torch.randn(BATCH, len(weight)) for weight in heads.weights]
    everyone = [(index, head) for index in range(4) for head in range(len(RATES))]
    layers = layers_of(heads, everyone)
    times = np.array(
        [
            (
                timed(lambda: together(heads, batches, training)),
                timed(lambda: products(heads, batches, errors)),
                timed(lambda: one_by_one(layers, batches, training)),
            )
            for _ in range(REPEATS + 1)
        ]
    )[1:]
    against_products = statistics.median(times[:, 0] / times[:, 1])
    faster = statistics.median(times[:, 2] / times[:, 0])
    step = float(np.median(times[:, 0])) / STEPS
    apart = largest_difference()
    print(
        f"linear: 52 heads, {step:.3f} s for {BATCH} rows, {against_products:.2f} x their bare products, "
        f"bar {PRODUCT_BAR} ({REPEATS} interleaved repeats of {STEPS} steps)"
    )
    print(f"linear: {faster:.2f} x as fast as torch.nn.Linear and SGD head by head, bar 1")
    print(f"linear: weights {apart:.1e} apart after {EQUAL_STEPS} steps, bar {EQUAL_BAR:g}")
    inside = (step + BATCH / BACKBONE_IMAGES_PER_SECOND) / step
    print(
        f"linear: a loop with a backbone of {BACKBONE_IMAGES_PER_SECOND} images/s inside would take "
        f"{inside:.1f} x as long (reported, no bar)"
    )
    return int(against_products > PRODUCT_BAR or faster < 1 or apart > EQUAL_BAR)


if __name__ == "__main__":
    sys.exit(main())
