"""The fifteen common corruptions of images at five severities, made on the fly and always the same.

Definitions and strengths are those published for 224-pixel images, in NumPy, SciPy and PIL. Three
things keep results from being those of ImageNet-C: frost is procedural, for the photographs of ice are
not ours to ship; pictures are not saved as JPEG afterwards; random draws are others.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, sec. 3 and app. B; hendrycks/robustness.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from ssleval.core import digest
from ssleval.core.registry import suggestion
from ssleval.errors import ConfigError, UnknownNameError
from ssleval.features.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from ssleval.features.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from ssleval.features.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from ssleval.features.corruptions.weather import brightness, fog, procedural_frost, snow

__all__ = ["CORRUPTIONS", "SEVERITIES", "VERSION", "corrupt"]

VERSION = 1
"""Raised when a change moves a pixel; part of every fingerprint."""

SEVERITIES = (1, 2, 3, 4, 5)

Corruption: TypeAlias = Callable[
    [Float[np.ndarray, "H W 3"], int, np.random.Generator], Float[np.ndarray, "H W 3"]
]
"""RGB in [0, 1], severity from 1 and random numbers to RGB that may leave [0, 1]."""

CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "procedural_frost": procedural_frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
"""In the order of the paper."""


def corrupt(
    pixels: UInt8[np.ndarray, "H W 3"], name: str, severity: int, item: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture with one corruption; random draws follow from ``item``, name and severity.

    Raises:
        UnknownNameError: no corruption of this name.
        ConfigError: a severity outside 1 to 5.
    """
    if name not in CORRUPTIONS:
        raise UnknownNameError(f"no corruption {name!r}; {suggestion(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"{name}: severity {severity}; expected 1 to 5")
    random = np.random.default_rng(int(digest([VERSION, name, severity, item]), 16))
    changed = CORRUPTIONS[name](pixels.astype(np.float64) / 255, severity, random)
    return (changed.clip(0, 1) * 255).astype(np.uint8)
