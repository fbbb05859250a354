"""Four small models in one sweep against one of them, from JPEGs to results, where decoding is the limit.

The bound: images are decoded once, so that each further model costs its forward passes alone, which are
timed on decoded batches. A JPEG of 500 x 375 takes some 4 ms of a core to decode and resize exactly. The
models are narrow vision transformers of half a millisecond an image, as a small model on a GPU is beside its
decoding processes: a bound of 1.35. Beyond it, each further model writes features (flushed eight times),
compares them with four images of each pass, searches neighbours and writes a result: 0.1 to 0.2 s, whatever
the number of images. Four one after another would take four times as long as one.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from benchmarks.speed.decode import write_jpegs
from ssleval.core import BackboneCard, Context
from ssleval.core.backbone import Backbone, Features, Loader, Tokens, WeightsFrom, backbones
from ssleval.errors import SslevalError
from ssleval.run.sweep import Sweep, sweep

IMAGES, BATCH = 1024, 32
MODELS, REPEATS = 4, 5
BAR = 1.60
"""Seconds of four models, by those of one."""


class Narrow(Backbone):
    """A vision transformer of one block and 64 channels, with random weights."""

    def __init__(self, card: BackboneCard) -> None:
        super().__init__(card, num_blocks=1)
        torch.manual_seed(int(card.arch))
        self.model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, embed_dim=64, depth=1, num_heads=2, patch_size=32
        )

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:  # noqa: ARG002
        """Return the class token and patches of the last block."""
        tokens: Tensor = self.model.forward_features(images)  # pyright: ignore[reportCallIssue]
        grid = tokens[:, 1:].unflatten(1, (7, 7))
        return Features(tokens[:, 0], tuple(Tokens(grid, tokens[:, 0]) for _ in blocks))


def _card(name: str) -> BackboneCard:
    return BackboneCard(f"narrow:{name}", "narrow", name, embed_dim=64, patch_size=32, image_size=224)


def _build(card: BackboneCard, weights: WeightsFrom) -> Backbone:  # noqa: ARG001
    return Narrow(card)


backbones.register("narrow")(Loader(_card, _build))


def write_classes(folder: Path) -> None:
    """Write a folder of two classes in two splits."""
    for split in ("train", "test"):
        for label in ("first", "second"):
            place = folder / split / label
            place.mkdir(parents=True)
            write_jpegs(place, IMAGES // 4)


def swept(images: Path, cache: Path, models: int, at_once: int = 0) -> float:
    """Return the seconds of a sweep with nothing stored."""
    names = ",".join(f"narrow:{index}" for index in range(models))
    asked = Sweep(names, "knn", f"folder:{images}", models_at_once=at_once)
    context = Context("cpu", num_workers=0, cache=cache, progress=False)
    started = time.perf_counter()
    outcomes = list(sweep(asked, context, cache / "results", note=lambda _: None))
    assert len(outcomes) == models
    assert not [one for one in outcomes if isinstance(one, SslevalError)]
    return time.perf_counter() - started


def forwards() -> float:
    """Return the seconds of the forward passes of one model over all images."""
    backbone = Narrow(_card("0")).eval()
    images = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    started = time.perf_counter()
    for _ in range(IMAGES // BATCH):
        backbone(images)
    return time.perf_counter() - started


def main() -> int:
    """Print the comparison; return 1 where it falls short of its bar."""
    torch.set_num_threads(1)
    one: list[float] = []
    together: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_classes(folder / "images")
        swept(folder / "images", folder / "warm", 1)
        apart = swept(folder / "images", folder / "apart", MODELS, 1)
        for repeat in range(REPEATS):
            one.append(swept(folder / "images", folder / f"one{repeat}", 1))
            bare.append(forwards())
            together.append(swept(folder / "images", folder / f"together{repeat}", MODELS))
    ratio = statistics.median(many / single for many, single in zip(together, one, strict=True))
    bound = statistics.median(1 + (MODELS - 1) * own / single for own, single in zip(bare, one, strict=True))
    print(
        f"sweep: {MODELS} models {statistics.median(together):.2f} s, one {statistics.median(one):.2f} s: "
        f"ratio {ratio:.2f}, bar {BAR:.2f}, bound {bound:.2f}; one by one {apart:.2f} s ({REPEATS} "
        f"interleaved repeats of {IMAGES} JPEGs of 500 x 375, k-NN)"
    )
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
