"""Augmentation by timm's own parts, every draw a function of what it is for."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import digest

_ONE_AT_A_TIME = RLock()


@contextmanager
def drawn(*key: Any, device: str = "cpu") -> Generator[None]:
    """Draw inside from generators seeded by ``key``; those of Python, NumPy and torch stay as they were."""
    seed, forked = int(digest(list(key))[:15], 16), [device] if device.startswith("cuda") else []
    with _ONE_AT_A_TIME, torch.random.fork_rng(forked):
        before = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@dataclass(frozen=True, slots=True)
class RandAugment:
    """timm's ``rand-mM-mstd0.5-inc1`` of crops of ``size`` pixels; can be pickled."""

    magnitude: int
    size: int
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]: the colour of what comes in from outside."""
    seed: int

    def __call__(self, pixels: UInt8[np.ndarray, "s s 3"], item: str) -> UInt8[np.ndarray, "s s 3"]:
        """Return an image changed by what is drawn for ``item``."""
        with drawn("randaugment", item, self.seed):
            changed = _transform(self.magnitude, self.size, self.mean)(Image.fromarray(pixels))
        return np.array(changed, np.uint8)


@cache
def _transform(magnitude: int, size: int, mean: tuple[float, float, float]) -> Any:
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    return rand_augment_transform(f"rand-m{magnitude}-mstd0.5-inc1", settings)
