"""LiDAR: the effective rank of a linear discriminant analysis in which every image is a class."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from ssleval.core.text import counted
from ssleval.errors import DataError

_VALUES = 1 << 22
"""Values of all views that are held in float64 at a time."""
_FLOOR = 1e-7
"""Added to every normalised eigenvalue before its logarithm, as in the paper."""


def lidar(views: Sequence[Float[np.ndarray, "n d"]], *, delta: float) -> Float[np.ndarray, " n"]:
    """Return one contribution per image; their mean is LiDAR.

    Every image is a class whose members are its q views. LiDAR is the exponential of the entropy of the
    normalised eigenvalues of ``W^-1/2 B W^-1/2``. B is the covariance of the images' mean features; W is the
    covariance of views about these means, divided by n (q - 1), plus ``delta`` times the identity. A
    contribution is LiDAR plus the image's first-order influence on it through B and W.

    Raises:
        DataError: fewer than two views or images, or all images have the same mean features.

    Source:
        Thilak et al. 2024, arXiv:2312.04000, sec. 3.2.
    """
    if len(views) < 2 or len(views[0]) < 2:
        got = f"{counted(len(views), 'view')} of {counted(len(views[0]), 'image')}"
        raise DataError(f"lidar: {got}; it needs at least two of each")
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
    contributions = np.empty(count)
    inside = 1 - delta * (axes**2).sum(axis=0)
    for rows, centres, spread in _parts(views, mean):
        apart = (centres @ axes) ** 2 - values
        moved = ((spread @ axes) ** 2).reshape(len(centres), len(views), -1).sum(axis=1) / (len(views) - 1)
        contributions[rows] = number + (apart - values * (moved - inside)) @ slopes
    return contributions


def _parts(
    views: Sequence[Float[np.ndarray, "n d"]], mean: Float[np.ndarray, " d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "m d"], Float[np.ndarray, "mq d"]]]:
    """Yield some rows, their means over views minus ``mean``, and their views minus their means."""
    count, width = views[0].shape
    step = max(1, _VALUES // (len(views) * width))
    for start in range(0, count, step):
        rows = slice(start, min(count, start + step))
        features = np.stack([view[rows] for view in views], axis=1).astype(np.float64)
        centres = features.mean(axis=1)
        yield rows, centres - mean, (features - centres[:, None]).reshape(-1, width)


def _discriminants(
    between: Float[np.ndarray, "d d"], within: Float[np.ndarray, "d d"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Solve ``between v = value * within v`` with ``v' within v = 1``: values, decreasing, and axes v."""
    root = np.linalg.cholesky(within)
    half = np.linalg.solve(root, between)
    values, axes = np.linalg.eigh(np.linalg.solve(root, half.T))
    return values[::-1].clip(min=0), np.linalg.solve(root.T, axes[:, ::-1])


def _rank(values: Float[np.ndarray, " d"]) -> tuple[float, Float[np.ndarray, " d"]]:
    """Return the effective rank and its derivative with respect to every eigenvalue."""
    total = values.sum()
    share = values / total + _FLOOR
    number = float(np.exp(-(share * np.log(share)).sum()))
    steep = np.log(share) + 1
    return number, number * (steep @ values / total - steep) / total
