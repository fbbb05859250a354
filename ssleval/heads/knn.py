"""Weighted k-nearest-neighbour vote on unit vectors: exact, and the same answer everywhere.

Similarities come from a float32 matrix product, whose last digits depend on library, device and block
size. So the product only proposes candidates, a few more than needed. Queries for which those digits
could decide anything (which neighbours are in, which class wins) are settled: their similarities are
computed in float64 and rounded to float32, so that equal vectors are equally near, and ties go to the
smaller training index, then to the smaller class.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssleval.errors import ConfigError, ContractError

Search: TypeAlias = Literal["faiss", "torch"]

_MARGIN = 32
"""Candidates beyond the last neighbour: room for that many ties before a query is searched anew."""
_TRAIN_ROWS = 65_536
"""Training vectors held at a time: 100 MB at 384 channels."""
_NUMBERS = 32_000_000
"""Similarities or votes held at a time: 128 MB in float32."""
_EPS = float(torch.finfo(torch.float32).eps)


def knn_predict(
    train: Float[np.ndarray, "n p"],
    labels: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "m p"],
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
    top: int = 5,
    device: str = "cpu",
    search: Search | None = None,
) -> dict[int, Int[np.ndarray, "m t"]]:
    """Return, for every k, the ``top`` classes of each query, best first.

    The k nearest training vectors by cosine vote for their class with weight ``exp(cosine / T)``, taken
    relative to the nearest so that no temperature overflows. One search serves all ``ks``. Classes
    without a vote follow the others in order of their ids; with fewer than ``top`` classes, all return.

    ``train`` may be memory-mapped: it is read in blocks. ``search`` defaults to faiss on a CPU, where it
    measured faster, and to torch elsewhere; it does not change the answer.

    Raises:
        ConfigError: a k below 1 or beyond the training set, or a temperature that is not positive.
        ContractError: features that are not finite, or labels outside ``0..num_classes - 1``.

    Source:
        Wu et al. 2018, arXiv:1805.01978, sec. 3.4; ks and T as in DINO's ``eval_knn.py``.
    """
    _check(labels, ks, len(train), temperature, num_classes)
    vectors = _unit(queries)
    poll = _Poll(labels.astype(np.int64), tuple(sorted(set(ks))), temperature, num_classes, top)
    width = min(max(ks) + _MARGIN, len(train))
    find = _SEARCHES[search or ("faiss" if torch.device(device).type == "cpu" else "torch")]
    similarity, index = _nearest(train, vectors, width, find, device)
    noise = _noise(vectors.shape[1])
    predicted, doubtful = poll(similarity, index, noise)
    tied = torch.zeros_like(doubtful)
    if width < len(train):
        tied = similarity[:, max(ks) - 1] - similarity[:, -1] <= noise
    for some in _blocks(doubtful | tied, width * vectors.shape[1]):
        settled = _settle(train, vectors[some], index[some], tied[some])
        predicted[:, some.numpy()] = poll(*settled, noise)[0]
    return {k: predicted[row] for row, k in enumerate(poll.ks)}


def nearest_neighbours(
    train: Float[np.ndarray, "n p"],
    queries: Float[np.ndarray, "m p"],
    *,
    k: int,
    device: str = "cpu",
    search: Search | None = None,
    settled: bool = False,
) -> "Found":
    """Return cosines ``[m k]`` and training indices ``[m k]`` of the k nearest vectors, nearest first.

    Which ones they are does not depend on ``search`` or device; of equals, the smaller index is nearer.
    Where all are ``settled`` neither do order and cosines: float64 sums of float32 vectors, rounded.

    Raises:
        ConfigError: k is below 1 or beyond the training set.
        ContractError: features that are not finite.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"knn: k = {k} of {len(train)} training vectors; it must be in 1..{len(train)}")
    vectors, width = _unit(queries), min(k + _MARGIN, len(train))
    find = _SEARCHES[search or ("faiss" if torch.device(device).type == "cpu" else "torch")]
    similarity, index = _nearest(train, vectors, width, find, device)
    noise = _noise(vectors.shape[1])
    tied = doubtful = torch.zeros(len(vectors), dtype=torch.bool)
    if width > k:
        tied = similarity[:, k - 1] - similarity[:, -1] <= noise
        doubtful = similarity[:, k - 1] - similarity[:, k] <= noise
    for some in _blocks(doubtful | settled, width * vectors.shape[1]):
        similarity[some], index[some] = _settle(train, vectors[some], index[some], tied[some])
    return similarity[:, :k], index[:, :k]


