"""One object in an image, found from the similarities of its patches: LOST and TokenCut."""

from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, sparse
from scipy.linalg import eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from ssleval.errors import ConfigError

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two exclusive."""

MOST_PATCHES = 16_384
"""Similarities of all pairs take 2 GB then."""
_FEW = 64
_DENSE = 4096
"""Patches up to which the matrix is small enough for a dense solver, where Lanczos does not converge."""
_TIES = 1e-6
"""Entries of an eigenvector this near to the largest one are equal to it."""


class Found(NamedTuple):
    """An object, in patches."""

    box: Box
    mask: Bool[np.ndarray, "h w"]


Placed: TypeAlias = tuple[Float[np.ndarray, " 4"], Bool[np.ndarray, "H W"]]
"""The box and the mask of an object, in pixels."""


def in_pixels(found: Found, patch: int, seen: tuple[int, int], own: tuple[int, int]) -> Placed:
    """Return an object in the pixels of its image, of the width and height ``own``.

    The model has ``seen`` it at another size, filled up to whole patches below and to the right. A pixel
    belongs to the patch that its centre lies in.
    """
    corners = np.minimum(np.array(found.box) * patch, seen * 2) * np.array(own * 2) / (seen * 2)
    columns, rows = (
        (np.arange(side) * 2 + 1) * shown // (2 * side) // patch
        for side, shown in zip(own, seen, strict=True)
    )
    return corners, found.mask[rows][:, columns]


def lost(tokens: Float[np.ndarray, "h w d"], candidates: int) -> Found:
    """Return the patches that are similar to the seed, the patch of fewest positive products with others.

    Of the ``candidates`` patches of fewest such products, those whose product with the seed is positive vote:
    the object is the part of the patches with a positive sum of products with them that holds the seed.

    Source:
        Simeoni et al. 2021, arXiv:2109.14279; valeoai/LOST, object_discovery.py. Of patches with as many
        products the first counts, where the code leaves it to a sort.
    """
    flat = _rows(tokens)
    products = flat @ flat.T
    positive = products > 0
    degrees = positive.sum(axis=1) - positive.diagonal()
    order = np.argsort(degrees, kind="stable")
    seed, lowest = order[0], order[:candidates]
    votes = products[lowest[products[seed, lowest] > 0]].sum(axis=0)
    return _component(votes.reshape(tokens.shape[:2]) > 0, int(seed))


def tokencut(tokens: Float[np.ndarray, "h w d"], threshold: float, weight: float) -> Found:
    """Return the side of the normalised cut that holds its largest entry, as far as it hangs together.

    Patches are joined with weight 1 where their cosine exceeds ``threshold``, else with ``weight``. The
    second generalised eigenvector is cut at its mean. Where all patches are joined, all are the object.

    Source:
        Wang et al. 2022, arXiv:2202.11539; YangtaoWANG95/TokenCut, object_discovery.py.
    """
    flat = _rows(tokens)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
    joined = unit @ unit.T > threshold
    shape = tokens.shape[:2]
    if joined.all() or len(joined) < 3:
        return Found((0, 0, shape[1], shape[0]), np.ones(shape, bool))
    vector = second_eigenvector(joined, weight)
    size = np.abs(vector)
    seed = int((size >= size.max() * (1 - _TIES)).argmax())
    above = vector > vector.mean()
    side = above if above[seed] else ~above
    return _component(side.reshape(shape), seed)


def second_eigenvector(joined: Bool[np.ndarray, "n n"], weight: float) -> Float[np.ndarray, " n"]:
    """Return the second generalised eigenvector of the graph's Laplacian and its degrees.

    The matrix is one of ones, times ``weight``, plus the joined pairs, times the rest: a product with it
    costs the joined pairs alone, and its first eigenvector is known. Lanczos' algorithm finds the next.
    """
    count = len(joined)
    degrees = (1 - weight) * joined.sum(axis=1) + weight * count
    scale = degrees**-0.5
    if count <= _FEW:
        return _dense(joined, weight, scale)
    pairs = sparse.csr_array(joined, dtype=np.float64) if count > _DENSE else joined.astype(np.float64)
    first = degrees**0.5 / degrees.sum() ** 0.5

    def product(values: np.ndarray) -> np.ndarray:
        inner = scale * values.reshape(-1)
        outer = scale * (weight * inner.sum() + (1 - weight) * (pairs @ inner))
        # Moves the eigenvalue of the first from 1 to -1, the least there can be.
        return outer - 2 * first * (first @ values.reshape(-1))

    operator = LinearOperator((count, count), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0).standard_normal(count)
    try:
        _, vectors = eigsh(operator, k=1, which="LA", v0=start, ncv=48, tol=1e-11)  # pyright: ignore[reportArgumentType]
    except ArpackNoConvergence:
        if count > _DENSE:
            raise
        return _dense(joined, weight, scale)
    return scale * vectors[:, 0]


def _dense(
    joined: Bool[np.ndarray, "n n"], weight: float, scale: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    matrix = scale[:, None] * np.where(joined, 1.0, weight) * scale
    _, vectors = eigh(matrix, subset_by_index=[len(matrix) - 2, len(matrix) - 2])
    return scale * vectors[:, 0]


def _rows(tokens: Float[np.ndarray, "h w d"]) -> Float[np.ndarray, "n d"]:
    flat = tokens.reshape(-1, tokens.shape[2])
    if len(flat) > MOST_PATCHES:
        raise ConfigError(
            f"discovery: {len(flat):,} patches, more than {MOST_PATCHES:,}; set discovery.size to fewer "
            "pixels of the long side"
        )
    return flat.astype(np.float64)


def _component(mask: Bool[np.ndarray, "h w"], seed: int) -> Found:
    """Return the part of a mask, by neighbours side by side, that holds the seed, a row-major index."""
    place = np.unravel_index(seed, mask.shape)
    parts = np.empty(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    # A token of zeros has no product with any, not even with itself.
    part = parts == parts[place] if mask[place] else np.arange(mask.size).reshape(mask.shape) == seed
    rows, columns = (np.flatnonzero(part.any(axis=axis)) for axis in (1, 0))
    return Found((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), part)
