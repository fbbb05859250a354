"""The one pass: decode, resize, forward, read out, store. Every readout of a batch comes from it."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from operator import add
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.backends import cudnn

from ssleval.core import Context, Geometry, RandomView, Readout
from ssleval.core.backbone import Backbone
from ssleval.core.heap import freed_memory_kept
from ssleval.errors import ConfigError, ContractError, DataError, SslevalError
from ssleval.features.decode import Decoded, Decoder, decoded_batches, in_lanes
from ssleval.features.memorypass import AnyPass
from ssleval.features.pace import Later, Pace, decoding_limits, one_behind
from ssleval.features.parts import Part
from ssleval.features.passes import Pass
from ssleval.features.progress import progress
from ssleval.features.readouts import blocks_of, by_norm, read
from ssleval.features.shard import Shard
from ssleval.features.store import Column

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH = 32
"""Caches of a processor hold no more; a fixed number, so that runs agree across machines."""

LARGEST_BATCHES = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Tried in turn on an accelerator; beyond the first throughput no longer grows."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one call of `extract` did."""

    images: int = 0
    forwards: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of them until images were decoded."""
    computed: float = 0.0
    """Seconds of the model and of writing, which may overlap with those."""
    decoded: float = 0.0
    """Images decoded for it; of one that goes through several models, each counts an equal part."""

    def __add__(self, other: "Extracted") -> "Extracted":
        return Extracted(*map(add, astuple(self), astuple(other)))

    def decoding_limits(self, context: Context) -> str:
        """Return in words how far decoding held it up; '' where it did not."""
        return decoding_limits(round(self.decoded), self.seconds, self.waited, self.computed, context)


def forward(
    backbone: Backbone, images: UInt8[Tensor, "b H W 3"], readouts: Sequence[Readout], context: Context
) -> dict[Readout, Float[Tensor, "b ..."]]:
    """Run the model on 8-bit images and return every readout, on ``context.device``."""
    return forward_pixels(backbone, on_device(images, context), readouts, context)


def forward_pixels(
    backbone: Backbone,
    pixels: Float[Tensor, "b 3 H W"] | UInt8[Tensor, "b 3 H W"],
    readouts: Sequence[Readout],
    context: Context,
) -> dict[Readout, Float[Tensor, "b ..."]]:
    """Run the model on images as it takes them, on ``context.device``, and return every readout."""
    values: dict[Readout, Tensor] = {}
    for norm, group in by_norm(readouts).items():
        blocks = blocks_of(group)
        with numerics(context):
            features = backbone(pixels, blocks, norm=norm)
        values |= {readout: read(readout, features, blocks, backbone.card) for readout in group}
    return values


def on_device(images: UInt8[Tensor, "b H W 3"], context: Context) -> UInt8[Tensor, "b 3 H W"]:
    """Return 8-bit images on ``context.device``, as models take them."""
    return images.to(context.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()


@contextmanager
def numerics(context: Context) -> Generator[None]:
    """Compute at ``context.precision`` inside, with convolutions that neither round to TF32 nor vary."""
    kind, dtype = torch.device(context.device).type, AUTOCAST[context.precision]
    # By default convolutions round to TF32 on recent GPUs, and may choose another algorithm each run.
    exact = cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.autocast(kind, dtype) if dtype else nullcontext(), exact:
        yield


def choose_batch_size(
    backbone: Backbone, readouts: Sequence[Readout], geometry: Geometry | RandomView, context: Context
) -> int:
    """Return how many images go through the model at once: as asked, or what fits.

    Images whose sizes vary go one by one. On an accelerator batches of black images are tried, largest first.
    """
    side = geometry.fixed_size
    if side is None:
        return 1
    if context.batch_size:
        return context.batch_size
    if not context.device.startswith("cuda"):
        return CPU_BATCH
    for size in LARGEST_BATCHES:
        with suppress(torch.OutOfMemoryError):
            forward(backbone, torch.zeros(size, side, side, 3, dtype=torch.uint8), readouts, context)
            return size
        torch.cuda.empty_cache()
    raise ConfigError(f"{backbone.card.name}: no memory on {context.device} for one image of {side} pixels")


Pixels: TypeAlias = Callable[[], UInt8[Tensor, "b 3 H W"] | None]
"""Gives the images of a batch on the device, moved there once for all models; None where none decodes."""
Decode: TypeAlias = Callable[[Decoder, Sequence[int], Context], Iterable[Decoded]]


class Consumer:
    """One model that takes decoded batches, and where its features go."""

    def __init__(
        self,
        backbone: Backbone,
        pass_: Pass,
        stored: AnyPass | Part,
        context: Context,
        decode: Decode = decoded_batches,
    ) -> None:
        self.backbone, self.pass_, self.stored, self.context = backbone, pass_, stored, context
        self.decode = decode
        """Gives decoded batches, where it is the first of those that share them."""
        self.columns = pass_.columns(backbone)
        self.pending = {readout: set(stored.pending(column)) for readout, column in self.columns.items()}
        self.missing = set[int]().union(*self.pending.values())
        """Batches that lack a readout, whoever extracts them."""
        self.corrupt = frozenset(np.flatnonzero(~stored.valid()).tolist())
        self.done = Extracted()
        self.error: SslevalError | None = None
        """Why it takes no more batches."""
        self._refused = False
        """Whether a batch could not be written, after which none is."""
        self._files = ExitStack()

    def open(self) -> None:
        """Open the files of what is missing."""
        columns = [column for readout, column in self.columns.items() if self.pending[readout]]
        with self._noting():
            self._writer = self._files.enter_context(self.stored.writer(columns))

    def close(self) -> None:
        """Flush and close the files."""
        with self._noting():
            self._files.close()

    def take(self, decoded: Decoded, pixels: Pixels, pace: Pace, later: Later, share: Extracted) -> None:
        """Run the model on one batch and have the features written; ``share`` is its part of the decoding."""
        wanted = [readout for readout in self.columns if decoded.batch in self.pending[readout]]
        begun = time.perf_counter()
        with self._noting():
            if decoded.corrupt and not self.context.skip_corrupt:
                message = next(iter(decoded.corrupt.values()))
                raise DataError(f"{message}; --skip-corrupt leaves such images out and counts them")
            features = self._features(pixels, wanted)
            named = {self.columns[name]: features.get(name) for name in wanted}
            images = len(self.stored.rows(decoded.batch))
            part = replace(share, images=images, forwards=len(by_norm(wanted)) if features else 0)
            later(partial(self._write, pace, begun, decoded, named, part))

    def _write(
        self,
        pace: Pace,
        begun: float,
        decoded: Decoded,
        named: Mapping[Column, Tensor | None],
        part: Extracted,
    ) -> None:
        # An error of a later batch does not stop this one.
        if self._refused:
            return
        self._refused = True
        with self._noting():
            computed = pace.count(begun, partial(self._store, decoded, named))
            self.done += replace(part, computed=computed)
            self._refused = False

    def _features(self, pixels: Pixels, wanted: Sequence[Readout]) -> dict[Readout, Tensor]:
        try:
            images = pixels()
            return {} if images is None else forward_pixels(self.backbone, images, wanted, self.context)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{self.backbone.card.name}: no memory on {self.context.device} for batches of "
                f"{self.stored.batch_size} images; choose fewer --models-at-once or a smaller --batch-size, "
                "after `ssleval cache clear` where this pass had begun with the larger"
            ) from error

    def _store(self, decoded: Decoded, features: Mapping[Column, Tensor | None]) -> None:
        stored, rows = self.stored, self.stored.rows(decoded.batch)
        kept = np.array([row not in decoded.corrupt for row in rows], dtype=bool)
        ids = [self.pass_.split.ids[row] for row in rows if row not in decoded.corrupt]
        for row in decoded.corrupt:
            stored.mark(row, np.zeros(1, dtype=bool))
        for column, values in features.items():
            full = np.full((len(rows), *column.row), np.nan, dtype=column.dtype)
            if values is not None:
                full[kept] = _storable(values, column, ids)
            self._writer.write(column, decoded.batch, full)

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Note an error instead of raising it: other models go on."""
        try:
            yield
        except SslevalError as error:
            self.error = self.error or error


