"""One GPU kept busy: JPEG files through a ViT-B/14 in bf16, against the bare forward on decoded tensors.

The bound is the lower of two: what the model alone takes from tensors on its device, and what one core
decodes times the cores. Processes start in seconds, of which a long run notices nothing: the speed is that of
the images by which a longer pass exceeds a shorter one.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from benchmarks.speed.decode import ours, seconds, write_jpegs
from ssleval.core import BackboneCard, Context, Dataset, DatasetCard, FeatureRequest, Geometry, Readout, Split
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.core.devices import usable_device
from ssleval.datasets.files.images import file_split
from ssleval.features import FeatureSource

SIDE = 224
SPEED_BAR = 0.90
"""Images per second with fast pixels, as a part of the bound."""
GEOMETRY = Geometry(256, "short", SIDE, "bicubic")
ARCHITECTURES = {
    "vit_base_patch14_dinov2": (768, 14, 12),
    "vit_tiny_patch16_224": (192, 16, 12),
}
"""Channels, patch size and blocks; the small one is for trying the script."""


class Untrained(Backbone):
    """A ViT of timm with random weights."""

    def __init__(self, arch: str) -> None:
        width, patch, depth = ARCHITECTURES[arch]
        super().__init__(
            BackboneCard(arch, "timm", arch, embed_dim=width, patch_size=patch), num_blocks=depth
        )
        torch.manual_seed(0)
        self.model: nn.Module = timm.create_model(arch, pretrained=False, num_classes=0, img_size=SIDE)

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Return the class token, and the patches of the last block where they are asked for."""
        tokens: Tensor = self.model.forward_features(images)  # pyright: ignore[reportCallIssue, reportAssignmentType]
        side = SIDE // self.card.patch_size
        last = Tokens.from_sequence(tokens, (side, side))
        return Features(tokens[:, 0], (last,) * len(blocks))


def bare(backbone: Backbone, batch: int, count: int, device: str) -> float:
    """Return the images per second of nothing but forward passes in bf16 over tensors on the device."""
    pixels = torch.rand(batch, 3, SIDE, SIDE, device=device)

    def run(times: int) -> None:
        with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
            for _ in range(times - 1):
                backbone.extract(pixels, (), norm=True)
            backbone.extract(pixels, (), norm=True).pooled.cpu()

    run(2)
    times = max(2, count // batch)
    started = time.perf_counter()
    run(times)
    return times * batch / (time.perf_counter() - started)


def repeated(split: Split, count: int) -> Dataset:
    """Return so many items, of which the images repeat."""
    rows = torch.arange(count).remainder(len(split)).numpy()
    part = split.subset(rows)
    renamed = Split([f"{row:07}" for row in range(count)], part.image, None, f"{split.fingerprint}{count}")
    return Dataset(DatasetCard("jpegs", target="none", lengths={"train": count}), lambda _: renamed)


def extracted(
    backbone: Backbone, split: Split, counts: tuple[int, int], context: Context, readouts: tuple[Readout, ...]
) -> float:
    """Return the images per second of the second of two passes beyond the first."""
    taken: list[float] = []
    for count in counts:
        request = FeatureRequest(repeated(split, count), "train", GEOMETRY, readouts)
        source = FeatureSource(backbone, context)
        source.prepare([request])
        (done,) = source.counts.values()
        taken.append(done.seconds)
    return (counts[1] - counts[0]) / (taken[1] - taken[0])


def main(arguments: Sequence[str]) -> int:
    """Print the speeds and the bar; return 1 where fast pixels fall short of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--arch", default="vit_base_patch14_dinov2", choices=ARCHITECTURES)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--jpegs", type=int, default=512)
    asked = parser.parse_args(arguments)
    device, workers = usable_device(asked.device), asked.workers
    backbone = Untrained(asked.arch).to(device).eval()
    alone = bare(backbone, asked.batch_size, asked.images // 2, device)
    print(f"gpu: {asked.arch} bf16 on {device}: bare forward {alone:,.0f} images/s", flush=True)
    pooled, both = (Readout("pooled"),), (Readout("pooled"), Readout("patches"))
    kinds: tuple[Literal["exact", "fast"], ...] = ("exact", "fast")
    with tempfile.TemporaryDirectory() as folder:
        split = file_split(Path(folder), write_jpegs(Path(folder), asked.jpegs))
        torch.set_num_threads(1)
        part = split.subset(torch.arange(min(64, asked.jpegs)).numpy())
        ratios: dict[str, float] = {}
        for pixels in kinds:
            ours(part, pixels)
            core = len(part) / seconds(lambda pixels=pixels: ours(part, pixels))
            context = Context(
                device, "bf16", asked.batch_size, workers, cache=Path(folder) / pixels, progress=False,
                pixels=pixels,
            )  # fmt: skip
            counts = (asked.images // 5, asked.images)
            speed = extracted(backbone, split, counts, context, pooled)
            bound = min(alone, max(1, workers) * core)
            ratios[pixels] = speed / bound
            print(
                f"gpu: {pixels} pixels: {speed:,.0f} images/s from files to features, one core decodes "
                f"{core:,.0f}, {workers} processes: {ratios[pixels]:.3f} of the bound of {bound:,.0f}",
                flush=True,
            )
        fewer = (asked.images // 20, asked.images // 8)
        context = Context(
            device, "bf16", asked.batch_size, workers, cache=Path(folder) / "grids", progress=False,
            pixels="fast",
        )  # fmt: skip
        speed = extracted(backbone, split, fewer, context, both)
        print(f"gpu: fast pixels, patch grids stored as well: {speed:,.0f} images/s", flush=True)
    print(f"gpu: fast {ratios['fast']:.3f} of the bound, bar {SPEED_BAR:.2f}")
    return int(ratios["fast"] < SPEED_BAR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
