"""Batches of images as a model's device wants them, decoded by worker processes; some are kept."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssleval.core import Context, Geometry, RandomView, Split
from ssleval.core.geometry import apply
from ssleval.errors import DataError
from ssleval.features.fast import fast_view
from ssleval.features.geometry import random_view

T = TypeVar("T")


class Decoded(NamedTuple):
    """One batch as it leaves a worker."""

    batch: int
    images: UInt8[Tensor, "b H W 3"] | None
    """None where no image of the batch could be decoded."""
    corrupt: dict[int, str]
    """Row in the split to what is wrong with its image."""


@dataclass(frozen=True, slots=True)
class Decoder(Dataset[Decoded]):
    """Decodes whole batches: item i is batch i. Pickled into every worker."""

    split: Split
    geometry: Geometry | RandomView
    batch_size: int
    known_corrupt: frozenset[int] = frozenset()
    """Rows left out unread, because another readout of the pass lacks them already."""

    def __len__(self) -> int:
        return len(range(0, len(self.split), self.batch_size))

    def rows(self, batch: int) -> range:
        """Return the rows of a batch."""
        return range(batch * self.batch_size, min(len(self.split), (batch + 1) * self.batch_size))

    def __getitem__(self, index: int) -> Decoded:
        images: list[UInt8[np.ndarray, "H W 3"]] = []
        corrupt: dict[int, str] = {}
        for row in self.rows(index):
            if row in self.known_corrupt:
                corrupt[row] = f"{self.split.ids[row]}: could not be decoded before"
                continue
            try:
                images.append(seen(self.split, row, self.geometry))
            # Sent on as text: an exception that crosses a process comes back with a page of traceback.
            except DataError as error:
                corrupt[row] = str(error)
        return Decoded(index, torch.from_numpy(np.stack(images)) if images else None, corrupt)


def seen(split: Split, row: int, geometry: Geometry | RandomView) -> UInt8[np.ndarray, "H W 3"]:
    """Decode image ``row`` of a split and return it as a model is shown it.

    Raises:
        DataError: the image cannot be decoded, or the resized image is too large.
    """
    if geometry.pixels == "fast":
        return fast_view(geometry, split, row)
    image = split.image(row)
    if isinstance(geometry, RandomView):
        return random_view(geometry, image, split.ids[row])
    try:
        return apply(geometry, image)
    except DataError as error:
        raise DataError(f"{split.ids[row]}: {error}") from error


def decoded_batches(decoder: Dataset[T], batches: Sequence[int], context: Context) -> Iterable[T]:
    """Yield ``batches``, in that order, which ``context.num_workers`` processes decode ahead."""
    workers = int(context.num_workers)
    if workers == 0:
        return (decoder[batch] for batch in batches)
    return DataLoader(
        decoder,
        batch_size=None,
        sampler=batches,
        num_workers=min(workers, max(1, len(batches))),
        collate_fn=_as_it_is,
        pin_memory=context.device.startswith("cuda"),
        multiprocessing_context=_start_method(),
    )


def in_lanes(batches: Sequence[int], workers: int) -> list[int]:
    """Return batches in an order in which each of the processes that take turns decodes some in sequence.

    So each reads its own part of a large file, such as a shard, from front to back.
    """
    lanes = [part for part in np.array_split(np.array(batches, int), max(1, workers)) if len(part)]
    return [int(batch) for turn in zip_longest(*lanes) for batch in turn if batch is not None]


class KeptImages:
    """Batches of decoded images, up to ``limit`` bytes; those beyond are decoded each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: dict[tuple[int, Geometry | RandomView, int, frozenset[int]], dict[int, Decoded]] = {}
        # So that no other split takes the id of one.
        self._splits: dict[int, Split] = {}

    def batches(self, decoder: Decoder, batches: Sequence[int], context: Context) -> Iterator[Decoded]:
        """Yield ``batches`` in that order, as `decoded_batches` does; those that are kept are not decoded."""
        split = decoder.split
        self._splits[id(split)] = split
        key = (id(split), decoder.geometry, decoder.batch_size, decoder.known_corrupt)
        kept = self._kept.setdefault(key, {})
        left = [batch for batch in batches if batch not in kept]
        fresh = iter(decoded_batches(decoder, left, context) if left else ())
        for batch in batches:
            decoded = kept[batch] if batch in kept else next(fresh)
            if batch not in kept:
                self._keep(kept, decoded)
            yield decoded

    def _keep(self, kept: dict[int, Decoded], decoded: Decoded) -> None:
        images = decoded.images
        size = 0 if images is None else images.nbytes
        if self.size + size > self.limit:
            return
        if images is not None and images.is_shared():
            # Memory shared with a worker holds an open file for every tensor.
            decoded = decoded._replace(images=images.clone())
        kept[decoded.batch] = decoded
        self.size += size


def _as_it_is(item: Any) -> Any:
    return item


def _start_method() -> BaseContext:
    """Choose how workers start: never by forking a process that has threads, which may deadlock."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The server imports torch once; without this every worker of every pass would.
    context.set_forkserver_preload(["ssleval.features.decode"])
    return context
