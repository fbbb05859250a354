"""Label-free scores of a feature matrix, each as the mean of one contribution per image.

A score of a spectrum is not a mean over images. The contribution of an image is the score plus the image's
influence: the first-order change of the score as the image gains weight. Influences average to zero, so the
contributions average to the score, and their mean has the interval of the delta method. Drawing images again
instead would cost an eigendecomposition per draw and be biased: repeated images lower ranks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssleval.core.text import counted
from ssleval.errors import DataError

_ROWS = 8192
_NEGLIGIBLE = 1e-12
"""Eigenvalues below this fraction of the largest are rounding errors and count as zero."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Second moments of features along their principal axes."""

    values: Float[np.ndarray, " r"]
    """Mean squared coordinate along each axis, decreasing; axes with value zero are left out."""
    squares: Float[np.ndarray, "n r"]
    """Squared coordinate of every image along every axis; columns average to ``values``."""

    def contributions(self, number: float, slopes: Float[np.ndarray, " r"]) -> Float[np.ndarray, " n"]:
        """Return ``number`` plus each image's influence; ``slopes`` are its derivatives by ``values``."""
        return number + (self.squares - self.values) @ slopes


def eigenspectrum(features: Float[np.ndarray, "n d"], *, centred: bool) -> Spectrum:
    """Decompose the second moments of features in float64; ``centred`` subtracts the mean first.

    Raises:
        DataError: fewer than two images, or all features are equal (or zero).
    """
    if len(features) < 2:
        raise DataError(f"spectrum: {counted(len(features), 'image')}; it needs at least 2")
    mean = np.mean(features, axis=0, dtype=np.float64) if centred else np.zeros(features.shape[1])
    moments = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS].astype(np.float64) - mean
        moments += rows.T @ rows
    values, axes = np.linalg.eigh(moments / len(features))
    if not values[-1] > 1e-24:
        raise DataError("spectrum: all images have the same features; the backbone or its input is broken")
    kept = np.flatnonzero(values > _NEGLIGIBLE * values[-1])[::-1]
    squares = np.empty((len(features), len(kept)))
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS].astype(np.float64) - mean
        squares[start : start + _ROWS] = (rows @ axes[:, kept]) ** 2
    return Spectrum(squares.mean(axis=0), squares)


def effective_rank(spectrum: Spectrum) -> Float[np.ndarray, " n"]:
    """Return contributions to the exponential of the entropy of the normalised singular values.

    It is 1 if one direction holds all variance, and the number of dimensions if all hold the same.

    Source:
        RankMe, Garrido et al. 2023, arXiv:2210.02885, eq. 1, on features that are not centred.
    """
    singular = np.sqrt(spectrum.values)
    share = singular / singular.sum()
    entropy = -(share * np.log(share)).sum()
    rank = float(np.exp(entropy))
    by_singular = -(np.log(share) + entropy) / singular.sum()
    return spectrum.contributions(rank, rank * by_singular / (2 * singular))


def alpha_req(spectrum: Spectrum, first: int, last: int) -> Float[np.ndarray, " n"]:
    """Return contributions to the decay exponent of the eigenvalues of the covariance.

    It is minus the slope of log eigenvalue against log rank, over ranks ``first`` (counted from 1) to
    ``last`` or the last there is; rank j has weight 1 / j.

    Raises:
        DataError: fewer than two eigenvalues in that range.

    Source:
        Agrawal et al. 2022, "alpha-ReQ"; the weighting is Stringer et al. 2019's.
    """
    ranks = np.arange(first, min(last, len(spectrum.values)) + 1)
    if len(ranks) < 2:
        raise DataError(
            f"spectrum: {counted(len(spectrum.values), 'direction')} with variance, alpha-ReQ needs two of "
            f"{first}..{last}; use more images or a wider range (spectrum.first, spectrum.last)"
        )
    x, weight = np.log(ranks), 1 / ranks
    centred = x - np.average(x, weights=weight)
    coefficients = -weight * centred / (weight * centred**2).sum()
    values = spectrum.values[ranks - 1]
    slopes = np.zeros(len(spectrum.values))
    slopes[ranks - 1] = coefficients / values
    return spectrum.contributions(float(coefficients @ np.log(values)), slopes)


def variance_explained(spectrum: Spectrum, components: int) -> Float[np.ndarray, " n"]:
    """Return contributions to the fraction of the variance in the first ``components``."""
    total = spectrum.values.sum()
    share = float(spectrum.values[:components].sum() / total)
    leading = np.arange(len(spectrum.values)) < components
    return spectrum.contributions(share, (leading - share) / total)


def uniformity(
    features: Float[np.ndarray, "n d"], *, t: float, limit: int, seed: int
) -> Float[np.ndarray, " n"]:
    """Return contributions to the log of the mean Gaussian potential between pairs of unit vectors.

    It is ``log mean exp(-t ||x - y||^2)`` over pairs of different images: 0 if all features have one
    direction, and lower the more evenly they cover the sphere. All pairs of ``limit`` images drawn with
    ``seed`` are used; contributions of the other images are NaN.

    Source:
        Wang and Isola 2020, arXiv:2005.10242, eq. 2.
    """
    rows = np.arange(len(features))
    if len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
    vectors = features[rows].astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    potential = np.empty(len(rows))
    for start in range(0, len(rows), 1024):
        cosines = vectors[start : start + 1024] @ vectors.T
        at = np.arange(len(cosines))
        cosines[at, start + at] = -np.inf
        potential[start : start + 1024] = np.exp(2 * t * (cosines - 1)).sum(axis=1) / (len(rows) - 1)
    mean = potential.mean()
    contributions = np.full(len(features), np.nan)
    contributions[rows] = np.log(mean) + 2 * (potential - mean) / mean
    return contributions


def dead_dimensions(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return the fraction of dimensions with the same value on all images, repeated for every image."""
    low, high = features.min(axis=0), features.max(axis=0)
    return np.full(len(features), float((low == high).mean()))
