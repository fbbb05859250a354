"""Exact nearest-neighbour search, and the weighted k-NN vote, with the same answer on every machine.

The last digits of a float32 product depend on library, device and block size, so it only proposes
candidates, a few more than needed. Where rounding could decide which neighbours count or which class wins,
similarities of the candidates are settled: computed again in float64 and rounded to float32, so that equal
vectors are equally near. Ties go to the smaller training index, then to the smaller class.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ssleval.errors import ConfigError, ContractError

Search: TypeAlias = Literal["faiss", "torch"]
Neighbours: TypeAlias = tuple[Float[Tensor, "m w"], Int[Tensor, "m w"]]
"""Similarities and training indices, nearest first."""
Finder: TypeAlias = Callable[[Float[Tensor, "n p"], Float[Tensor, "m p"], int, str], Neighbours]
"""Finds the nearest vectors in one block of the training set: block, queries, how many, device."""

_MARGIN = 32
"""Candidates beyond the last neighbour: a query with more ties than these is searched again in float64."""
_TRAIN_ROWS = 65_536
"""Training vectors per block: 100 MB at 384 channels."""
_NUMBERS = 32_000_000
"""Similarities or votes held at a time: 128 MB in float32."""
_EPS = float(torch.finfo(torch.float32).eps)
_FAINTEST = float(torch.finfo(torch.float32).tiny)
"""The vote of a neighbour too far to have a weight in float32, so that its class still has one."""


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

    The k nearest training vectors by cosine vote for their class with weight ``exp(cosine / T)``, relative to
    the nearest neighbour's, so that no temperature overflows. Where fewer than ``top`` classes have a vote,
    -1 fills the rest; with fewer than ``top`` classes in all, there are as many places. ``train`` may be
    memory-mapped: it is read in blocks, once for all ``ks``. ``search`` defaults to faiss on a CPU, where it
    measured faster, and to torch elsewhere; it does not change the answer.

    Raises:
        ConfigError: a k below 1 or beyond the training set, or a temperature that is not positive.
        ContractError: features that are not finite, or labels outside ``0..num_classes - 1``.

    Source:
        Wu et al. 2018, arXiv:1805.01978, sec. 3.4; ks and T as in DINO's ``eval_knn.py``, which fills places
        with classes without a vote in the order its sort leaves them in.
    """
    count, numbers = len(train), tuple(sorted(set(ks)))
    if not ks or min(ks) < 1 or max(ks) > count:
        raise ConfigError(f"knn: k = {list(ks)} of {count} training vectors; every k must be in 1..{count}")
    if not temperature > 0:
        raise ConfigError(f"knn: temperature {temperature}; it must be positive")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ContractError(f"knn: labels {labels.min()}..{labels.max()} for {num_classes} classes")
    vote = _Vote(labels.astype(np.int64), numbers, temperature, num_classes, top, _noise(train.shape[1]))
    vectors = _unit(queries)
    similarity, index = candidates = _candidates(train, vectors, max(ks), device, search)
    predicted, doubtful = vote(similarity, index)
    _settle(train, vectors, candidates, max(ks), doubtful)
    predicted[:, doubtful.numpy()] = vote(similarity[doubtful], index[doubtful])[0]
    return dict(zip(numbers, predicted, strict=True))


def nearest_neighbours(
    train: Float[np.ndarray, "n p"],
    queries: Float[np.ndarray, "m p"],
    *,
    k: int,
    device: str = "cpu",
    search: Search | None = None,
    settled: bool = False,
) -> Neighbours:
    """Return cosines ``[m k]`` and training indices ``[m k]`` of the k nearest vectors, nearest first.

    Which vectors they are does not depend on ``search`` or device; of equally near ones, the smaller
    index is taken. With ``settled``, order and cosines do not depend on them either: all cosines are
    float64 sums of float32 vectors, rounded to float32. Errors are those of `knn_predict`.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"knn: k = {k} of {len(train)} training vectors; it must be in 1..{len(train)}")
    vectors = _unit(queries)
    similarity, index = candidates = _candidates(train, vectors, k, device, search)
    doubtful = _undecided(similarity, k, _noise(vectors.shape[1])) | settled
    _settle(train, vectors, candidates, k, doubtful)
    return similarity[:, :k], index[:, :k]


def most_similar(
    queries: Float32[np.ndarray, "q d"], gallery: Float32[np.ndarray, "n d"], count: int
) -> tuple[Int[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Return the ``count`` gallery rows of largest inner product with each query, and these products.

    Products are float64 sums of the vectors as they are, rounded to float32: the same digits everywhere.
    Of equal ones the smaller row comes first. A smaller gallery is returned whole.
    """
    blocks = torch.from_numpy(gallery).split(_TRAIN_ROWS)
    similarity, index = _nearest(blocks, torch.from_numpy(queries), count, _find_exactly, "cpu")
    return index.numpy(), similarity.numpy()


