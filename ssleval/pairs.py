"""What a pair of images says of its correspondences: key points, or depth and cameras.

A pair is one item of a split, its first image that of `Split.image`; the target carries the other. So
any subset of a split keeps its pairs whole.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

__all__ = ["KeyPoints", "Views"]


class KeyPoints(NamedTuple):
    """Points of one thing that both images show; row j is the same point in both."""

    names: tuple[str, str]
    """Of the two images: equal names, equal images."""
    partner: Image.Image
    """The second image, RGB."""
    points: Float32[np.ndarray, "k 2"]
    """Column and row in pixels from the corner of the first image, pixel centres at halves."""
    partner_points: Float32[np.ndarray, "k 2"]
    """The same points in the second image."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the thing in the second image, in pixels."""
    category: int = 0
    """Of the thing, where scores are also averaged category by category."""


class Views(NamedTuple):
    """One place seen by a camera of known motion; both images have the size of their depth."""

    names: tuple[str, str]
    """Of the two images: equal names, equal images."""
    partner: Image.Image
    """The second image, RGB."""
    depths: tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]
    """Metres along the axis of each camera, 0 where unknown."""
    intrinsics: tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3 3"]]
    """Of each camera, in pixels from the corner of its image."""
    motion: Float64[np.ndarray, "4 4"]
    """Takes points from the frame of the first camera into that of the second, in metres."""
