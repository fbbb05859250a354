"""Augmentation of an image and its mask for segmentation: random scale, crop, flip and colours."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import IGNORED, Interpolation
from ssleval.core.settings import Count, Fraction, Pair, Positive, check
from ssleval.errors import ConfigError

Pixels: TypeAlias = UInt8[np.ndarray, "H W 3"]
Mask: TypeAlias = UInt8[np.ndarray, "H W"]

TRIES = 10
"""Largest number of times that a crop is drawn anew because one class fills it."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18
"""Largest shift of 8-bit values; ranges of factors; largest rotation of the hue in steps of 2 degrees."""
HUES = 180


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random scale, random crop not filled by one class, random flip, and photometric distortion.

    Source:
        Resize, RandomCrop, RandomFlip and PhotoMetricDistortion of mmseg 0.x, but for two properties of
        PIL: resizing is antialiased, and hue and saturation are 8-bit HSV values.
    """

    size: Count
    """Pixels of the short side before a random ratio."""
    ratios: Pair
    """Smallest and largest ratio."""
    crop: Count
    """Largest side of a crop; smaller images are not cropped."""
    cat_max_ratio: Positive
    """A crop is drawn anew while one class has at least this fraction of its labelled pixels, or all."""
    flip: Fraction
    """Probability of a horizontal flip."""
    distortion: Fraction
    """Probability of each of four distortions: brightness, contrast, saturation, hue."""
    interpolation: Interpolation

    def __post_init__(self) -> None:
        check(self, "augmentation")
        if self.ratios[0] > self.ratios[1]:
            raise ConfigError(f"augmentation: ratios={self.ratios}; expected the smaller first")

    def __call__(
        self, image: Image.Image, mask: Mask, generator: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "s t 3"], UInt8[np.ndarray, "s t"]]:
        """Return a view of at most ``crop`` pixels a side and its mask."""
        short = max(1, int(self.size * generator.uniform(self.ratios[0], self.ratios[1])))
        image = rescaled(image, short, self.interpolation)
        labels = np.array(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        window = self._window(labels, generator)
        pixels, labels = np.array(image)[window], labels[window]
        if generator.random() < self.flip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        return distorted(pixels, self.distortion, generator), np.ascontiguousarray(labels)

    def _window(self, mask: Mask, generator: np.random.Generator) -> tuple[slice, slice]:
        window = slice(0), slice(0)
        for _ in range(1 + TRIES):
            top, left = (int(generator.integers(0, max(side - self.crop, 0) + 1)) for side in mask.shape)
            window = slice(top, top + self.crop), slice(left, left + self.crop)
            counts = np.bincount(mask[window].ravel(), minlength=IGNORED + 1)[:IGNORED]
            mixed = (counts > 0).sum() > 1 and counts.max() / counts.sum() < self.cat_max_ratio
            if mixed or self.cat_max_ratio >= 1:
                break
        return window


def rescaled(image: Image.Image, short: int, interpolation: Interpolation) -> Image.Image:
    """Return ``image`` with ``short`` pixels on its short side; sides are rounded to the nearest pixel."""
    factor = short / min(image.size)
    width, height = (max(1, int(side * factor + 0.5)) for side in image.size)
    return image.resize((width, height), Image.Resampling[interpolation.upper()])


def distorted(pixels: Pixels, probability: float, generator: np.random.Generator) -> Pixels:
    """Distort brightness, contrast (second or last), saturation and hue, each with ``probability``."""

    def chosen() -> bool:
        return bool(generator.random() < probability)

    def contrasted(values: Pixels) -> Pixels:
        return linear(values, factor=generator.uniform(*CONTRAST)) if chosen() else values

    if chosen():
        pixels = linear(pixels, shift=generator.uniform(-BRIGHTNESS, BRIGHTNESS))
    early = generator.random() < 0.5
    if early:
        pixels = contrasted(pixels)
    saturation = generator.uniform(*SATURATION) if chosen() else 1.0
    turn = int(generator.integers(-HUE, HUE)) if chosen() else 0
    if saturation != 1.0 or turn:
        pixels = coloured(pixels, saturation, turn / HUES)
    return np.ascontiguousarray(pixels if early else contrasted(pixels))


def linear(pixels: Pixels, *, factor: float = 1.0, shift: float = 0.0) -> Pixels:
    """Return values times ``factor`` plus ``shift``, clipped to 0..255 and rounded down."""
    return (pixels.astype(np.float32) * factor + shift).clip(0, 255).astype(np.uint8)


def coloured(pixels: Pixels, saturation: float, turn: float) -> Pixels:
    """Return the image with its HSV saturation multiplied and its hue rotated by a fraction of the circle."""
    hue, strength, value = Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV").split()
    turned = (np.array(hue, dtype=np.int64) + round(turn * 256)) % 256
    scaled = (np.array(strength) * saturation).clip(0, 255)
    changed = [Image.fromarray(channel.astype(np.uint8)) for channel in (turned, scaled)]
    return np.array(Image.merge("HSV", [*changed, value]).convert("RGB"))
