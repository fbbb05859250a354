"""The fifteen common corruptions of images at five severities, generated on the fly and reproducibly.

Definitions and strengths are those published for 224-pixel images, in NumPy, SciPy and PIL. Images differ
from those of ImageNet-C in three ways. Frost is procedural, because the published photographs of ice cannot
be redistributed. Images are not saved as JPEG afterwards. The random draws are others.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, sec. 3 and app. B; hendrycks/robustness.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from ssleval.core import digest
from ssleval.core.corruptions import SEVERITIES
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.features.corruptions import blur, digital, noise, weather
from ssleval.features.corruptions.pixels import Pixels

__all__ = ["CORRUPTIONS", "SEVERITIES", "VERSION", "corrupt"]

VERSION = 1
"""Raised when a change moves a pixel; part of every fingerprint."""

Corruption: TypeAlias = Callable[[Pixels, int, np.random.Generator], Pixels]
"""Takes an image, a severity from 1 and a source of random numbers."""

CORRUPTIONS: Mapping[str, Corruption] = {
    function.__name__: function
    for function in (
        noise.gaussian_noise, noise.shot_noise, noise.impulse_noise,
        blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur,
        weather.snow, weather.procedural_frost, weather.fog, weather.brightness,
        digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression,
    )
}  # fmt: skip
"""In the order of the paper."""


def corrupt(
    pixels: UInt8[np.ndarray, "H W 3"], name: str, severity: int, item: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with one corruption; random draws depend on ``item``, name and severity alone."""
    if name not in CORRUPTIONS:
        raise UnknownNameError(f"no corruption {name!r}; {suggestion(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"{name}: severity {severity}; expected 1 to 5")
    random = np.random.default_rng(int(digest([VERSION, name, severity, item]), 16))
    corrupted = CORRUPTIONS[name](pixels.astype(np.float64) / 255, severity, random)
    return (corrupted.clip(0, 1) * 255).astype(np.uint8)
