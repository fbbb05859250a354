"""Random views of an image and its mask, as segmentation heads are trained on: scale, crop, flip, colours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssleval.core import IGNORED, Interpolation
from ssleval.errors import ConfigError

TRIES = 10
"""Crops rejected at most for one class that fills them."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18
"""Largest shift of 8-bit values; ranges of factors; largest turn of the hue in steps of 2 degrees."""
HUES = 180


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A random scale, a crop not filled by one class, a flip, and photometric distortion.

    Source:
        Resize, RandomCrop, RandomFlip and PhotoMetricDistortion of mmseg 0.x. Two things are PIL's here:
        resizing is antialiased, and hue and saturation are 8-bit values of its HSV.
    """

    size: int
    """Pixels of the short side before a random ratio."""
    ratios: tuple[float, ...]
    """Smallest and largest ratio."""
    crop: int
    """Largest side of what is cut out; smaller images stay whole."""
    cat_max_ratio: float
    """A crop is drawn anew while one class has at least this part of its labelled pixels, or all."""
    flip: float
    """Probability of a mirror image."""
    distortion: float
    """Probability of each of four distortions: brightness, contrast, saturation, hue."""
    interpolation: Interpolation

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if len(self.ratios) != 2 or not 0 < self.ratios[0] <= self.ratios[1]:
            raise ConfigError(
                f"augmentation: ratios={self.ratios}; expected two positive ones, the smaller first"
            )
        if min(self.size, self.crop) < 1 or not self.cat_max_ratio > 0:
            raise ConfigError(
                f"augmentation: size={self.size}, crop={self.crop}, cat_max_ratio={self.cat_max_ratio}; all "
                "must be positive"
            )
        if not (0 <= self.flip <= 1 and 0 <= self.distortion <= 1):
            raise ConfigError(
                f"augmentation: flip={self.flip}, distortion={self.distortion}; expected probabilities"
            )

    def __call__(
        self, image: Image.Image, mask: UInt8[np.ndarray, "H W"], generator: np.random.Generator
    ) -> tuple[UInt8[np.ndarray, "s t 3"], UInt8[np.ndarray, "s t"]]:
        """Return a view of at most ``crop`` pixels a side and its mask."""
        short = max(1, int(self.size * generator.uniform(self.ratios[0], self.ratios[1])))
        image = rescaled(image, short, self.interpolation)
        seen = np.array(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        rows, columns = self._window(seen, generator)
        pixels, seen = np.array(image)[rows, columns], seen[rows, columns]
        if generator.random() < self.flip:
            pixels, seen = pixels[:, ::-1], seen[:, ::-1]
        return distorted(pixels, self.distortion, generator), np.ascontiguousarray(seen)

    def _window(self, mask: UInt8[np.ndarray, "H W"], generator: np.random.Generator) -> tuple[slice, slice]:
        window = self._any_window(mask, generator)
        for _ in range(TRIES if self.cat_max_ratio < 1 else 0):
            counts = np.bincount(mask[window].ravel(), minlength=IGNORED + 1)[:IGNORED]
            if (counts > 0).sum() > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                break
            window = self._any_window(mask, generator)
        return window

    def _any_window(
        self, mask: UInt8[np.ndarray, "H W"], generator: np.random.Generator
    ) -> tuple[slice, slice]:
        top, left = (int(generator.integers(0, max(side - self.crop, 0) + 1)) for side in mask.shape)
        return slice(top, top + self.crop), slice(left, left + self.crop)


def rescaled(image: Image.Image, short: int, interpolation: Interpolation) -> Image.Image:
    """Return ``image`` with ``short`` pixels on its short side; both are rounded to the nearest pixel."""
    factor = short / min(image.size)
    width, height = (max(1, int(side * factor + 0.5)) for side in image.size)
    return image.resize((width, height), Image.Resampling[interpolation.upper()])


def distorted(
    pixels: UInt8[np.ndarray, "H W 3"], probability: float, generator: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Change brightness, contrast, saturation and hue, each with ``probability``; contrast second or last."""

    def chosen() -> bool:
        return bool(generator.random() < probability)

    def contrasted(values: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
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


def linear(
    pixels: UInt8[np.ndarray, "H W 3"], *, factor: float = 1.0, shift: float = 0.0
) -> UInt8[np.ndarray, "H W 3"]:
    """Return values times ``factor`` plus ``shift``, held to 0..255 and rounded down."""
    return (pixels.astype(np.float32) * factor + shift).clip(0, 255).astype(np.uint8)


def coloured(
    pixels: UInt8[np.ndarray, "H W 3"], saturation: float, turn: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image with its HSV saturation multiplied and its hue turned by a part of the circle."""
    hue, strength, value = Image.fromarray(np.ascontiguousarray(pixels)).convert("HSV").split()
    turned = (np.array(hue, dtype=np.int64) + round(turn * 256)) % 256
    scaled = (np.array(strength) * saturation).clip(0, 255)
    changed = [Image.fromarray(channel.astype(np.uint8)) for channel in (turned, scaled)]
    return np.array(Image.merge("HSV", [*changed, value]).convert("RGB"))