def extract(consumers: Sequence[Consumer], shard: Shard) -> None:
    """Extract this process's share of what models lack; each image is decoded once for all of them.

    All see one split at one geometry, in batches of one size, with the same images left out, and their
    columns are allocated. What goes wrong with one of them is its ``error``:

    * DataError: an image cannot be decoded, unless ``context.skip_corrupt``; the disk is full.
    * ContractError: features that are not finite, or too large for the type they are stored in.
    """
    started, first = time.perf_counter(), consumers[0]
    pass_, stored, context = first.pass_, first.stored, first.context
    missing = sorted(set[int]().union(*(one.missing for one in consumers)))
    batches = in_lanes(shard.part_of(missing), int(context.num_workers))
    decoder = Decoder(pass_.split, pass_.geometry, stored.batch_size, first.corrupt)
    images, share = sum(len(stored.rows(batch)) for batch in batches), len(pass_.split) // shard.world
    models = first.backbone.card.name if len(consumers) == 1 else f"{len(consumers)} models"
    label, show = f"{models} on {pass_.label}", context.progress and shard.leads
    pace, before = Pace(), 0.0
    with (
        freed_memory_kept(),
        _opened(consumers),
        progress(label, share, share - images, show=show) as advance,
        one_behind() as later,
    ):
        for decoded in pace.timed(first.decode(decoder, batches, context), context):
            takers = [one for one in consumers if one.error is None and decoded.batch in one.missing]
            count, parts = len(stored.rows(decoded.batch)), max(1, len(takers))
            part = Extracted(waited=(pace.waited - before) / parts, decoded=count / parts)
            before = pace.waited
            pixels = cache(partial(_shown, decoded, context))
            for one in takers:
                one.take(decoded, pixels, pace, later, part)
            advance(count)
            if all(one.error for one in consumers):
                break
    _divide(time.perf_counter() - started, consumers)


@contextmanager
def _opened(consumers: Sequence[Consumer]) -> Generator[None]:
    with ExitStack() as stack:
        for one in consumers:
            stack.callback(one.close)
            one.open()
        yield


def _divide(seconds: float, consumers: Sequence[Consumer]) -> None:
    """Give each model its part of the time: in proportion to what was for it alone or divided before."""
    busy = [one.done.computed + one.done.waited for one in consumers]
    for one, own in zip(consumers, busy, strict=True):
        part = own / sum(busy) if any(busy) else 1 / len(busy)
        one.done = replace(one.done, seconds=seconds * part)


def _shown(decoded: Decoded, context: Context) -> Tensor | None:
    return None if decoded.images is None else on_device(decoded.images, context)


def _storable(
    values: Float[Tensor, "b ..."], column: Column, ids: Sequence[str]
) -> Float[np.ndarray, "b ..."]:
    """Convert to the stored type, and refuse what would be stored as nonsense."""
    converted = values.to(getattr(torch, column.dtype))
    bad = (~torch.isfinite(converted)).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if bad:
        reason = f"a feature beyond the range of {column.dtype}"
        if not bool(torch.isfinite(values[bad[0]]).all()):
            reason = "a feature that is not finite; fp16 may overflow, else the model itself computes it"
        raise ContractError(f"{ids[bad[0]]}: {column.name} has {reason}")
    return converted.cpu().numpy()
