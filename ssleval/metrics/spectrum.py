"""Label-free numbers of a feature matrix, each as the mean of one contribution per image.

A spectrum is not a mean over images, but it moves with each of them: a contribution is the number itself
plus the first-order change (the influence function) when that image gains weight. Influences average to
zero, so the contributions average to the number exactly, and resampling them gives the interval of the
delta method. Resampling images and decomposing anew would cost an eigendecomposition per resample, and
is biased besides: drawing images twice lowers ranks.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssleval.errors import DataError

_ROWS = 8192
_NEGLIGIBLE = 1e-12
"""Eigenvalues below this fraction of the largest are rounding, and count as zero."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Second moments of features along their principal axes."""

    values: Float[np.ndarray, " r"]
    """Mean squared coordinate along each axis, decreasing; axes without any are left out."""
    squares: Float[np.ndarray, "n r"]
    """Squared coordinate of every image along every axis; columns average to ``values``."""

    def contributions(self, number: float, slopes: Float[np.ndarray, " r"]) -> Float[np.ndarray, " n"]:
        """Return ``number`` plus each image's influence, for ``slopes`` of the number by each value."""
        return number + (self.squares - self.values) @ slopes


def eigenspectrum(features: Float[np.ndarray, "n d"], *, centred: bool) -> Spectrum:
    """Decompose the second moments of features, in float64; ``centred`` subtracts the mean first.

    Raises:
        DataError: fewer than two images, or all features are equal (or zero).
    """
    if len(features) < 2:
        raise DataError(f"spectrum: {len(features)} images; it needs at least 2")
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
    """Return contributions to the exponential of the entropy of normalised singular values.

    1 when one direction holds everything, the number of dimensions when all hold the same.

    Source:
        RankMe, Garrido et al. 2023, arXiv:2210.02885, eq. 1, on features as they are, not centred.
    """
    singular = np.sqrt(spectrum.values)
    share = singular / singular.sum()
    entropy = -(share * np.log(share)).sum()
    rank = float(np.exp(entropy))
    by_singular = -(np.log(share) + entropy) / singular.sum()
    return spectrum.contributions(rank, rank * by_singular / (2 * singular))


def alpha_req(spectrum: Spectrum, first: int, last: int) -> Float[np.ndarray, " n"]:
    """Return contributions to the decay exponent of the eigenvalues of the covariance.

    Minus the slope of log eigenvalue on log rank, over ranks ``first`` to ``last`` (from 1), rank j
    weighted 1 / j; where there are fewer eigenvalues, over those there are.

    Raises:
        DataError: fewer than two eigenvalues in that range.

    Source:
        Agrawal et al. 2022, "alpha-ReQ"; the weighting is Stringer et al. 2019's.
    """
    ranks = np.arange(first, min(last, len(spectrum.values)) + 1)
    if len(ranks) < 2:
        raise DataError(
            f"spectrum: {len(spectrum.values)} directions hold any variance, alpha-ReQ needs two of "
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
    """Return contributions to the share of the variance that the first components hold."""
    total = spectrum.values.sum()
    share = float(spectrum.values[:components].sum() / total)
    leading = np.arange(len(spectrum.values)) < components
    return spectrum.contributions(share, (leading - share) / total)


def uniformity(
    features: Float[np.ndarray, "n d"], *, t: float, limit: int, seed: int
) -> Float[np.ndarray, " n"]:
    """Return contributions to the log of the mean Gaussian potential between pairs of unit vectors.

    ``log mean exp(-t ||x - y||^2)`` over pairs of different images: 0 when all features point one way,
    lower the more evenly they cover the sphere. All pairs among ``limit`` images drawn with ``seed``
    count; contributions of the others are NaN.

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
    found = np.full(len(features), np.nan)
    found[rows] = np.log(mean) + 2 * (potential - mean) / mean
    return found


def dead_dimensions(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return, for every image, the fraction of dimensions with one value on all images.

    The same for each: which dimensions are dead over all images is not a matter of which are drawn.
    """
    low, high = features.min(axis=0), features.max(axis=0)
    return np.full(len(features), float((low == high).mean()))