def _unit(features: Float[np.ndarray, "n p"]) -> Float[Tensor, "n p"]:
    """Return float32 rows of length 1; rows of zeros stay zero."""
    vectors = torch.tensor(features, dtype=torch.float32)
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # A value that is not finite, or too large to square, makes the norm of its row infinite or NaN.
    if not norms.isfinite().all():
        raise ContractError(
            "knn: features hold NaN, infinite or huge values; the backbone or its precision is at fault"
        )
    return vectors.div_(norms.clamp_min_(1e-12))


# Searching ----------------------------------------------------------------------------------------


def _candidates(
    train: Float[np.ndarray, "n p"], vectors: Float[Tensor, "m p"], k: int, device: str, search: Search | None
) -> Neighbours:
    """Return the k nearest training vectors and `_MARGIN` more, as a float32 product ranks them."""
    find = _SEARCHES[search or ("faiss" if torch.device(device).type == "cpu" else "torch")]
    return _nearest(_unit_blocks(train), vectors, min(k + _MARGIN, len(train)), find, device)


def _unit_blocks(train: Float[np.ndarray, "n p"]) -> Iterator[Float[Tensor, "_ p"]]:
    return (_unit(train[start : start + _TRAIN_ROWS]) for start in range(0, len(train), _TRAIN_ROWS))


def _nearest(
    blocks: Iterable[Float[Tensor, "_ p"]],
    vectors: Float[Tensor, "m p"],
    width: int,
    find: Finder,
    device: str,
) -> Neighbours:
    """Return the ``width`` nearest rows of all blocks, or all rows if there are fewer."""
    best: Neighbours | None = None
    start = 0
    for block in blocks:
        similarity, index = find(block, vectors, min(width, len(block)), device)
        index, start = index + start, start + len(block)
        if best is not None:
            # A stable sort keeps the order of ties, and earlier blocks hold the smaller indices.
            similarity = torch.cat([best[0], similarity], dim=1)
            similarity, order = similarity.sort(dim=1, descending=True, stable=True)
            index = torch.cat([best[1], index], dim=1).gather(1, order)
        best = similarity[:, :width], index[:, :width]
    assert best is not None
    return best


