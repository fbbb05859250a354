"""A linear map that leaves the channels of descriptors uncorrelated and of equal variance."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

from ssleval.errors import DataError

__all__ = ["Whitening", "WhiteningKind", "learn_whitening"]

WhiteningKind: TypeAlias = Literal["dino", "pca", "none"]


@dataclass(frozen=True, slots=True)
class Whitening:
    """Subtract, then turn and stretch."""

    mean: Float[np.ndarray, " d"]
    matrix: Float[np.ndarray, "d d"]
    """One principal direction a row, over the root of its variance."""

    def __call__(self, vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
        """Return whitened rows, not of any length."""
        return ((vectors - self.mean) @ self.matrix.T).astype(np.float32)


def learn_whitening(vectors: Float[np.ndarray, "n d"], *, centred: bool, floor: float = 1e-5) -> Whitening:
    """Learn a whitening of ``vectors``, in float64.

    Args:
        vectors: descriptors of images that are not scored.
        centred: take the covariance of what is left when the mean is subtracted. False takes the mean of
            outer products of the vectors as they are, so that the direction of the mean counts as one of
            large variance although the mean is subtracted when the map is applied.
        floor: variances below this part of the largest one are raised to it.

    Raises:
        DataError: fewer vectors than channels: some directions would be known from nothing.

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
