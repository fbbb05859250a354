"""PCA whitening of descriptors, with a variance floor or with shrinkage."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

from ssleval.errors import DataError

WhiteningKind: TypeAlias = Literal["dino", "pca", "none"]

_ROWS = 65_536
"""Vectors held in float64 at a time: 200 MB at 384 channels, whatever their number."""


@dataclass(frozen=True, slots=True)
class Whitening:
    """A learnt map: subtract the mean, then rotate to principal directions and rescale them."""

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "k d"]
    """One principal direction a row, divided by its standard deviation or a power of it."""

    def __call__(self, vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n k"]:
        """Return whitened rows, not normalised."""
        whitened = np.empty((len(vectors), len(self.matrix)), np.float32)
        for start in range(0, len(vectors), _ROWS):
            whitened[start : start + _ROWS] = (vectors[start : start + _ROWS] - self.mean) @ self.matrix.T
        return whitened


def learn_whitening(vectors: Float[np.ndarray, "n d"], *, centred: bool, floor: float = 1e-5) -> Whitening:
    """Learn a whitening of all directions, in float64; ``vectors`` are of images that are not scored.

    ``centred`` uses the covariance, else the uncentred second moment, in which the mean counts as a direction
    of large variance; it is subtracted all the same when the map is applied. Variances below the fraction
    ``floor`` of the largest are raised to it.

    Source:
        facebookresearch/dino, eval_copy_detection.py and utils.py, class PCA (``centred=False``).
    """
    count, channels = vectors.shape
    if count < channels:
        raise DataError(
            f"whitening of {channels} channels needs as many images that are not scored, got {count}; "
            "offer more, or choose whitening=none"
        )
    rows = np.asarray(vectors, np.float64)
    mean = rows.mean(axis=0)
    if centred:
        rows = rows - mean
    variances, directions = np.linalg.eigh(rows.T @ rows / count)
    variances = np.maximum(variances, variances.max() * floor)
    return Whitening(mean, directions.T / np.sqrt(variances)[:, None])


def learn_pca_whitening(vectors: Float[np.ndarray, "n d"], *, dim: int, shrinkage: float) -> Whitening:
    """Learn a PCA whitening with shrinkage that keeps the ``dim`` directions of largest variance, in float64.

    Directions are divided by the power ``shrinkage`` of their standard deviation: 1 whitens, 0 only rotates.
    ``vectors`` may be memory-mapped; they are read in blocks. A division by a variance of zero is refused.

    Source:
        Ypsilantis et al. 2021, arXiv:2202.01747; agrees with nikosips/met, code/utils/utils.py.
    """
    count, channels = vectors.shape
    blocks = [vectors[start : start + _ROWS] for start in range(0, count, _ROWS)]
    mean = np.asarray(sum(block.sum(axis=0, dtype=np.float64) for block in blocks)) / count
    scatter = np.zeros((channels, channels))
    for block in blocks:
        rows = block - mean
        scatter += rows.T @ rows
    variances, directions = np.linalg.eigh(scatter / count)
    kept = min(dim, channels)
    variances, directions = variances[::-1], directions[:, ::-1]
    # Variance within the rounding of float32 vectors, or of the float64 products, is none.
    vectors_round, products_round = np.finfo(np.float32).eps ** 2, channels * np.finfo(np.float64).eps
    least = max(vectors_round * (variances.sum() + mean @ mean), products_round * variances[0])
    rank = int((variances > least).sum())
    if shrinkage and rank < kept:
        raise DataError(
            f"whitening to {kept} dimensions: the {count} images it is learnt on vary in {rank}; offer more, "
            "ask for fewer with dim, or choose whitening=none"
        )
    scales = variances[:kept] ** (-0.5 * shrinkage) if shrinkage else np.ones(kept)
    return Whitening(mean, directions[:, :kept].T * scales[:, None])
