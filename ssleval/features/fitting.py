"""The images of a fit as they are drawn: batches that heads learn from, and images that they classify."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssleval.core import Geometry, RandomView, Readout, Split
from ssleval.core.batches import Stream
from ssleval.errors import ContractError, DataError
from ssleval.features.decode import seen
from ssleval.features.live import Live
from ssleval.features.shard import current_shard

R = TypeVar("R")

Reader = Callable[[Int[np.ndarray, " b"]], Float[Tensor, "b n d"]]


class Chunk(NamedTuple):
    """Images that go through the model together, as they leave a worker."""

    places: Int[np.ndarray, " b"]
    """Of the fit: rows of the stream of batches, or places among the images to classify."""
    images: UInt8[Tensor, "b s s 3"] | None
    """None where one could not be decoded."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FitImages(Dataset[Chunk]):
    """The images of a fit in its order, chunk by chunk, the same in every worker it is pickled into.

    Every batch of a `Stream` to learn from, and at the end of each stage all images to classify.
    """

    train: Split
    rows: Int[np.ndarray, " n"]
    """Of the training split, to learn from."""
    views: tuple[RandomView, ...]
    """What is learnt from in place of the images; of a single one, a new draw in every pass."""
    judged: Sequence[tuple[Split, Int[np.ndarray, "_"]]]
    """Splits and their rows to classify, seen at ``geometry``."""
    geometry: Geometry
    batch_size: int
    ends: Sequence[int]
    """Iterations after which all are classified, increasing; the last ends the fit."""
    seed: int
    size: int
    """Largest number of images in a chunk."""
    new: bool = False
    """Whether the only view is drawn anew in every pass."""
    _stream: Stream = field(init=False)
    _pieces: Int[np.ndarray, "i 3"] = field(init=False)

    def __post_init__(self) -> None:
        """List the chunks."""
        count = len(self.rows) * (1 if self.new else max(1, len(self.views)))
        object.__setattr__(self, "_stream", Stream(count, self.seed))
        object.__setattr__(self, "_pieces", np.array(list(self._listed()), np.int64))

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, index: int) -> Chunk:
        kind, start, end = self._pieces[index].tolist()
        places = np.arange(start, end) if kind else self._stream.rows(start, end)
        show = partial(self._judged, kind - 1) if kind else self._learnt
        try:
            images = [show(*one) for one in zip(places.tolist(), range(start, end), strict=True)]
        # Sent on as text: an exception that crosses a process comes back with a page of traceback.
        except DataError as error:
            return Chunk(places, None, str(error))
        return Chunk(places, torch.from_numpy(np.stack(images)))

    def _learnt(self, place: int, position: int) -> UInt8[np.ndarray, "s s 3"]:
        number, row = divmod(place, len(self.rows))
        if not self.views:
            return seen(self.train, int(self.rows[row]), self.geometry)
        view = replace(self.views[0], index=position // len(self.rows)) if self.new else self.views[number]
        return seen(self.train, int(self.rows[row]), view)

    def _judged(self, which: int, place: int, _position: int) -> UInt8[np.ndarray, "s s 3"]:
        split, rows = self.judged[which]
        return seen(split, int(rows[place]), self.geometry)

    def _listed(self) -> Iterator[tuple[int, int, int]]:
        for first, last in zip((0, *self.ends), self.ends, strict=False):
            for start in range(first * self.batch_size, last * self.batch_size, self.batch_size):
                yield from self._cut(0, start, start + self.batch_size)
            for kind, (_, rows) in enumerate(self.judged, 1):
                yield from self._cut(kind, 0, len(rows))

    def _cut(self, kind: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        return ((kind, place, min(place + self.size, end)) for place in range(start, end, self.size))


def fitted_on(
    live: Live, name: str, images: FitImages, readouts: Sequence[Readout], fit: Callable[[Reader], R]
) -> R:
    """Return what ``fit`` returns, which reads the tokens of ``images`` by place, all of them in order.

    Tokens are rounded as they are where features are stored. Several processes (`torchrun`) share the images;
    the first fits, and all have what it returns. Nothing is stored: an interruption notes what is lost.
    """

    def tokens_of(chunk: Chunk) -> tuple[Int[np.ndarray, " b"], Float[Tensor, "b n d"]]:
        if chunk.images is None:
            raise DataError(chunk.problem)
        values = live.read(chunk.images, readouts)
        parts = [_as_stored(values[readout]) for readout in readouts]
        return chunk.places, torch.cat(parts, dim=1).to(live.sent_from)

    chunks = live.shared_batches(name, images, len(images), tokens_of, images.size)
    read = _InOrder(chunks, live.context.device)
    shard = current_shard()
    try:
        found = fit(read) if shard.leads else None
        deque(chunks, maxlen=0)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{name}: {read.done:,} images of a fit that keeps nothing; it begins anew")
        raise
    return shard.from_leader(f"{name}, fitted", lambda: found)  # pyright: ignore[reportReturnType]


def _as_stored(tokens: Float[Tensor, "b ..."]) -> Float[Tensor, "b n d"]:
    """Return a class token or a grid as one row for each token, grids in the precision of the store."""
    return tokens.half().flatten(1, 2) if tokens.ndim == 4 else tokens.float()[:, None]


class _InOrder:
    """Reads chunks by the places they hold, and refuses any other order."""

    def __init__(self, chunks: Iterator[tuple[np.ndarray, Tensor]], device: str) -> None:
        self.chunks, self.device, self.done = chunks, device, 0
        self._ahead: tuple[list[np.ndarray], list[Tensor]] = [], []

    def __call__(self, places: Int[np.ndarray, " b"]) -> Float[Tensor, "b n d"]:
        """Return the tokens of the next images, which are those at ``places``."""
        count, (came, tokens) = len(places), self._ahead
        while sum(map(len, came)) < count:
            for part, more in zip(self._ahead, next(self.chunks), strict=True):
                part.append(more)  # pyright: ignore[reportArgumentType]
        found, values = np.concatenate(came), torch.cat(tokens)
        if not np.array_equal(found[:count], places):
            raise ContractError("images of a fit came in another order than it reads them")
        self._ahead = [found[count:]], [values[count:]]
        self.done += count
        return values[:count].to(self.device).float()
