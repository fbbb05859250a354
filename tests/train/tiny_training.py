"""The smallest training that has every part."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssleval.train.config import TrainConfig, read_config

SETTINGS = (
    "model.arch=vit_tiny", "model.dim=16", "model.depth=2", "model.heads=2", "model.patch_size=4",
    "views.global_size=16", "views.local_size=8", "views.local_crops=2", "head.prototypes=32",
    "head.hidden=24", "head.bottleneck=8", "run.batch_size=4", "run.epochs=2", "run.log_every=2",
    "optim.warmup_epochs=1", "loss.warmup_teacher_temp_epochs=1",
)  # fmt: skip


def tiny(*settings: str, recipe: str = "dino") -> TrainConfig:
    """Return a recipe with `SETTINGS`, then ``settings``."""
    return read_config(recipe, [*SETTINGS, *settings])


@contextmanager
def in_double() -> Generator[None]:
    """Compute everything in float64 inside, where no rounding hides a difference."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            yield
    finally:
        torch.set_default_dtype(before)


def pictures(folder: Path, count: int = 12) -> str:
    """Write pictures of two sizes and return the name of the dataset they are."""
    random = np.random.default_rng(0)
    for index in range(2 * count):
        side = (20, 24) if index % 3 else (18, 18)
        for split in ("train", "test") if index < count else ("test",):
            path = folder / split / f"class{index % 2}" / f"{index:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            small.resize(side, Image.Resampling.BICUBIC).save(path)
    return f"folder:{folder}"


def losses(lines: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Return step and loss of every step of a log."""
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def without_teacher(objective: str, *settings: str) -> TrainConfig:
    """Return `SETTINGS` of an objective that has no teacher, then ``settings``."""
    shared = [setting for setting in SETTINGS if not setting.startswith(("head.", "loss."))]
    small = [] if objective in {"simclr", "mae"} else [f"{objective}.hidden=24", f"{objective}.projection=8"]
    return read_config(objective, [*shared, "model.drop_path=0", "run.precision=fp32", *small, *settings])
