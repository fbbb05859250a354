"""Where given images come in the ranking of a whole gallery: exact, and the same answer everywhere.

Nothing is sorted. A ranking is cut at the similarities of the images asked about; counting how many of the
gallery lie above each cut takes one product, in blocks. Its float32 digits depend on library and block
size, so images closer to a cut than those digits reach are compared again in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int

from ssleval.errors import ContractError

__all__ = ["NOISE_PER_ROOT", "ranks", "unit"]

_ROWS = 16_384
"""Gallery vectors multiplied at a time: with a hundred queries, 6 MB of similarities stay in a cache."""
_NUMBERS = 16_000_000
"""Similarities held at a time: 64 MB."""
NOISE_PER_ROOT = float(np.finfo(np.float32).eps)
"""Rounding of a product of unit vectors, per square root of its channels; a test measures a quarter of it."""


def unit(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Return a float32 copy with rows of length 1; rows of zeros stay zero.

    Raises:
        ContractError: values that are not finite, or too large to square.
    """
    found = np.array(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", found, found))
    if not np.isfinite(norms).all():
        raise ContractError(
            "retrieval: features hold NaN, infinite or huge values; the backbone or its precision is at fault"
        )
    found /= np.maximum(norms, np.float32(1e-12))[:, None]
    return found


def ranks(
    queries: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "n d"],
    wanted: Sequence[Int[np.ndarray, " _"]],
) -> list[Int[np.ndarray, " _"]]:
    """Return, for each query, the 0-based rank in the gallery of each of its ``wanted`` rows.

    Similarity is the inner product of vectors of length 1; of equal ones the smaller row ranks first.
    """
    cuts = [_Cuts.at(query, gallery, rows) for query, rows in zip(queries, wanted, strict=True)]
    step = max(1, _NUMBERS // _ROWS)
    for first in range(0, len(queries), step):
        some = torch.from_numpy(queries[first : first + step])
        for start in range(0, len(gallery), _ROWS):
            block = torch.from_numpy(gallery[start : start + _ROWS])
            similarity = (some @ block.T).numpy()
            for cut, row in zip(cuts[first : first + step], similarity, strict=True):
                cut.count(row, start)
    return [cut.ranks(gallery) for cut in cuts]


@dataclass(slots=True)
class _Cuts:
    """One query's ranking, cut at the similarities of the rows asked about, each cut as wide as the noise."""

    query: Float32[np.ndarray, " d"]
    wanted: Int[np.ndarray, " w"]
    exact: Float[np.ndarray, " w"]
    edges: Float32[np.ndarray, " e"]
    """Both sides of every cut, in order: they part similarities into intervals."""
    inside: Bool[np.ndarray, " intervals"]
    """Whether an interval belongs to a cut."""
    counts: Int[np.ndarray, " intervals"]
    """How many of the gallery lie in each interval outside the cuts."""
    unsure: list[Int[np.ndarray, " _"]] = field(default_factory=list[np.ndarray])
    """Rows of the gallery within a cut."""

    @classmethod
    def at(
        cls,
        query: Float32[np.ndarray, " d"],
        gallery: Float32[np.ndarray, "n d"],
        rows: Int[np.ndarray, " w"],
    ) -> "_Cuts":
        exact = _exact(query, gallery[rows])
        noise = NOISE_PER_ROOT * (8 + len(query) ** 0.5)
        edges = np.concatenate([exact - noise, exact + noise]).astype(np.float32)
        order = np.argsort(edges, kind="stable")
        opened = np.cumsum(np.where(order < len(rows), 1, -1))
        inside = np.concatenate([[False], opened > 0])
        return cls(query, rows, exact, edges[order], inside, np.zeros(len(edges) + 1, np.int64))

    def count(self, similarity: Float32[np.ndarray, " b"], start: int) -> None:
        """Sort a block of the gallery, whose first row is ``start``, into the intervals."""
        if not len(self.edges):
            return
        # Most of a gallery lies below every cut, and comparing costs a tenth of searching.
        near = np.flatnonzero(similarity > self.edges[0])
        interval = np.searchsorted(self.edges, similarity[near])
        inside = self.inside[interval]
        self.unsure.append(near[inside] + start)
        self.counts += np.bincount(interval[~inside], minlength=len(self.counts))

    def ranks(self, gallery: Float32[np.ndarray, "n d"]) -> Int[np.ndarray, " w"]:
        """Return how many of the gallery rank before each wanted row."""
        if not len(self.wanted):
            return np.zeros(0, np.int64)
        rows = np.concatenate(self.unsure)
        exact = np.concatenate(
            [_exact(self.query, gallery[rows[i : i + _ROWS]]) for i in range(0, len(rows), _ROWS)]
        )
        place = np.empty(len(rows), np.int64)
        place[np.lexsort((rows, -exact))] = np.arange(len(rows))
        # Rows were collected in increasing order.
        own = place[np.searchsorted(rows, self.wanted)]
        above = self.counts[::-1].cumsum()[::-1]
        return above[np.searchsorted(self.edges, self.exact.astype(np.float32))] + own


def _exact(query: Float32[np.ndarray, " d"], rows: Float32[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return inner products in float64, summed in the same order for every row: equal rows, equal sums."""
    return (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
