"""Where given images come in the ranking of a whole gallery: exact, and the same answer everywhere.

Nothing is sorted. A ranking is cut at the similarities of the images asked about, and how many of the gallery
lie above each cut is counted by the thread that multiplied them, while they are in a cache. Most lie below
every cut, which one comparison tells. Where many do not, they fall into a few thousand equal bins, and only
those in a bin with a cut in it are compared with the cuts themselves. The product's float32 digits depend on
library and block size, so images closer to a cut than those digits reach are compared again in float64.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from threading import Lock

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from threadpoolctl import threadpool_limits

from ssleval.errors import ContractError

_ROWS = 32_768
"""Gallery vectors a thread multiplies at a time: of half as many, each costs half as much again to count."""
_QUERIES = 128
"""Queries it multiplies them by: 16 MB of similarities."""
_BINS = 4_096
"""From the first cut to the last; the counts of one query then take 32 kB, and stay in a cache as well."""
_FEW = 2_048
"""Similarities above the first cut that are compared with all cuts; where more are, bins come first."""
_SETTLED = 256
"""Rows that are compared in float64 at a time, so that they stay in a cache."""
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
            "features hold NaN, infinite or huge values; the backbone or its precision is at fault"
        )
    found /= np.maximum(norms, np.float32(1e-12))[:, None]
    return found


def unit_sum(scales: Sequence[Float[np.ndarray, "n d"]]) -> Float32[np.ndarray, "n d"]:
    """Return one vector of length 1 per image: the sum of its vectors of length 1 at every scale.

    Raises:
        ContractError: values that are not finite, or too large to square.
    """
    total = unit(scales[0])
    for vectors in scales[1:]:
        total += unit(vectors)
    return total if len(scales) == 1 else unit(total)


def ranks(
    queries: Float32[np.ndarray, "q d"],
    gallery: Float32[np.ndarray, "n d"],
    wanted: Sequence[Int[np.ndarray, " _"]],
) -> list[Int[np.ndarray, " _"]]:
    """Return, for each query, the 0-based rank in the gallery of each of its ``wanted`` rows.

    Similarity is the inner product of vectors of length 1; of equal ones the smaller row ranks first.
    """
    cuts = [_Cuts.at(query, gallery, rows) for query, rows in zip(queries, wanted, strict=True)]

    def count(block: tuple[int, int]) -> None:
        start, first = block
        # NumPy's product: on AMD a fifth faster than torch's, on others no slower.
        similarity = queries[first : first + _QUERIES] @ gallery[start : start + _ROWS].T
        for cut, row in zip(cuts[first : first + _QUERIES], similarity, strict=True):
            cut.count(row, start)

    blocks = product(range(0, len(gallery), _ROWS), range(0, len(queries), _QUERIES))
    # A thread multiplies and counts blocks of its own. After a product that they share, threads of OpenBLAS
    # spin for a tenth of a second, on the cores that are to count.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(count, blocks))
    return [cut.ranks(gallery) for cut in cuts]


def most_similar(
    queries: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "n d"], count: int
) -> tuple[Int[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Return the ``count`` most similar rows of the gallery for each query, and their similarities.

    Computed in float64 and rounded to float32: the same digits everywhere. Of equal ones the smaller row
    comes first. All of a smaller gallery are returned.
    """
    count = min(count, len(gallery))
    rows = np.empty((len(queries), 0), np.int64)
    kept = np.empty((len(queries), 0), np.float32)
    exact = queries.astype(np.float64)
    for start in range(0, len(gallery), _ROWS):
        block = gallery[start : start + _ROWS].astype(np.float64)
        here = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
        rows = np.concatenate([rows, here], axis=1)
        kept = np.concatenate([kept, (exact @ block.T).astype(np.float32)], axis=1)
        if kept.shape[1] > count or start + len(block) == len(gallery):
            # Of equals those kept so far stand first, in order of their rows: stable is enough.
            order = np.argsort(-kept, axis=1, kind="stable")[:, :count]
            rows, kept = np.take_along_axis(rows, order, axis=1), np.take_along_axis(kept, order, axis=1)
    return rows, kept


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
    """How many of the gallery lie in each interval outside the cuts, but for those counted in bins."""
    scale: float
    """Bins per unit of similarity."""
    cut_bins: Bool[np.ndarray, " bins"]
    """Whether any part of a cut lies in a bin."""
    binned: Int[np.ndarray, " bins"]
    """How many of the gallery were counted in each bin."""
    unsure: list[Int[np.ndarray, " _"]] = field(default_factory=list[np.ndarray])
    """Rows of the gallery within a cut."""
    lock: Lock = field(default_factory=Lock)
    """Held to add to the counts: several threads may have blocks for one query."""

    @classmethod
    def at(
        cls,
        query: Float32[np.ndarray, " d"],
        gallery: Float32[np.ndarray, "n d"],
        rows: Int[np.ndarray, " w"],
    ) -> "_Cuts":
        exact = _exact(query, gallery[rows])
        noise = NOISE_PER_ROOT * (8 + len(query) ** 0.5)
        low, high = (exact - noise).astype(np.float32), (exact + noise).astype(np.float32)
        edges = np.concatenate([low, high])
        order = np.argsort(edges, kind="stable")
        opened = np.cumsum(np.where(order < len(rows), 1, -1))
        inside = np.concatenate([[False], opened > 0])
        counts = np.zeros(len(edges) + 1, np.int64)
        # Bins narrower than the noise would tell nothing more.
        scale = min((_BINS - 4) / float(np.ptp(edges)), 1 / noise) if len(rows) else 1.0
        cut_bins, binned = np.zeros(_BINS, bool), np.zeros(_BINS, np.int64)
        made = cls(query, rows, exact, edges[order], inside, counts, scale, cut_bins, binned)
        for first, last in zip(made._bins(low), made._bins(high), strict=True):
            cut_bins[first : last + 1] = True
        return made

    def count(self, similarity: Float32[np.ndarray, " b"], start: int) -> None:
        """Sort a block of the gallery, whose first row is ``start``, into the intervals."""
        if not len(self.wanted):
            return
        asked = similarity > self.edges[0]
        if np.count_nonzero(asked) > _FEW:
            bins = self._bins(similarity)
            asked = self.cut_bins.take(bins)
            binned = np.bincount(bins, minlength=_BINS)
            with self.lock:
                self.binned += binned
        near = np.flatnonzero(asked)
        interval = np.searchsorted(self.edges, similarity[near])
        inside = self.inside[interval]
        counts = np.bincount(interval[~inside], minlength=len(self.counts))
        with self.lock:
            self.counts += counts
            self.unsure.append(near[inside] + start)

    def ranks(self, gallery: Float32[np.ndarray, "n d"]) -> Int[np.ndarray, " w"]:
        """Return how many of the gallery rank before each wanted row."""
        if not len(self.wanted):
            return np.zeros(0, np.int64)
        rows = np.sort(np.concatenate(self.unsure))
        exact = np.concatenate(
            [_exact(self.query, gallery[rows[i : i + _SETTLED]]) for i in range(0, len(rows), _SETTLED)]
        )
        place = np.empty(len(rows), np.int64)
        place[np.lexsort((rows, -exact))] = np.arange(len(rows))
        own = place[np.searchsorted(rows, self.wanted)]
        cuts = self.exact.astype(np.float32)
        above = self.counts[::-1].cumsum()[::-1][np.searchsorted(self.edges, cuts)]
        # What fell into a bin with a cut was counted by interval instead.
        binned = np.where(self.cut_bins, 0, self.binned)
        return own + above + binned[::-1].cumsum()[::-1][self._bins(cuts)]

    def _bins(self, similarity: Float32[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """Return bins that never decrease with similarity, which is all that counting relies on."""
        # What lies below every cut goes into bins before that of the first one.
        place = similarity - (self.edges[:1] - np.float32(2 / self.scale))
        place *= np.float32(self.scale)
        np.clip(place, 0, _BINS - 1, out=place)
        return place.astype(np.intp)


def _exact(query: Float32[np.ndarray, " d"], rows: Float32[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return inner products in float64, summed in the same order for every row: equal rows, equal sums."""
    return (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
