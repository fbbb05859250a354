"""LiDAR: the effective rank of what tells images apart, seen against what changes between their views."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ssleval.errors import DataError

_VALUES = 1 << 22
"""Numbers of all views held at a time in float64."""
_FLOOR = 1e-7
"""Added to every share before its logarithm, as in the paper."""


def lidar(views: Sequence[Float[np.ndarray, "n d"]], *, delta: float) -> Float[np.ndarray, " n"]:
    """Return one contribution per image to the linear discriminant analysis rank; they average to it.

    Every image is a class whose members are its q views. The number is the exponential of the entropy of
    the normalised eigenvalues of ``W^-1/2 B W^-1/2``: B the covariance of the images' mean features, W
    that of views about their mean (over n (q - 1)) plus ``delta`` times the identity. A contribution is
    the number plus the image's first-order influence on it through B and W.

    Raises:
        DataError: fewer than two views or images, or all images have the same mean features.

    Source:
        Thilak et al. 2024, arXiv:2312.04000, sec. 3.2.
    """
    if len(views) < 2 or len(views[0]) < 2:
        raise DataError(f"lidar: {len(views)} views of {len(views[0])} images; it needs two of each at least")
    count, width = views[0].shape
    mean = np.mean([np.mean(view, axis=0, dtype=np.float64) for view in views], axis=0)
    between, within = np.zeros((2, width, width))
    for _, centres, spread in _parts(views, mean):
        between += centres.T @ centres / count
        within += spread.T @ spread / (count * (len(views) - 1))
    values, axes = _discriminants(between, within + delta * np.eye(width))
    if not values[0] > 1e-12 * delta:
        raise DataError("lidar: all images have the same features; the backbone or its input is broken")
    number, slopes = _rank(values)
    found = np.empty(count)
    inside = 1 - delta * (axes**2).sum(axis=0)
    for rows, centres, spread in _parts(views, mean):
        apart = (centres @ axes) ** 2 - values
        moved = ((spread @ axes) ** 2).reshape(len(centres), len(views), -1).sum(axis=1) / (len(views) - 1)
        found[rows] = number + (apart - values * (moved - inside)) @ slopes
    return found


def _parts(
    views: Sequence[Float[np.ndarray, "n d"]], mean: Float[np.ndarray, " d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "m d"], Float[np.ndarray, "mq d"]]]:
    """Yield rows, their centred means over views, and all their views about those means."""
    count, width = views[0].shape
    step = max(1, _VALUES // (len(views) * width))
    for start in range(0, count, step):
        rows = slice(start, min(count, start + step))
        seen = np.stack([view[rows] for view in views], axis=1).astype(np.float64)
        centres = seen.mean(axis=1)
        yield rows, centres - mean, (seen - centres[:, None]).reshape(-1, width)


def _discriminants(
    between: Float[np.ndarray, "d d"], within: Float[np.ndarray, "d d"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Return eigenvalues, decreasing, and axes v: ``between v = value * within v``, ``v' within v = 1``."""
    root = np.linalg.cholesky(within)
    half = np.linalg.solve(root, between)
    values, axes = np.linalg.eigh(np.linalg.solve(root, half.T))
    return values[::-1].clip(min=0), np.linalg.solve(root.T, axes[:, ::-1])


def _rank(values: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
    """Return the effective rank and its derivative by every eigenvalue."""
    total = values.sum()
    share = values / total + _FLOOR
    number = float(np.exp(-(share * np.log(share)).sum()))
    steep = np.log(share) + 1
    return number, number * (steep @ values / total - steep) / total
