"""How alike two models see the same images: linear CKA, debiased, and shared nearest neighbours.

Both are of one set of images, row for row. Intervals are over images: each image is left out in turn
(jackknife), exactly, without computing anything anew.

Source:
    Kornblith et al. 2019, arXiv:1905.00414 (CKA); Song et al. 2012, J. Mach. Learn. Res. 13, eq. 5 (unbiased
    HSIC); Nguyen et al. 2021, arXiv:2010.15327 (its use in CKA); Huh et al. 2024, arXiv:2405.07987, app. A
    (mutual k-NN).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from ssleval.errors import ConfigError, ContractError

_BLOCK = 1024
"""Rows of a Gram matrix at a time."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """One similarity of two models, and its interval over images, 95 %."""

    value: float
    low: float
    high: float


class Gram:
    """What HSIC needs of one model's vectors: of their Gram matrix without diagonal, never held whole."""

    def __init__(self, vectors: Float[np.ndarray, "n d"]) -> None:
        """Take vectors of at least 5 images.

        Raises:
            ConfigError: fewer.
            ContractError: vectors that are not finite, or all equal.
        """
        if len(vectors) < 5:
            raise ConfigError(f"CKA of {len(vectors)} images; it needs at least 5")
        centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
        self.squares = np.einsum("nd,nd->n", centred, centred)
        scale = float(np.sqrt(self.squares.mean()))
        if not np.isfinite(scale) or scale <= 1e-12 * float(np.abs(vectors).max()):
            raise ContractError("features are not finite, or the same for all images")
        # CKA does not depend on a common factor.
        self.vectors, self.squares = centred / scale, self.squares / scale**2
        self.sums = self.times(np.ones(len(vectors)))

    def times(self, column: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return the product of the matrix and a column."""
        return self.vectors @ (self.vectors.T @ column) - self.squares * column

    @cached_property
    def own(self) -> tuple[float, Float[np.ndarray, " n"]]:
        """HSIC of the vectors with themselves, as `hsic`."""
        return hsic(self, self)


def hsic(first: Gram, second: Gram) -> tuple[float, Float[np.ndarray, " n"]]:
    """Return unbiased HSIC of all images, and of all but each."""
    count = len(first.vectors)
    shared = np.empty(count)
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        products = (first.vectors[rows] @ first.vectors.T) * (second.vectors[rows] @ second.vectors.T)
        shared[rows] = products.sum(axis=1) - first.squares[rows] * second.squares[rows]
    joint = first.sums * second.sums
    crossed = first.times(second.sums) + second.times(first.sums)
    totals = shared.sum(), first.sums.sum(), second.sums.sum(), joint.sum()
    without = (
        totals[0] - 2 * shared,
        totals[1] - 2 * first.sums,
        totals[2] - 2 * second.sums,
        totals[3] - joint - crossed + shared,
    )
    return float(_hsic(count, *totals)), _hsic(count - 1, *without)


def _hsic(n: int, trace: Any, one: Any, two: Any, both: Any) -> Any:
    return (trace + one * two / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3))


def cka(first: Gram, second: Gram) -> Likeness:
    """Return debiased linear CKA: 1 for features that differ by a rotation and a scale, about 0 by chance."""
    (joint, joints), (one, ones), (two, twos) = hsic(first, second), first.own, second.own
    return _jackknifed(joint / (one * two) ** 0.5, joints / np.sqrt(ones * twos))


def mutual_knn(first: Int[np.ndarray, "n w"], second: Int[np.ndarray, "n w"]) -> Likeness:
    """Return which part of an image's w - 1 nearest neighbours two models share, on average over images.

    Rows hold the w nearest others of each image, nearest first: the last takes a place when one is left out.
    By chance it is (w - 1) / (n - 1).
    """
    count, k = len(first), first.shape[1] - 1
    rows, shared = np.arange(count), _shared(first[:, :k], second[:, :k])
    gains = np.zeros(count)
    for place in range(k):
        for one, other in ((first, second), (second, first)):
            left_out = one[:, place]
            twice = one is second and (first[:, :k] == left_out[:, None]).any(axis=1)
            after = _shared(_without(one, left_out), _without(other, left_out))
            np.add.at(gains, left_out, np.where(twice, 0, after - shared[rows]))
    return _jackknifed(shared.mean() / k, (shared.sum() - shared + gains) / ((count - 1) * k))


def _shared(first: Int[np.ndarray, "n k"], second: Int[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return (first[:, :, None] == second[:, None, :]).any(axis=2).sum(axis=1).astype(np.float64)


def _without(nearest: Int[np.ndarray, "n w"], image: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n k"]:
    """Return the nearest neighbours with one image left out: all but the last, where it is none of them."""
    order = np.argsort(nearest == image[:, None], axis=1, kind="stable")
    return np.take_along_axis(nearest, order, axis=1)[:, :-1]


def _jackknifed(value: float, without: Float[np.ndarray, " n"]) -> Likeness:
    count = len(without)
    deviation = float(np.sqrt((count - 1) * np.var(without)))
    half = float(stdtrit(count - 1, 0.975)) * deviation
    return Likeness(float(value), float(value) - half, float(value) + half)