def _find_faiss(
    block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, _device: str
) -> Neighbours:
    # faiss selects while a tile of the product is in cache, so that no [m n] matrix is ever written.
    # Threads of our own, each with its own queries, need not wait for each other at every tile.
    import faiss

    bank, threads = block.numpy(), faiss.omp_get_max_threads()

    def search(part: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return faiss.knn(part.numpy(), bank, width, metric=faiss.METRIC_INNER_PRODUCT)

    with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(search, vectors.split(max(256, len(vectors) // (4 * threads)))))
    similarity, index = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(similarity), torch.from_numpy(index)


def _find_torch(
    block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, device: str
) -> Neighbours:
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise ConfigError(
            f"knn: float32 products are set to {precision!r} precision, too coarse to rank neighbours; "
            "call torch.set_float32_matmul_precision('highest')"
        )
    bank, rows = block.to(device).T, max(1, _NUMBERS // len(block))
    return _joined((part.to(device) @ bank).topk(width, dim=1) for part in vectors.split(rows))


def _find_exactly(
    block: Float[Tensor, "n p"], vectors: Float[Tensor, "m p"], width: int, _: str
) -> Neighbours:
    bank, rows = block.double().T, max(1, _NUMBERS // (8 * len(block)))
    return _joined(_leftmost((part.double() @ bank).float(), width) for part in vectors.split(rows))


def _joined(parts: Iterable[Sequence[Tensor]]) -> Neighbours:
    similarity, index = (torch.cat([half.cpu() for half in halves]) for halves in zip(*parts, strict=True))
    return similarity, index


def _leftmost(similarity: Float[Tensor, "m n"], width: int) -> Neighbours:
    """Return the ``width`` largest of each row and their columns; of ties, the leftmost."""
    if width == similarity.shape[1]:
        largest, columns = similarity.sort(dim=1, descending=True, stable=True)
        return largest, columns
    last = similarity.topk(width, dim=1).values[:, -1:]
    above, level = similarity > last, similarity == last
    room = width - above.sum(1, keepdim=True)
    columns = (above | (level & (level.cumsum(1) <= room))).nonzero()[:, 1].view(-1, width)
    largest, order = similarity.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return largest, columns.gather(1, order)


_SEARCHES: Mapping[Search, Finder] = {"faiss": _find_faiss, "torch": _find_torch}


# Settling what rounding could decide --------------------------------------------------------------


def _noise(channels: int) -> float:
    """Return the float32 rounding bound on the difference of two similarities.

    Errors of p summed products grow like sqrt(p) in practice; a test measures a quarter of this at most.
    """
    return _EPS * (8 + channels**0.5)


def _undecided(similarity: Float[Tensor, "m w"], k: int, noise: float) -> Bool[Tensor, " m"]:
    """Return the queries whose neighbour k and the next are too close for float32 to tell them apart."""
    if k == similarity.shape[1]:
        return torch.zeros(len(similarity), dtype=torch.bool)
    return similarity[:, k - 1] - similarity[:, k] <= noise


def _settle(
    train: Float[np.ndarray, "n p"],
    vectors: Float[Tensor, "m p"],
    candidates: Neighbours,
    k: int,
    doubtful: Bool[Tensor, " m"],
) -> None:
    """Rank the candidates of doubtful queries anew, in place: by exact similarity, then training index.

    Where neighbour k ties with the last candidate, the margin may have been too small: the candidates
    themselves are then searched again in float64.
    """
    similarity, index = candidates
    width, channels = index.shape[1], vectors.shape[1]
    tied = doubtful & (similarity[:, k - 1] - similarity[:, -1] <= _noise(channels)) & (width < len(train))
    if tied.any():
        index[tied] = _nearest(_unit_blocks(train), vectors[tied], width, _find_exactly, "cpu")[1]
    rows = doubtful.nonzero()[:, 0]
    for part in rows.split(max(1, _NUMBERS // (8 * width * channels))) if len(rows) else ():
        nearby = index[part].sort(dim=1).values
        neighbours = _unit(train[nearby.flatten().numpy()]).view(*nearby.shape, -1)
        exact = (neighbours.double() @ vectors[part].double().unsqueeze(2)).squeeze(2).float()
        similarity[part], order = exact.sort(dim=1, descending=True, stable=True)
        index[part] = nearby.gather(1, order)


# Voting -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Vote:
    """Turns neighbours into classes, and says for which queries rounding might have decided."""

    labels: Int[np.ndarray, " n"]
    ks: tuple[int, ...]
    temperature: float
    num_classes: int
    top: int
    noise: float

    def __call__(
        self, similarity: Float[Tensor, "m w"], index: Int[Tensor, "m w"]
    ) -> tuple[Int[np.ndarray, "k m t"], Bool[Tensor, " m"]]:
        """Return the classes for every k, and whether similarities off by ``noise`` could change them."""
        classes = torch.from_numpy(self.labels[index[:, : self.ks[-1]].numpy()])
        rows = max(1, _NUMBERS // (16 * self.num_classes))
        blocks = map(self._block, similarity.split(rows), classes.split(rows))
        predicted, doubtful = zip(*blocks, strict=True)
        return np.concatenate(predicted, axis=1), torch.cat(doubtful)

    def _block(
        self, similarity: Float[Tensor, "m w"], classes: Int[Tensor, "m kmax"]
    ) -> tuple[Int[np.ndarray, "k m t"], Bool[Tensor, " m"]]:
        # Float64 sums, ranked in float32: the order of equal terms must not separate equal sums.
        weights = ((similarity.double() - similarity[:, :1]) / self.temperature).exp().clamp_min(_FAINTEST)
        votes = torch.zeros(len(classes), self.num_classes, dtype=torch.float64)
        doubtful = torch.zeros(len(classes), dtype=torch.bool)
        predicted: list[Int[np.ndarray, "m t"]] = []
        slack = self.noise / self.temperature + _EPS
        for start, k in zip((0, *self.ks), self.ks, strict=False):
            votes.scatter_add_(1, classes[:, start:k], weights[:, start:k])
            ranked, first = _ranked(votes.float().numpy(), min(self.top + 1, self.num_classes))
            better, worse = first[:, :-1], first[:, 1:]
            close = (better > _FAINTEST * k) & (better - worse <= slack * better)
            doubtful |= torch.from_numpy(close.any(axis=1)) | _undecided(similarity, k, self.noise)
            predicted.append(np.where(first > 0, ranked, -1)[:, : self.top])
        return np.stack(predicted), doubtful


def _ranked(
    votes: Float[np.ndarray, "m c"], count: int
) -> tuple[Int[np.ndarray, "m t"], Float[np.ndarray, "m t"]]:
    """Return the first ``count`` classes and their votes; of ties, the smaller. Overwrites ``votes``."""
    rows, classes = np.arange(len(votes)), np.empty((len(votes), count), dtype=np.int64)
    values = np.empty((len(votes), count), dtype=votes.dtype)
    for place in range(count):
        # argmax returns the first of equal values, which a partial sort does not promise.
        classes[:, place] = best = votes.argmax(axis=1)
        values[:, place] = votes[rows, best]
        votes[rows, best] = -1.0
    return classes, values
