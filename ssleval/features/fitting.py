"""The images of a fit as they are drawn: batches that heads learn from, and images that they classify."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from ssleval.core import Geometry, RandomView, Readout, Split
from ssleval.core.batches import Stream
from ssleval.core.files import DAMAGED_PICKLE, write_atomically
from ssleval.errors import ContractError, DataError
from ssleval.features.decode import decoded_batches, seen
from ssleval.features.extract import numerics, on_device
from ssleval.features.live import Live
from ssleval.features.shard import Shard, current_shard

R = TypeVar("R")

SECONDS_BETWEEN_FILES = 60.0
"""Of a training whose state is kept."""

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
    changed: Callable[[UInt8[np.ndarray, "s s 3"], str], UInt8[np.ndarray, "s s 3"]] | None = None
    """Changes an image to learn from, once cropped, by the name of the draw."""
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
        pixels = seen(self.train, int(self.rows[row]), view)
        name = f"{self.train.ids[int(self.rows[row])]}/{view.index}"
        return pixels if self.changed is None else self.changed(pixels, name)

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


@runtime_checkable
class Learns(Protocol):
    """What is trained, end to end, as `trained_on` drives it."""

    def add_gradients(
        self, images: UInt8[Tensor, "b 3 H W"], labels: Int[Tensor, " b"], step: int, part: int
    ) -> Float[Tensor, ""]:
        """Add the gradients of a part of a batch to those there are; return its part of the mean loss."""
        ...

    def gathered(self, loss: Float[Tensor, ""]) -> Float[Tensor, " n"]:
        """Return what processes have to add up: the loss and all gradients, in one vector."""
        ...

    def update(self, total: Float[Tensor, " n"], step: int) -> None:
        """Take a step by what processes added up."""
        ...

    @property
    def statistics(self) -> list[Tensor]:
        """Running statistics of batches, which become their mean over the parts of a batch."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        ...


def trained_on(
    live: Live, name: str, images: FitImages, labels: Int[np.ndarray, " n"], learner: Learns, kept: Path
) -> None:
    """Train on all batches of ``images``, whose rows have ``labels``, from the step that a file has ``kept``.

    Several processes (`torchrun`) share the parts of every batch and add up their gradients. The file is
    written once a minute and at the end; whoever calls removes it once the scores are there.

    Raises:
        DataError: an image cannot be decoded, or the disk is full.
    """
    shard, device = current_shard(), live.context.device
    truth = torch.from_numpy(labels.astype(np.int64)).to(device)
    per_batch, steps = -(-images.batch_size // images.size), images.ends[-1]
    start = shard.from_leader(f"{name}, resumed", lambda: _kept(kept))
    if start is not None:
        learner.restore(start["learner"])
    first = 0 if start is None else start["step"]
    mine = range(shard.rank, per_batch, shard.world)
    order = [step * per_batch + part for step in range(first, steps) for part in mine]
    chunks, saved = iter(decoded_batches(images, order, live.context)), time.monotonic()
    idle = max(0, shard.world - per_batch)
    shown = (
        f"{name} ({idle} of {shard.world} processes idle: a batch has {per_batch} parts)" if idle else name
    )
    with live.progress(shown, steps * images.batch_size) as advance:
        advance(first * images.batch_size)
        for step in range(first, steps):
            loss, statistics = torch.zeros((), device=device), _Averaged(learner.statistics, per_batch)
            with shard.agreed(f"{name}, step {step}"):
                for part in mine:
                    places, pixels = _pixels_of(next(chunks), live)
                    with numerics(live.context):
                        loss += learner.add_gradients(pixels, truth[places], step, part)
                    statistics.add()
            statistics.replace(shard, f"{name}, statistics")
            learner.update(shard.total(f"{name}, gradients", learner.gathered(loss)), step)
            due = step + 1 == steps or time.monotonic() - saved > SECONDS_BETWEEN_FILES
            if shard.leads and due:
                _keep(kept, step + 1, learner)
                saved = time.monotonic()
            advance(images.batch_size)


class _Averaged:
    """Running statistics after a step: their mean over the parts of a batch, each of which begins anew."""

    def __init__(self, statistics: Sequence[Tensor], parts: int) -> None:
        self.own, self.parts = statistics, parts
        self.before = [one.clone() for one in statistics]
        self.total = [torch.zeros_like(one) for one in statistics]

    def add(self) -> None:
        """Note what a part has made of them, and begin anew for the next."""
        for own, before, total in zip(self.own, self.before, self.total, strict=True):
            total.add_(own)
            own.copy_(before)

    def replace(self, shard: Shard, point: str) -> None:
        """Put the means over the parts of all processes in their place."""
        if self.own:
            whole = shard.total(point, torch.cat([one.flatten() for one in self.total])) / self.parts
            for own, mean in zip(self.own, whole.split([one.numel() for one in self.own]), strict=True):
                own.copy_(mean.view_as(own))


def classified_by(
    live: Live, name: str, images: FitImages, network: Callable[[Tensor], Tensor]
) -> list[Float[np.ndarray, "_ c"]]:
    """Return the logits of all images to classify, by split; several processes (`torchrun`) share them."""

    def logits_of(chunk: Chunk) -> Float[Tensor, "b c"]:
        _, pixels = _pixels_of(chunk, live)
        with numerics(live.context), torch.no_grad():
            return network(pixels).float().cpu()

    only = replace(images, ends=(0,))
    found = torch.cat([*live.shared_batches(name, only, len(only), logits_of, only.size)])
    return [part.numpy() for part in found.split([len(rows) for _, rows in images.judged])]


def _pixels_of(chunk: Chunk, live: Live) -> tuple[Int[Tensor, " b"], UInt8[Tensor, "b 3 H W"]]:
    if chunk.images is None:
        raise DataError(chunk.problem)
    pixels = on_device(chunk.images, live.context)
    return torch.from_numpy(chunk.places).to(pixels.device), pixels


def _kept(path: Path) -> dict[str, Any] | None:
    """Return the state in a file; None where there is none, or one that a killed machine left damaged."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED_PICKLE:
        path.unlink(missing_ok=True)
        return None


def _keep(path: Path, step: int, learner: Learns) -> None:
    state = {"step": step, "learner": learner.state()}
    try:
        write_atomically(path, lambda draft: torch.save(state, draft))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: {error}; what was there before is kept") from error


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
