"""What is kept of a forward pass: one tensor with a row per image for every `Readout`."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import BackboneCard, Geometry, RandomView, Readout
from ssleval.core.backbone import Backbone, Features
from ssleval.errors import ConfigError, NotApplicableError

GEM_POWER = 4.0
GEM_FLOOR = 1e-6
"""Power of the generalised mean, and the value below which patch features are clamped.

Source: facebookresearch/dino, eval_copy_detection.py, extract_features.
"""


def canonical(readout: Readout, backbone: Backbone) -> Readout:
    """Return the same readout with its block counted from zero, so that equal ones are stored once."""
    if readout.kind == "pooled":
        return Readout("pooled")
    count = backbone.num_blocks
    if readout.quarter:
        known, block = count >= 4 and readout.quarter in range(1, 5), _end_of_quarter(readout.quarter, count)
    elif readout.twelfth:
        known, block = readout.twelfth in range(1, 13), -(-count * readout.twelfth // 12) - 1
    else:
        known, block = -count <= readout.block < count, readout.block % max(count, 1)
    if not known:
        raise NotApplicableError(f"{backbone.card.name}: no block for {readout}; it has {count}")
    return replace(readout, block=block, quarter=0, twelfth=0)


def _end_of_quarter(quarter: int, count: int) -> int:
    """Return the block, of ``count`` from zero, that ends a quarter of the model.

    Source:
        facebookresearch/dinov2, hub/depthers.py: 2, 5, 8, 11 of 12 blocks, 9, 19, 29, 39 of 40; of 24
        it takes 4, 11, 17, 23, the first one too early.
    """
    return 4 if (quarter, count) == (1, 24) else count * quarter // 4 - 1


def blocks_of(readouts: Sequence[Readout]) -> tuple[int, ...]:
    """Return the blocks a forward pass must give for ``readouts``, in increasing order."""
    return tuple(sorted({readout.block for readout in readouts if readout.kind != "pooled"}))


def by_norm(readouts: Sequence[Readout]) -> dict[bool, tuple[Readout, ...]]:
    """Group readouts by forward pass, with or without the final norm; ``pooled`` joins whichever there is."""
    pooled = tuple(readout for readout in readouts if readout.kind == "pooled")
    blocks = [readout for readout in readouts if readout.kind != "pooled"]
    groups = {norm: tuple(readout for readout in blocks if readout.norm is norm) for norm in (True, False)}
    joined = bool(groups[True]) or not groups[False]
    groups[joined] = pooled + groups[joined]
    return {norm: group for norm, group in groups.items() if group}


def read(
    readout: Readout, features: Features, blocks: Sequence[int], card: BackboneCard
) -> Float[Tensor, "b ..."]:
    """Return what ``readout`` keeps of ``features``: ``[b p]``, ``[b d]`` or ``[b h w d]``.

    Means are taken in float32 whatever the precision of the forward pass. ``blocks`` says which blocks
    ``features.blocks`` holds, in that order.
    """
    if readout.kind == "pooled":
        return features.pooled
    tokens = features.blocks[blocks.index(readout.block)]
    if readout.kind == "patches":
        return tokens.patches
    if readout.kind == "mean":
        return tokens.patches.float().mean(dim=(1, 2))
    if readout.kind == "gem":
        powers = tokens.patches.float().clamp(min=GEM_FLOOR).pow(GEM_POWER)
        return powers.mean(dim=(1, 2)).pow(1 / GEM_POWER)
    if tokens.cls is None:
        raise NotApplicableError(f"{card.name} has no class token for {readout}; use mean or pooled")
    return tokens.cls


def row_shape(readout: Readout, backbone: Backbone, geometry: Geometry | RandomView) -> tuple[int, ...]:
    """Return the shape of one image's row, as the card promises it; refuse grids of varying sizes."""
    card = backbone.card
    if readout.kind == "pooled":
        return (card.pooled_dim or card.embed_dim,)
    if readout.kind != "patches":
        return (card.embed_dim,)
    if geometry.fixed_size is None:
        raise ConfigError(f"{readout} needs images of one size; this geometry keeps their aspect: {geometry}")
    return *backbone.patch_grid(square(geometry.fixed_size)), card.embed_dim


def square(side: int) -> Float[Tensor, "1 3 s s"]:
    """Return the shape of a square image, without its pixels."""
    return torch.empty(1, 3, side, side, device="meta")
