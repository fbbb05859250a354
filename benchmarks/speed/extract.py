"""Extraction against the bare forward pass of the same model on the same batches, and what the store adds.

The bound: an image of 224 pixels is 150 KB as bytes and 600 KB as floats. To turn one into the other,
look for values out of range, subtract the mean and divide takes some six sweeps over it, about 1 ms at
3 GB/s, and 150 KB more are copied when a batch is stacked. A ViT-S/16 needs 9.2 GFLOP an image: 90 ms on
a core that does 100 GFLOP/s. The features are 1.5 KB, whose crc32 and write take microseconds. So
extraction can come within 2 % of the bare model; 10 % leaves room for a faster processor.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, FeatureRequest, Geometry, Readout, Split
from ssleval.core.backbone import Backbone, Features
from ssleval.features import FeatureSource

IMAGES = 128
BATCH = 32
REPEATS = 5
SPEED_BAR = 0.90
"""Images per second, as a part of the bare model's."""
BYTES_BAR = 2048
"""Bytes per image beyond the features themselves."""

CARD = BackboneCard("vit_small", "timm", "vit_small_patch16_224", embed_dim=384, patch_size=16)


class Small(Backbone):
    """A ViT-S/16 of timm with random weights."""

    def __init__(self) -> None:
        super().__init__(CARD, num_blocks=12)
        torch.manual_seed(0)
        self.model: nn.Module = timm.create_model(CARD.arch, pretrained=False, num_classes=0)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Return the pooled vector only."""
        return Features(self.model(images))


class Memory:
    """Images that are decoded already."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __call__(self, index: int) -> Image.Image:
        """Return image ``index``."""
        return Image.fromarray(self.pixels[index])


def bare(model: nn.Module, batches: Sequence[Tensor]) -> float:
    """Return the seconds of nothing but forward passes over normalised float images."""
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return time.perf_counter() - started


def extracted(backbone: Backbone, request: FeatureRequest, cache: Path) -> float:
    """Return the seconds from 8-bit images in memory to features on the disk."""
    context = Context(cache=cache, batch_size=BATCH, progress=False)
    started = time.perf_counter()
    FeatureSource(backbone, context).prepare([request])
    return time.perf_counter() - started


def main() -> int:
    """Print both comparisons; return 1 where one falls short of its bar."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
    split = Split([f"{row:06}" for row in range(IMAGES)], Memory(pixels), np.arange(IMAGES), "benchmark")
    dataset = Dataset(DatasetCard("memory", target="none", lengths={"train": IMAGES}), lambda _: split)
    request = FeatureRequest(dataset, "train", Geometry(224, "square"), (Readout("pooled"),))
    backbone = Small().eval()
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
    batches = ((floats - backbone.mean) / backbone.std).split(BATCH)
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        bare(backbone.model, batches[:2])
        for repeat in range(REPEATS):
            theirs.append(bare(backbone.model, batches))
            ours.append(extracted(backbone, request, Path(folder) / str(repeat)))
        files = [path for path in (Path(folder) / "0").rglob("*") if path.is_file()]
        added = sum(path.stat().st_size for path in files) / IMAGES - CARD.embed_dim * 4
    return max(report_speed(ours, theirs), report_bytes(added))


def report_speed(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """Print the median of the ratios of neighbouring repeats."""
    ratio = statistics.median(bound / own for own, bound in zip(ours, theirs, strict=True))
    speeds = [IMAGES / statistics.median(times) for times in (ours, theirs)]
    print(
        f"extract: {speeds[0]:.1f} images/s into the store, {speeds[1]:.1f} through the bare {CARD.arch}: "
        f"ratio {ratio:.3f}, bar {SPEED_BAR:.2f} ({REPEATS} interleaved repeats of {IMAGES} images, batches "
        f"of {BATCH})"
    )
    return int(ratio < SPEED_BAR)


def report_bytes(added: float) -> int:
    """Print what the store holds beyond the features."""
    print(f"extract: {added:.1f} bytes an image beyond the features: bar {BYTES_BAR}")
    return int(added > BYTES_BAR)


if __name__ == "__main__":
    sys.exit(main())
