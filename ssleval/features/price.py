"""What passes would cost, for ``--dry-run``, and the floating-point operations of a forward pass."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssleval.core import Context, Readout
from ssleval.core.backbone import Backbone
from ssleval.features.decode import Decoder
from ssleval.features.extract import choose_batch_size, forward
from ssleval.features.memorypass import AnyPass
from ssleval.features.passes import Pass
from ssleval.features.readouts import by_norm


@dataclass(frozen=True, slots=True)
class PassPrice:
    """What is left to do of a pass."""

    priced: Pass
    batch_size: int
    images_left: int
    """Images that lack at least one readout; 0 where all is stored."""
    forward_passes: int
    """Batches still to go through the model."""
    bytes_total: int
    """Features of all readouts on disk."""
    bytes_left: int
    """Features still to be written."""


def price_of(pass_: Pass, backbone: Backbone, stored: AnyPass | None, context: Context) -> PassPrice:
    """Price a pass by what is stored of it already."""
    size = (
        stored.batch_size if stored else choose_batch_size(backbone, pass_.readouts, pass_.geometry, context)
    )
    images = len(pass_.split)
    counts = np.diff([*range(0, images, size), images])
    left: dict[int, list[Readout]] = {}
    bytes_total = bytes_left = 0
    for readout, column in pass_.columns(backbone).items():
        row_bytes = math.prod(column.row) * np.dtype(column.dtype).itemsize
        pending = stored.pending(column) if stored else range(len(counts))
        bytes_total += images * row_bytes
        bytes_left += sum(int(counts[batch]) for batch in pending) * row_bytes
        for batch in pending:
            left.setdefault(batch, []).append(readout)
    images_left = sum(int(counts[batch]) for batch in left)
    forward_passes = sum(len(by_norm(readouts)) for readouts in left.values())
    return PassPrice(pass_, size, images_left, forward_passes, bytes_total, bytes_left)


def seconds_per_image(price: PassPrice, backbone: Backbone, context: Context, batches: int = 2) -> float:
    """Measure a few batches of real images, after one to warm up; nothing is stored.

    Workers decode while the model computes, so the slower of the two counts; without workers both do.
    """
    split, geometry = price.priced.split, price.priced.geometry
    decoder = Decoder(split, geometry, min(price.batch_size, len(split)))
    decoding = computing = images = 0.0
    for turn in range(batches + 1):
        started = time.perf_counter()
        decoded = decoder[turn % len(decoder)]
        between = time.perf_counter()
        if decoded.images is not None:
            for values in forward(backbone, decoded.images, price.priced.readouts, context).values():
                values.cpu()
        if turn:
            decoding += between - started
            computing += time.perf_counter() - between
            images += len(decoder.rows(decoded.batch))
    workers = int(context.num_workers)
    if workers == 0:
        return (decoding + computing) / images
    return max(decoding / workers, computing) / images


def forward_flops(backbone: Backbone, side: int, device: str) -> int:
    """Return the FLOPs of one forward pass of one square image of ``side`` pixels.

    Matrix products, convolutions and attention count, a multiply-add as two operations. Activations, norms
    and softmax, which take few, do not. The result depends on neither weights nor device.
    """
    # Brings triton and 70 MB, which a run that reads stored results does without.
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, 3, side, side, device=device)
    fast = torch.backends.mha.get_fastpath_enabled()
    # The counter may not know fused kernels, so they are replaced by their parts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            backbone(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
