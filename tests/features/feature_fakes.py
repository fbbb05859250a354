"""A small deterministic model and in-memory splits, also for the processes the tests start."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ssleval.core import (
    BackboneCard,
    Context,
    Dataset,
    DatasetCard,
    FeatureRequest,
    Geometry,
    RandomView,
    Readout,
    Split,
)
from ssleval.core.backbone import Backbone, Features, Tokens
from ssleval.errors import DataError

CARD = BackboneCard("tiny", "test", "tiny3", embed_dim=8, patch_size=4, image_size=16, mean=(0.5, 0.5, 0.5))
SQUARE = Geometry(16, "square")
CLS, MEAN, GEM, PATCHES = (Readout(kind) for kind in ("cls", "mean", "gem", "patches"))
POOLED = Readout("pooled")


class Tiny(Backbone):
    """Linear patches, three mixing blocks, a final norm; `log` gets a line for every forward pass."""

    def __init__(
        self,
        card: BackboneCard = CARD,
        *,
        cls: bool = True,
        seed: int = 0,
        scale: float = 1.0,
        log: Path | None = None,
        delay: float = 0.0,
    ) -> None:
        super().__init__(card, num_blocks=3)
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, card.embed_dim, card.patch_size, card.patch_size)
        self.blocks = nn.ModuleList(nn.Linear(card.embed_dim, card.embed_dim) for _ in range(3))
        self.final = nn.LayerNorm(card.embed_dim)
        self.token = nn.Parameter(torch.randn(card.embed_dim)) if cls else None
        self.drop = nn.Dropout(0.5)
        self.scale, self.log, self.delay = scale, log, delay
        self.calls: list[tuple[int, bool]] = []

    def __getstate__(self) -> dict[str, object]:
        """Leave out what does not decide features."""
        return {name: value for name, value in vars(self).items() if name not in {"log", "delay", "calls"}}

    def extract(self, images: Tensor, blocks: Sequence[int], *, norm: bool) -> Features:
        self.calls.append((len(images), norm))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{len(images)}\n")
        time.sleep(self.delay)
        grid = self.embed(images).permute(0, 2, 3, 1)
        token = grid.mean((1, 2)) + (0 if self.token is None else self.token)
        kept: dict[int, Tokens] = {}
        for index, block in enumerate(self.blocks):
            grid = self.drop(grid + torch.tanh(block(grid)))
            token = token + torch.tanh(block(token)) + grid.mean((1, 2))
            close = self.final if norm else nn.Identity()
            scaled = self.scale * close(grid)
            kept[index] = Tokens(scaled, None if self.token is None else close(token))
        return Features(self.final(token), tuple(kept[block] for block in blocks))


@dataclass(frozen=True)
class Noise:
    """Image i is noise seeded by i; the rows in `corrupt` cannot be decoded."""

    size: tuple[int, int] = (20, 24)
    seed: int = 0
    corrupt: tuple[int, ...] = ()
    vary: bool = False

    def __call__(self, index: int) -> Image.Image:
        if index in self.corrupt:
            raise DataError(f"image_{index}.jpg: truncated")
        width, height = self.size
        if self.vary:
            width += 4 * (index % 3)
        pixels = np.random.default_rng([self.seed, index]).integers(
            0, 256, (height, width, 3), dtype=np.uint8
        )
        return Image.fromarray(pixels)


def split_of(n: int, image: Noise | None = None, fingerprint: str = "f") -> Split:
    ids = [f"image_{index}.jpg" for index in range(n)]
    return Split(ids, image or Noise(), np.arange(n), fingerprint)


def dataset_of(split: Split, name: str = "noise", names: Sequence[str] = ("train",)) -> Dataset:
    card = DatasetCard(name, target="none", lengths=dict.fromkeys(names, len(split)))
    return Dataset(card, lambda _: split)


def request_of(
    dataset: Dataset,
    *readouts: Readout,
    geometry: Geometry | RandomView | None = SQUARE,
    split: str = "train",
) -> FeatureRequest:
    return FeatureRequest(dataset, split, geometry, readouts or (POOLED,))


def context_of(cache: Path, **changes: object) -> Context:
    return replace(Context(cache=cache, batch_size=4, progress=False), **changes)  # pyright: ignore[reportArgumentType]
