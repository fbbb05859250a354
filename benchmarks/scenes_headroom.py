"""Is `scenes` easy for a network that knows the labels?

    python -m benchmarks.scenes_headroom [--epochs 30] [--cache DIR] [--out FILE.json]

Prints top-1 on `test` of a small network trained with the labels of `train`, as JSON, and exits with 1 if it
is below 0.90. That pixels and untrained networks find it hard is in `results/`, by the task k-NN.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from ssleval.core.cachefolder import default_cache
from ssleval.datasets.scenes.categories import CATEGORIES
from ssleval.datasets.scenes.store import VERSION, array, open_split

HEADROOM = 0.90
_BATCH = 64
_WIDTHS = (32, 64, 128, 192)


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; halves the resolution."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(narrow, wide, 3, 2, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.short = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(narrow, wide, 1, bias=False), nn.BatchNorm2d(wide)
        )

    def forward(self, x: Float[Tensor, "b c H W"]) -> Float[Tensor, "b d h w"]:
        """Return features at half the resolution."""
        return functional.relu(self.body(x) + self.short(x))


def network() -> nn.Module:
    """Return a residual network of 0.9 million parameters, 23 million multiplications an image."""
    # Coarse at once: fine feature maps would take most of the time, and shapes are large.
    first = nn.Conv2d(12, _WIDTHS[0], 3, 2, 1, bias=False)
    stem = (nn.PixelUnshuffle(2), first, nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU())
    blocks = [Block(a, b) for a, b in itertools.pairwise(_WIDTHS)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(_WIDTHS[-1], len(CATEGORIES)))
    return nn.Sequential(*stem, *blocks, *head).to(memory_format=torch.channels_last)


def read(cache: Path, split: str) -> tuple[UInt8[Tensor, "n 3 H W"], Int[Tensor, " n"]]:
    """Return all images and labels of a split."""
    folder = open_split(cache, split)
    images = torch.from_numpy(np.array(array(folder, "image"))).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.array(array(folder, "label")))


def normalised(images: Tensor) -> Float[Tensor, "b 3 H W"]:
    """Return images of about zero mean and unit variance."""
    return ((images.float() / 255 - 0.45) / 0.25).contiguous(memory_format=torch.channels_last)


def augmented(images: UInt8[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Mirror, zoom, turn and shift each image, and give it other colours: geometry is what counts."""
    count = len(images)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    zoom, angle = 0.85 + 0.25 * torch.rand(count), (torch.rand(count) - 0.5) * 0.2
    shift = (torch.rand(2, count) - 0.5) * 0.25
    rows = [
        torch.stack([mirror * zoom * angle.cos(), -zoom * angle.sin(), shift[0]], 1),
        torch.stack([mirror * zoom * angle.sin(), zoom * angle.cos(), shift[1]], 1),
    ]
    shape = [count, *images.shape[1:]]
    grid = functional.affine_grid(torch.stack(rows, 1), shape, align_corners=False)
    moved = functional.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    order = torch.rand(count, 3).argsort(1)[:, :, None, None].expand_as(moved)
    gain, lift = 0.6 + 0.8 * torch.rand(count, 3, 1, 1), 51 * (torch.rand(count, 3, 1, 1) - 0.5)
    return normalised(moved.gather(1, order) * gain + lift)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Fit the network to the labels: AdamW, one cycle."""
    steps = len(images) // _BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * steps)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(images)).split(_BATCH)[:steps]:
            predicted = model(augmented(images[rows]))
            loss = functional.cross_entropy(predicted, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.3f}", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return top-1 of one view."""
    model.eval()
    predicted = torch.cat([model(normalised(batch)).argmax(1) for batch in images.split(100)])
    return (predicted == labels).float().mean().item()


def main() -> None:
    """Measure, print, and fail where a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    (images, labels), (tests, targets) = read(asked.cache, "train"), read(asked.cache, "test")
    torch.manual_seed(0)
    model, start, used = network(), time.perf_counter(), time.process_time()
    train(model, images, labels, asked.epochs)
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    score = accuracy(model, tests, targets)
    report = {"dataset": VERSION, "top1": score, "epochs": asked.epochs, "training": spent}
    text = json.dumps(report, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    raise SystemExit(int(score < HEADROOM))


if __name__ == "__main__":
    main()