def _blocks(chosen: Bool[Tensor, " m"], numbers: int) -> Sequence[Int[Tensor, " b"]]:
    """Return the chosen rows, as many at a time as memory allows where each takes so many numbers."""
    return chosen.nonzero()[:, 0].split(max(1, _NUMBERS // (8 * numbers))) if chosen.any() else ()


def _check(
    labels: Int[np.ndarray, " n"], ks: Sequence[int], count: int, temperature: float, num_classes: int
) -> None:
    if not ks or min(ks) < 1 or max(ks) > count:
        raise ConfigError(f"knn: k = {list(ks)} of {count} training vectors; every k must be in 1..{count}")
    if not temperature > 0:
        raise ConfigError(f"knn: temperature {temperature}; it must be positive")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ContractError(f"knn: labels {labels.min()}..{labels.max()} for {num_classes} classes")


def _unit(features: Float[np.ndarray, "n p"]) -> Float[Tensor, "n p"]:
    """Return float32 rows of length 1; rows of zeros stay zero."""
    vectors = torch.tensor(features, dtype=torch.float32)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # The norms tell it all: a value that is not finite, or too large to square, makes its row's so.
    if not norms.isfinite().all():
        raise ContractError(
            "knn: features hold NaN, infinite or huge values; the backbone or its precision is at fault"
        )
    return vectors.div_(norms.clamp_min_(1e-12))


def _noise(channels: int) -> float:
    """Return a bound on how far rounding moves the difference of two float32 similarities.

    Errors of a sum of p products of unit vectors grow at most like sqrt(p) in practice; a test measures
    them, and finds a quarter of this at most.
    """
    return _EPS * (8 + channels**0.5)


# Searching ----------------------------------------------------------------------------------------

Found: TypeAlias = tuple[Float[Tensor, "m w"], Int[Tensor, "m w"]]
Finder: TypeAlias = Callable[[Float[Tensor, "n p"], Float[Tensor, "m p"], int, str], Found]


def _nearest(
    train: Float[np.ndarray, "n p"], vectors: Float[Tensor, "m p"], width: int, find: Finder, device: str
) -> Found:
    """Return similarities and training indices of the ``width`` nearest vectors, nearest first."""
    best: Found | None = None
    for start in range(0, len(train), _TRAIN_ROWS):
        block = _unit(train[start : start + _TRAIN_ROWS])
        similarity, index = find(block, vectors, min(width, len(block)), device)
        index = index + start
        if best is not None:
            # A stable sort keeps the order of equals, and earlier blocks hold the smaller indices.
            similarity = torch.cat([best[0], similarity], dim=1)
            similarity, order = similarity.sort(dim=1, descending=True, stable=True)
            index = torch.cat([best[1], index], dim=1).gather(1, order)
        best = similarity[:, :width], index[:, :width]
    assert best is not None
    return best


def _find_faiss(
    block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, _device: str
) -> Found:
    # Fuses the product with the selection while a tile is in cache, so that no [m n] is ever written.
    # Threads of our own, each with queries of its own, need not wait for each other at every tile.
    import faiss

    bank, threads = block.numpy(), faiss.omp_get_max_threads()

    def search(some: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(some.numpy(), bank, width, metric=faiss.METRIC_INNER_PRODUCT)

    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(search, vectors.split(max(256, len(vectors) // (4 * threads)))))
    similarity, index = (np.concatenate(both) for both in zip(*parts, strict=True))
    return torch.from_numpy(similarity), torch.from_numpy(index)


def _find_torch(block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, device: str) -> Found:
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise ConfigError(
            f"knn: float32 products are set to {precision!r} precision, too coarse to rank neighbours; "
            "call torch.set_float32_matmul_precision('highest')"
        )
    bank = block.to(device).T
    parts = [
        (some.to(device) @ bank).topk(width, dim=1) for some in vectors.split(max(1, _NUMBERS // len(block)))
    ]
    return torch.cat([part.values.cpu() for part in parts]), torch.cat([part.indices.cpu() for part in parts])


def _find_exactly(block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, _: str) -> Found:
    bank = block.double().T
    parts = [
        _leftmost((some.double() @ bank).float(), width)
        for some in vectors.split(max(1, _NUMBERS // (8 * len(block))))
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _leftmost(similarity: Float[Tensor, "m n"], width: int) -> Found:
    """Return the ``width`` largest of each row and their columns; of equals, the leftmost."""
    last = similarity.topk(width, dim=1).values[:, -1:]
    above, level = similarity > last, similarity == last
    room = width - above.sum(1, keepdim=True)
    columns = (above | (level & (level.cumsum(1) <= room))).nonzero()[:, 1].view(-1, width)
    found, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return found, columns.gather(1, order)


_SEARCHES: Mapping[Search, Finder] = {"faiss": _find_faiss, "torch": _find_torch}


def _settle(
    train: Float[np.ndarray, "n p"],
    vectors: Float[Tensor, "m p"],
    index: Int[Tensor, "m w"],
    tied: Bool[Tensor, " m"],
) -> Found:
    """Return the neighbours again, ranked by exact similarity and then by training index.

    Where more are ``tied`` than the margin could hold, the candidates themselves are sought anew.
    """
    if tied.any():
        index[tied] = _nearest(train, vectors[tied], index.shape[1], _find_exactly, "cpu")[1]
    index = index.sort(dim=1).values
    neighbours = _unit(train[index.flatten().numpy()]).view(*index.shape, -1)
    similarity = (neighbours.double() @ vectors.double().unsqueeze(2)).squeeze(2).float()
    similarity, order = similarity.sort(dim=1, descending=True, stable=True)
    return similarity, index.gather(1, order)


# Voting -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Poll:
    """Turns neighbours into classes, and says which queries rounding might have decided."""

    labels: Int[np.ndarray, " n"]
    ks: tuple[int, ...]
    temperature: float
    num_classes: int
    top: int

    def __call__(
        self, similarity: Float[Tensor, "m w"], index: Int[Tensor, "m w"], noise: float
    ) -> tuple[Int[np.ndarray, "k m t"], Bool[Tensor, " m"]]:
        """Return the classes for every k, and whether similarities off by ``noise`` could change them."""
        classes = torch.from_numpy(self.labels[index[:, : self.ks[-1]].numpy()])
        rows = max(1, _NUMBERS // (16 * self.num_classes))
        pairs = zip(similarity.split(rows), classes.split(rows), strict=True)
        parts = [self._some(*pair, noise) for pair in pairs]
        return np.concatenate([part[0] for part in parts], axis=1), torch.cat([part[1] for part in parts])

    def _some(
        self, similarity: Float[Tensor, "m w"], classes: Int[Tensor, "m kmax"], noise: float
    ) -> tuple[Int[np.ndarray, "k m t"], Bool[Tensor, " m"]]:
        # Float64 sums, ranked in float32: the order of equal terms must not separate equal sums.
        weights = ((similarity.double() - similarity[:, :1]) / self.temperature).exp()
        votes = torch.zeros(len(classes), self.num_classes, dtype=torch.float64)
        doubtful = torch.zeros(len(classes), dtype=torch.bool)
        predicted: list[Int[np.ndarray, "m t"]] = []
        slack = noise / self.temperature + _EPS
        for start, k in zip((0, *self.ks), self.ks, strict=False):
            votes.scatter_add_(1, classes[:, start:k], weights[:, start:k])
            ranked, first = _ranked(votes.float().numpy(), min(self.top + 1, self.num_classes))
            better, worse = first[:, :-1], first[:, 1:]
            close = (better > 0) & (better - worse <= slack * better)
            doubtful |= torch.from_numpy(close.any(axis=1))
            if k < similarity.shape[1]:
                doubtful |= similarity[:, k - 1] - similarity[:, k] <= noise
            predicted.append(ranked[:, : self.top])
        return np.stack(predicted), doubtful


def _ranked(
    votes: Float[np.ndarray, "m c"], count: int
) -> tuple[Int[np.ndarray, "m t"], Float[np.ndarray, "m t"]]:
    """Return the first ``count`` classes and their votes; of equals, the smaller. Overwrites ``votes``."""
    rows = np.arange(len(votes))
    classes = np.empty((len(votes), count), dtype=np.int64)
    values = np.empty((len(votes), count), dtype=votes.dtype)
    for place in range(count):
        # argmax promises the first of equals, which a partial sort does not.
        classes[:, place] = best = votes.argmax(axis=1)
        values[:, place] = votes[rows, best]
        votes[rows, best] = -1.0
    return classes, values
