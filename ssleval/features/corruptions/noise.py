"""Noise of sensors and of transmission."""

import numpy as np
from jaxtyping import Float


def gaussian_noise(
    pixels: Float[np.ndarray, "H W 3"], severity: int, random: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """Add noise of poor light: normal, independent of the signal."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return pixels + deviation * random.standard_normal(pixels.shape)


def shot_noise(
    pixels: Float[np.ndarray, "H W 3"], severity: int, random: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """Count photons: Poisson, with so many of them for full intensity."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return random.poisson(pixels * photons) / photons


def impulse_noise(
    pixels: Float[np.ndarray, "H W 3"], severity: int, random: np.random.Generator
) -> Float[np.ndarray, "H W 3"]:
    """Flip bits: a fraction of all values becomes 0 or 1, each equally often."""
    fraction = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = random.random(pixels.shape) < fraction
    return np.where(hit, random.integers(0, 2, pixels.shape), pixels)
