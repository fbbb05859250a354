"""The one pass: decode, resize, forward, read out, store. Every readout of a batch comes from it."""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass
from functools import partial
from operator import add

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.backends import cudnn

from ssleval.core import Context, Geometry, RandomView, Readout, Split
from ssleval.core.backbone import Backbone
from ssleval.core.heap import freed_memory_kept
from ssleval.errors import ConfigError, ContractError, DataError
from ssleval.features.decode import Decoded, Decoder, decoded_batches
from ssleval.features.memorypass import AnyPass, MemoryPass
from ssleval.features.pace import Pace, decoding_limits, one_behind
from ssleval.features.parts import Part, PartWriter
from ssleval.features.passes import Pass
from ssleval.features.progress import progress
from ssleval.features.readouts import blocks_of, by_norm, read
from ssleval.features.shard import Shard
from ssleval.features.store import Column, Writer

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

    def __add__(self, other: "Extracted") -> "Extracted":
        return Extracted(*map(add, astuple(self), astuple(other)))

    def decoding_limits(self, context: Context) -> str:
        """Return in words how far decoding held it up; '' where it did not."""
        return decoding_limits(self.images, self.seconds, self.waited, self.computed, context)


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


def extract(
    backbone: Backbone,
    pass_: Pass,
    stored: AnyPass | Part,
    context: Context,
    shard: Shard,
    decode: Callable[[Decoder, Sequence[int], Context], Iterable[Decoded]] = decoded_batches,
) -> Extracted:
    """Extract this process's share of what ``stored`` still lacks of a pass, whose columns must be allocated.

    Raises:
        DataError: an image cannot be decoded, unless ``context.skip_corrupt``; the disk is full.
        ContractError: features that are not finite, or too large for the type they are stored in.
    """
    started = time.perf_counter()
    split, columns = pass_.split, pass_.columns(backbone)
    pending = {readout: set(stored.pending(column)) for readout, column in columns.items()}
    batches = sorted(set().union(*pending.values()))[shard.rank :: shard.world]
    corrupt = frozenset(np.flatnonzero(~stored.valid()).tolist())
    decoder = Decoder(split, pass_.geometry, stored.batch_size, corrupt)
    images, share = sum(len(stored.rows(batch)) for batch in batches), len(split) // shard.world
    label, show = f"{backbone.card.name} on {pass_.label}", context.progress and shard.leads
    forwards, pace = 0, Pace()
    with (
        freed_memory_kept(),
        stored.writer([column for readout, column in columns.items() if pending[readout]]) as writer,
        progress(label, share, share - images, show=show) as advance,
        one_behind() as later,
    ):
        for decoded in pace.timed(decode(decoder, batches, context), context):
            _refuse_corrupt(decoded, context)
            wanted = [readout for readout in columns if decoded.batch in pending[readout]]
            begun = time.perf_counter()
            features = _features(backbone, decoded, wanted, context, stored.batch_size)
            named = {columns[name]: features.get(name) for name in wanted}
            later(partial(pace.count, begun, partial(_write, writer, stored, decoded, named, split)))
            forwards += len(by_norm(wanted)) if features else 0
            advance(len(stored.rows(decoded.batch)))
    return Extracted(images, forwards, time.perf_counter() - started, pace.waited, pace.computed)


def _refuse_corrupt(decoded: Decoded, context: Context) -> None:
    if decoded.corrupt and not context.skip_corrupt:
        message = next(iter(decoded.corrupt.values()))
        raise DataError(f"{message}; --skip-corrupt leaves such images out and counts them")


def _features(
    backbone: Backbone, decoded: Decoded, wanted: Sequence[Readout], context: Context, batch_size: int
) -> dict[Readout, Tensor]:
    if decoded.images is None:
        return {}
    try:
        return forward(backbone, decoded.images, wanted, context)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{backbone.card.name}: no memory on {context.device} for batches of {batch_size} images; choose "
            "a smaller --batch-size, after `ssleval cache clear` where this pass had begun with the larger"
        ) from error


def _write(
    writer: Writer | PartWriter | MemoryPass,
    stored: AnyPass | Part,
    decoded: Decoded,
    features: Mapping[Column, Tensor | None],
    split: Split,
) -> None:
    rows = stored.rows(decoded.batch)
    kept = np.array([row not in decoded.corrupt for row in rows], dtype=bool)
    ids = [split.ids[row] for row in rows if row not in decoded.corrupt]
    for row in decoded.corrupt:
        stored.mark(row, np.zeros(1, dtype=bool))
    for column, values in features.items():
        full = np.full((len(rows), *column.row), np.nan, dtype=column.dtype)
        if values is not None:
            full[kept] = _storable(values, column, ids)
        writer.write(column, decoded.batch, full)


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
