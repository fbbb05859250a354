"""Weather corruptions: snow, procedural frost, fog and brightness."""

import numpy as np
import scipy
from jaxtyping import Float

from ssleval.features.corruptions.blur import moved, zoomed
from ssleval.features.corruptions.pixels import Pixels

_LUMA = np.array([0.299, 0.587, 0.114])


def snow(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Whiten the image and add motion-blurred flakes."""
    mean, deviation, size, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
    )[severity - 1]
    flakes = zoomed(random.normal(mean, deviation, (*pixels.shape[:2], 1)), size)
    flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
    flakes = moved(flakes, radius, sigma, random.uniform(-135, -45))
    grey = (pixels @ _LUMA)[:, :, None]
    pale = kept * pixels + (1 - kept) * np.maximum(pixels, 1.5 * grey + 0.5)
    return pale + flakes + flakes[::-1, ::-1]


def procedural_frost(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Blend the image with a layer of ice needles, in the published proportions.

    The published frost is one of six photographs. Here the needles are the crests of noise stretched along
    three directions. They are bluish, and densest towards a random corner.
    """
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity - 1]
    height, width, _ = pixels.shape
    crests = np.zeros((height, width))
    for angle in random.uniform(0, 180, 3):
        noise = random.standard_normal((height, width, 1))
        needles = scipy.ndimage.gaussian_filter(moved(noise, 12, 6.0, float(angle))[:, :, 0], 0.7)
        crests = np.maximum(crests, (1 - np.abs(needles) / needles.std()).clip(0, 1) ** 4)
    corner = random.integers(0, 2, 2)
    down, across = (
        np.abs(np.linspace(0, 1, side) - end) for side, end in zip(crests.shape, corner, strict=True)
    )
    cover = 0.35 + 0.65 * (1 - np.hypot(down[:, None], across) / np.sqrt(2))
    veil = (0.3 + 0.7 * crests) * cover
    return kept * pixels + ice * veil[:, :, None] * np.array([0.85, 0.95, 1.0])


def fog(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Add a cloud, and scale the sum back to the brightest value of the image."""
    amount, roughness = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width, _ = pixels.shape
    cloud = plasma(max(height, width), roughness, random)[:height, :width, None]
    brightest = pixels.max()
    return (pixels + amount * cloud) * brightest / (brightest + amount)


def brightness(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Raise the value channel of HSV; hue and saturation stay."""
    raised = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value = pixels.max(axis=2, keepdims=True)
    # With hue and saturation fixed, all three channels scale in proportion; black becomes grey.
    hue = np.divide(pixels, value, out=np.ones_like(pixels), where=value > 0)
    return hue * (value + raised).clip(0, 1)


def plasma(side: int, decay: float, random: np.random.Generator) -> Float[np.ndarray, "s s"]:
    """Return a periodic cloud in [0, 1] by the diamond-square algorithm, of a power of two >= ``side``.

    Source: Fournier, Fussell and Carpenter 1982. Each halving divides the amplitude by ``decay`` squared.
    """
    size = 1 << (side - 1).bit_length()
    cloud = np.zeros((size, size))
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        rolled = corners + np.roll(corners, -1, 0)
        middle = _jittered((rolled + np.roll(rolled, -1, 1)) / 4, amplitude, random)
        cloud[half::step, half::step] = middle
        beside = (middle + np.roll(middle, 1, 0) + corners + np.roll(corners, -1, 1)) / 4
        below = (middle + np.roll(middle, 1, 1) + corners + np.roll(corners, -1, 0)) / 4
        cloud[::step, half::step] = _jittered(beside, amplitude, random)
        cloud[half::step, ::step] = _jittered(below, amplitude, random)
        step, amplitude = half, amplitude / decay**2
    cloud -= cloud.min()
    return cloud / cloud.max()


def _jittered(
    values: Float[np.ndarray, "h w"], amplitude: float, random: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    return values + random.uniform(-amplitude, amplitude, values.shape)
