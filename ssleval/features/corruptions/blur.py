"""Blur corruptions: defocus, frosted glass, motion and zoom."""

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image

from ssleval.features.corruptions.pixels import Pixels


def defocus_blur(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Convolve with a disk, as a lens out of focus does."""
    radius, smoothing = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    kernel = _disk(radius, smoothing)
    reach = len(kernel) // 2
    padded = np.pad(pixels, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return scipy.signal.fftconvolve(padded, kernel[:, :, None], mode="valid", axes=(0, 1))


def glass_blur(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Swap pixels with neighbours, between two slight Gaussian blurs."""
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    height, width, _ = pixels.shape
    blurred = scipy.ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest").reshape(-1, 3)
    order = np.arange(height * width).reshape(height, width)
    inner = order[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1][::-1, ::-1].reshape(-1)
    places = order.reshape(-1).tolist()
    for _ in range(rounds):
        down, right = random.integers(-reach, reach, size=(2, len(inner)))
        # One by one, as published: a pixel may travel far. Lists are ten times faster than arrays.
        for here, there in zip(inner.tolist(), (inner + down * width + right).tolist(), strict=True):
            places[here], places[there] = places[there], places[here]
    shuffled = blurred[places].reshape(pixels.shape)
    return scipy.ndimage.gaussian_filter(shuffled, (sigma, sigma, 0), mode="nearest")


def motion_blur(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Blur along a line of random direction."""
    radius, sigma = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))[severity - 1]
    return moved(pixels, radius, sigma, random.uniform(-45, 45))


def zoom_blur(pixels: Pixels, severity: int, _: np.random.Generator) -> Pixels:
    """Average the image and its enlargements about the centre."""
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    factors = np.arange(1, stop, step)
    return (pixels + sum(zoomed(pixels, float(factor)) for factor in factors)) / (len(factors) + 1)


def moved(
    pixels: Float[np.ndarray, "H W c"], radius: int, sigma: float, angle: float
) -> Float[np.ndarray, "H W c"]:
    """Return the average along a line to one side of every pixel, with half-Gaussian weights.

    ``angle`` is in degrees from the horizontal; the line has ``2 * radius + 1`` pixels, edges are repeated.
    Source: ImageMagick's ``-motion-blur``, with which the published images were made.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    down = np.ceil(steps * np.sin(np.radians(angle)) - 0.5).astype(int)
    right = np.ceil(steps * np.cos(np.radians(angle)) - 0.5).astype(int)
    height, width, _ = pixels.shape
    rows, columns = np.arange(height), np.arange(width)
    total = np.zeros_like(pixels)
    for weight, dy, dx in zip(weights, down, right, strict=True):
        source = pixels[(rows + dy).clip(0, height - 1)][:, (columns + dx).clip(0, width - 1)]
        total += weight * source
    return total


def zoomed(pixels: Float[np.ndarray, "H W c"], factor: float) -> Float[np.ndarray, "H W c"]:
    """Return the centre enlarged by ``factor``, bilinearly, at the size of the whole."""
    height, width, _ = pixels.shape
    left, top = width * (1 - 1 / factor) / 2, height * (1 - 1 / factor) / 2
    box = (left, top, width - left, height - top)
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box)
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack([np.asarray(plane, dtype=np.float64) for plane in planes], axis=2)


def _disk(radius: int, smoothing: float) -> Float[np.ndarray, "k k"]:
    """Return a disk of weight 1 whose edge is softened by a small Gaussian kernel."""
    reach, side = max(8, radius), 3 if radius <= 8 else 5
    axis = np.arange(-reach, reach + 1)
    disk = (axis**2 + axis[:, None] ** 2 <= radius**2).astype(np.float64)
    bell = np.exp(-(np.arange(-(side // 2), side // 2 + 1) ** 2) / (2 * smoothing**2))
    soft = scipy.signal.fftconvolve(disk, np.outer(bell, bell), mode="same")
    return soft / soft.sum()
