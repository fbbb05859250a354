"""Noise corruptions: Gaussian, shot and impulse noise."""

import numpy as np

from ssleval.features.corruptions.pixels import Pixels


def gaussian_noise(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Add Gaussian noise, independent of the signal."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return pixels + deviation * random.standard_normal(pixels.shape)


def shot_noise(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Replace every value by a Poisson count of photons, relative to their number at full intensity."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return random.poisson(pixels * photons) / photons


def impulse_noise(pixels: Pixels, severity: int, random: np.random.Generator) -> Pixels:
    """Replace a fraction of all values by 0 or 1, each equally often."""
    fraction = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = random.random(pixels.shape) < fraction
    return np.where(hit, random.integers(0, 2, pixels.shape), pixels)
