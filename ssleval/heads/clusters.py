"""k-means, from several starts that one seed decides, with the same answer on any number of threads."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from ssleval.errors import DataError

Scaling: TypeAlias = Literal["none", "unit", "standard"]


def scaled(features: Float[np.ndarray, "n d"], scaling: Scaling) -> Float[np.ndarray, "n d"]:
    """Return features as they are, with length 1, or with mean 0 and variance 1 in every dimension.

    A dimension that never changes, and a vector of zeros, become zeros.
    """
    rows = np.asarray(features, np.float32)
    if scaling == "none":
        return rows
    if scaling == "standard":
        rows = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    size = np.linalg.norm(rows, axis=1, keepdims=True) if scaling == "unit" else rows.std(axis=0)
    return np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)


def fit_predict(
    features: Float[np.ndarray, "n d"],
    clusters: int,
    seeds: Sequence[int],
    *,
    batch_size: int,
    iterations: int,
) -> Int[np.ndarray, "n s"]:
    """Return the cluster of every row, in one column for each of ``seeds``.

    Starts are k-means++'s. ``batch_size`` rows at a time move centres (mini-batch k-means); with 0 all do, as
    in Lloyd's algorithm, until no row changes its cluster. ``iterations`` bounds passes over the rows.

    Raises:
        DataError: fewer different rows than clusters, or features that are not finite.

    Source:
        scikit-learn's KMeans and MiniBatchKMeans. faiss, from the same starts, takes as long.
    """
    if not np.isfinite(features).all():
        raise DataError("k-means: features that are not finite; the backbone or its input is broken")
    different = len(np.unique(features, axis=0))
    if different < clusters:
        raise DataError(
            f"k-means: {clusters} clusters of {len(features)} images, which have {different} different "
            "features; use more images, or a backbone that tells them apart"
        )
    fit = partial(_labels, np.ascontiguousarray(features), clusters, batch_size, iterations)
    # Threads within a fit would add in another order each time.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.stack(list(pool.map(fit, seeds)), axis=1)


def _labels(
    features: Float[np.ndarray, "n d"], clusters: int, batch_size: int, iterations: int, seed: int
) -> Int[np.ndarray, " n"]:
    shared: dict[str, Any] = {"n_init": 1, "max_iter": iterations, "random_state": seed}
    model = (
        MiniBatchKMeans(clusters, batch_size=batch_size, **shared)
        if batch_size
        else KMeans(clusters, tol=0, **shared)
    )
    with threadpool_limits(1, "openmp"):
        return np.asarray(model.fit_predict(features), np.int64)
