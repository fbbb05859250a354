"""Exact ranks of given images in the ranking of a whole gallery, the same on every machine.

Nothing is sorted. A ranking is cut at the similarities of the wanted images, and each thread counts how many
similarities of its block lie above each cut while they are in a cache. Most lie below every cut, which one
comparison tells. Where many lie above, they are counted in bins of equal width, and only those in a bin that
holds a cut are compared with it. Float32 digits depend on library and block size, so images within the
rounding bound of a cut are compared again in float64.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from threadpoolctl import threadpool_limits

from ssleval.core.targets import Groups
from ssleval.errors import ContractError

_ROWS = 32_768
"""Gallery vectors per block: with half as many, counting costs half as much again."""
_QUERIES = 128
"""Queries per block: 16 MB of similarities."""
_BINS = 4_096
"""Bins between the first cut and the last: the counts of a query take 32 kB and stay in a cache as well."""
_FEW = 2_048
"""Similarities above the first cut that are compared with all cuts; where there are more, bins come first."""
_SETTLED = 256
"""Rows per float64 comparison, so that they stay in a cache."""
NOISE_PER_ROOT = float(np.finfo(np.float32).eps)
"""Rounding of a product of unit vectors, per square root of its channels; a test measures a quarter of it."""


def unit(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Return a float32 copy with rows of length 1; rows of zeros stay zero."""
    rows = np.array(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not np.isfinite(norms).all():
        raise ContractError(
            "features hold NaN, infinite or huge values; the backbone or its precision is at fault"
        )
    rows /= np.maximum(norms, np.float32(1e-12))[:, None]
    return rows


def unit_sum(scales: Sequence[Float[np.ndarray, "n d"]]) -> Float32[np.ndarray, "n d"]:
    """Return one vector of length 1 per image: the sum of its `unit` vectors over all scales."""
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

    Similarity is the inner product of vectors of length 1; of ties the smaller row ranks first.
    """
    cuts = [_Cuts(query, gallery, rows) for query, rows in zip(queries, wanted, strict=True)]

    def count(block: tuple[int, int]) -> None:
        start, first = block
        # NumPy's product: on AMD a fifth faster than torch's, on others no slower.
        similarity = queries[first : first + _QUERIES] @ gallery[start : start + _ROWS].T
        for cut, row in zip(cuts[first : first + _QUERIES], similarity, strict=True):
            cut.count(row, start)

    blocks = product(range(0, len(gallery), _ROWS), range(0, len(queries), _QUERIES))
    # Each thread multiplies and counts its own blocks. After a product that they share, threads of OpenBLAS
    # spin for a tenth of a second, on the cores that are to count.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(count, blocks))
    return [cut.ranks(gallery) for cut in cuts]


def ranked(
    queries: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "n d"], answers: Sequence[Groups]
) -> list[Groups]:
    """Return the ``answers`` to each query with their `ranks` in place of rows of the gallery."""
    places = ranks(queries, gallery, [groups.rows for groups in answers])
    return [groups.renumbered(own) for groups, own in zip(answers, places, strict=True)]


class _Cuts:
    """One query's cuts, each as wide as the rounding bound, and the counts of similarities between them."""

    def __init__(
        self,
        query: Float32[np.ndarray, " d"],
        gallery: Float32[np.ndarray, "n d"],
        wanted: Int[np.ndarray, " w"],
    ) -> None:
        self.query, self.wanted = query, wanted
        self.exact = _exact(query, gallery[wanted])
        noise = NOISE_PER_ROOT * (8 + len(query) ** 0.5)
        low, high = (self.exact - noise).astype(np.float32), (self.exact + noise).astype(np.float32)
        edges = np.concatenate([low, high])
        order = np.argsort(edges, kind="stable")
        # Both edges of every cut divide similarities into intervals, some of which lie inside a cut.
        self.edges = edges[order]
        self.inside = np.concatenate([[False], np.cumsum(np.where(order < len(wanted), 1, -1)) > 0])
        # Similarities in each interval outside the cuts, but for those counted in bins.
        self.counts = np.zeros(len(edges) + 1, np.int64)
        # Bins per unit of similarity; bins narrower than the noise would tell nothing more.
        self.scale = min((_BINS - 4) / float(np.ptp(edges)), 1 / noise) if len(wanted) else 1.0
        self.binned = np.zeros(_BINS, np.int64)
        self.cut_bins = np.zeros(_BINS, bool)
        for first, last in zip(self._bins(low), self._bins(high), strict=True):
            self.cut_bins[first : last + 1] = True
        self.unsure: list[Int[np.ndarray, " _"]] = []  # gallery rows inside a cut
        self.lock = Lock()  # held to add to the counts: several threads may have blocks for one query

    def count(self, similarity: Float32[np.ndarray, " b"], start: int) -> None:
        """Count a block of similarities, to the gallery rows from ``start`` on, by interval."""
        if not len(self.wanted):
            return
        near = similarity > self.edges[0]
        if np.count_nonzero(near) > _FEW:
            bins = self._bins(similarity)
            near = self.cut_bins.take(bins)
            binned = np.bincount(bins, minlength=_BINS)
            with self.lock:
                self.binned += binned
        places = np.flatnonzero(near)
        interval = np.searchsorted(self.edges, similarity[places])
        inside = self.inside[interval]
        counts = np.bincount(interval[~inside], minlength=len(self.counts))
        with self.lock:
            self.counts += counts
            self.unsure.append(places[inside] + start)

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
        # Similarities in a bin that holds a cut were counted by interval instead.
        binned = np.where(self.cut_bins, 0, self.binned)
        return own + above + binned[::-1].cumsum()[::-1][self._bins(cuts)]

    def _bins(self, similarity: Float32[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """Return bin numbers, which never decrease with similarity: all that counting relies on."""
        # Similarities below every cut go into bins before that of the first cut.
        place = similarity - (self.edges[:1] - np.float32(2 / self.scale))
        place *= np.float32(self.scale)
        np.clip(place, 0, _BINS - 1, out=place)
        return place.astype(np.intp)


def _exact(query: Float32[np.ndarray, " d"], rows: Float32[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Return inner products in float64, summed in the same order for every row: equal rows, equal sums."""
    return (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
