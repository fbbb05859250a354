"""The one pass: decode, resize, forward, read out, store. Every readout of a batch comes from it."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

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
from ssleval.features.progress import progress
from ssleval.features.readouts import blocks_of, by_norm, read
from ssleval.features.shard import Shard
from ssleval.features.store import Column, StoredPass, Writer

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

CPU_BATCH = 32
"""Caches of a processor hold no more; a fixed number, so that runs agree across machines."""

LARGEST_BATCH = 256
"""Where halving begins on an accelerator; beyond it throughput no longer grows."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What one call of `extract` did."""

    images: int = 0
    forwards: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Extracted") -> "Extracted":
        return Extracted(
            self.images + other.images, self.forwards + other.forwards, self.seconds + other.seconds
        )


def forward(
    backbone: Backbone,
    images: UInt8[Tensor, "b H W 3"],
    readouts: Sequence[Readout],
    context: Context,
) -> dict[Readout, Float[Tensor, "b ..."]]:
    """Run the model on 8-bit images and return every readout, on ``context.device``."""
    return forward_pixels(backbone, _pixels(images, context), readouts, context)


def forward_pixels(
    backbone: Backbone,
    pixels: Float[Tensor, "b 3 H W"],
    readouts: Sequence[Readout],
    context: Context,
) -> dict[Readout, Float[Tensor, "b ..."]]:
    """Run the model on RGB in [0, 1] that lies on ``context.device`` and return every readout."""
    found: dict[Readout, Tensor] = {}
    for norm, group in by_norm(readouts).items():
        blocks = blocks_of(group)
        with _numerics(context):
            features = backbone(pixels, blocks, norm=norm)
        found |= {readout: read(readout, features, blocks, backbone.card) for readout in group}
    return found


def class_attention(
    backbone: Backbone, images: UInt8[Tensor, "b H W 3"], context: Context
) -> Float[Tensor, "b heads h w"]:
    """Run the model on 8-bit images and return its last block's attention of the class token.

    Raises:
        NotApplicableError: it has no such attention.
    """
    with _numerics(context):
        return backbone.attention(_pixels(images, context))


def _pixels(images: UInt8[Tensor, "b H W 3"], context: Context) -> Float[Tensor, "b 3 H W"]:
    pixels = images.to(context.device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(255)


def choose_batch_size(
    backbone: Backbone, readouts: Sequence[Readout], geometry: Geometry | RandomView, context: Context
) -> int:
    """Return how many images go through the model at once: as asked, or what fits.

    Images whose sizes vary go one by one. On an accelerator a batch of black images is tried, halved
    while memory does not suffice.

    Raises:
        ConfigError: not even one image fits.
    """
    side = geometry.fixed_size
    if side is None:
        return 1
    if context.batch_size:
        return context.batch_size
    if not context.device.startswith("cuda"):
        return CPU_BATCH
    size = LARGEST_BATCH
    while size:
        try:
            forward(backbone, torch.zeros(size, side, side, 3, dtype=torch.uint8), readouts, context)
        except torch.OutOfMemoryError:
            size //= 2
            torch.cuda.empty_cache()
        else:
            return size
    raise ConfigError(f"{backbone.card.name}: no memory on {context.device} for one image of {side} pixels")


def extract(
    backbone: Backbone,
    split: Split,
    geometry: Geometry | RandomView,
    stored: StoredPass,
    columns: Mapping[Readout, Column],
    context: Context,
    shard: Shard,
    label: str = "",
) -> Extracted:
    """Extract what ``stored`` still lacks of ``columns``, which must be allocated.

    Raises:
        DataError: an image cannot be decoded, unless ``context.skip_corrupt``; the disk is full.
        ContractError: features that are not finite, or too large for the type they are stored in.
    """
    started = time.perf_counter()
    pending = {readout: set(stored.pending(column)) for readout, column in columns.items()}
    batches = sorted(set().union(*pending.values()))[shard.rank :: shard.world]
    corrupt = frozenset(np.flatnonzero(~stored.valid()).tolist())
    # Nobody writes before all have read: what is left decides who takes which batch.
    shard.barrier()
    decoder = Decoder(split, geometry, stored.batch_size, corrupt)
    images = sum(len(stored.rows(batch)) for batch in batches)
    show = context.progress and shard.rank == 0
    forwards = 0
    with (
        freed_memory_kept(),
        stored.writer([columns[one] for one in columns if pending[one]]) as writer,
        progress(label, len(split) // shard.world, len(split) // shard.world - images, show=show) as advance,
    ):
        for decoded in decoded_batches(decoder, batches, context):
            wanted = tuple(readout for readout in columns if decoded.batch in pending[readout])
            _refuse_corrupt(decoded, context)
            features = _features(backbone, decoded, wanted, context, stored.batch_size)
            _write(writer, stored, decoded, {columns[one]: features.get(one) for one in wanted}, split)
            forwards += len(by_norm(wanted)) if features else 0
            advance(len(stored.rows(decoded.batch)))
    return Extracted(images, forwards, time.perf_counter() - started)


@contextmanager
def _numerics(context: Context) -> Generator[None, None, None]:
    dtype = AUTOCAST.get(context.precision)
    with ExitStack() as stack:
        if dtype is not None:
            stack.enter_context(torch.autocast(torch.device(context.device).type, dtype=dtype))
        # By default convolutions round to TF32 on recent GPUs, and may choose another algorithm each run.
        stack.enter_context(
            cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False)
        )
        yield


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
    writer: Writer,
    stored: StoredPass,
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
    fine = torch.isfinite(converted).flatten(1).all(dim=1)
    if not bool(fine.all()):
        first = int((~fine).nonzero()[0])
        what = f"a feature beyond the range of {column.dtype}"
        if not bool(torch.isfinite(values[first]).all()):
            what = "a feature that is not finite; try --precision bf16 or fp32"
        raise ContractError(f"{ids[first]}: {column.name} has {what}")
    return converted.cpu().numpy()
