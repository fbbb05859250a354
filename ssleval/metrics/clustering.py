"""Agreement of clusters with classes, as contributions of images: those of a partition average to its score.

Mutual information and the Rand index are no means over images. The contribution of an image is the score plus
the image's influence: the first-order change of the score as the image gains weight, its cluster and those of
the others staying as they are.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import pairwise_distances, silhouette_samples

from ssleval.errors import DataError

Agreement: TypeAlias = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], Float[np.ndarray, " n"]]
"""The contributions of images with these classes and these clusters."""


def contingency(
    labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "c k"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return how many images each class has in each cluster, and the row and column of every image.

    Raises:
        DataError: all images are of one class, so that no partition can agree with classes.
    """
    classes, row = np.unique(labels, return_inverse=True)
    found, column = np.unique(clusters, return_inverse=True)
    if len(classes) < 2:
        raise DataError("clustering: images of one class alone; agreement with classes needs two")
    counts = np.bincount(row * len(found) + column, minlength=len(classes) * len(found))
    return counts.reshape(len(classes), -1).astype(np.float64), row, column


def mutual_information(
    labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return contributions to the mutual information over the mean of both entropies (NMI, V-measure).

    Source:
        scikit-learn's ``normalized_mutual_info_score`` with its default, the arithmetic mean.
    """
    counts, row, column = contingency(labels, clusters)
    joint = counts / counts.sum()
    by_class, by_cluster = -np.log(joint.sum(axis=1))[row], -np.log(joint.sum(axis=0))[column]
    shared = np.log(joint[row, column]) + by_class + by_cluster
    entropies = by_class.mean() + by_cluster.mean()
    score = 2 * shared.mean() / entropies
    # The derivative of the quotient; what is subtracted averages to the score.
    return score + (2 * shared - score * (by_class + by_cluster)) / entropies


def rand_index(labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return contributions to the adjusted Rand index: of pairs of images, those on which both agree.

    0 is what random clusters of these sizes are expected to reach.

    Source:
        Hubert and Arabie 1985, eq. 5; scikit-learn's ``adjusted_rand_score``.
    """
    counts, row, column = contingency(labels, clusters)
    n, by_class, by_cluster = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    pairs = n * (n - 1) / 2
    both, first, second = (float((part * (part - 1)).sum()) / 2 for part in (counts, by_class, by_cluster))
    chance, most = first * second / pairs, (first + second) / 2
    if most == chance:  # one image each on both sides
        return np.ones(len(labels))
    score = (both - chance) / (most - chance)
    d_both, d_first, d_second = counts[row, column], by_class[row], by_cluster[column]
    d_chance = (d_first * second + first * d_second) / pairs - 2 * chance / n
    moves = (d_both - d_chance - score * ((d_first + d_second) / 2 - d_chance)) / (most - chance)
    return score + n * (moves - moves.mean())


def matched_accuracy(
    labels: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return 1 for every image whose cluster stands for its class, by the best assignment one to one.

    Images of clusters that stand for no class, where there are more clusters than classes, are wrong.
    """
    counts, row, column = contingency(labels, clusters)
    classes, found = linear_sum_assignment(counts, maximize=True)
    stands_for = np.full(counts.shape[1], -1)
    stands_for[found] = classes
    return (stands_for[column] == row).astype(np.float64)


def silhouettes(
    features: Float[np.ndarray, "n d"], clusters: Int[np.ndarray, "n s"], *, limit: int, seed: int
) -> Float[np.ndarray, "n s"]:
    """Return how much nearer each image is to its own cluster than to the next, from -1 to 1.

    Distances are Euclidean, between ``limit`` images drawn with ``seed``; the others have NaN. It is 0
    where these are all in one cluster, or each in its own.

    Source:
        Rousseeuw 1987; scikit-learn's ``silhouette_samples``.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:limit])
    found, distances = np.full(clusters.shape, np.nan), pairwise_distances(features[rows])
    found[rows] = 0
    for fit, column in enumerate(clusters[rows].T):
        if 1 < len(np.unique(column)) < len(rows):
            found[rows, fit] = silhouette_samples(distances, column, metric="precomputed")
    return found
