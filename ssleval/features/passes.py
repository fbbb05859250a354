"""Requests of all tasks, merged into as few passes over images as there can be, and their price."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ssleval.core import BackboneCard, Context, Geometry, RandomView, Readout, Split
from ssleval.core.backbone import Backbone
from ssleval.features.decode import Decoder
from ssleval.features.extract import choose_batch_size, forward
from ssleval.features.identity import pass_identity, pass_key
from ssleval.features.readouts import by_norm, row_shape
from ssleval.features.store import Column, StoredPass


@dataclass(frozen=True, slots=True)
class Pass:
    """One split, seen once at one geometry, for all readouts anyone asked for."""

    dataset: str
    split_name: str
    split: Split
    geometry: Geometry | RandomView
    readouts: tuple[Readout, ...]
    """Canonical ones, in the order first asked for."""
    identity: dict[str, Any]
    """All that decides its features."""
    key: str
    """Digest of the identity: the name of its folder."""

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.dataset}/{self.split_name}"


@dataclass(frozen=True, slots=True)
class PassPrice:
    """What a pass would cost, for ``--dry-run``."""

    dataset: str
    split: str
    geometry: Geometry | RandomView
    readouts: tuple[str, ...]
    images: int
    """Images of the split."""
    images_left: int
    """Images that lack at least one readout; 0 where all is stored."""
    forward_passes: int
    """Batches still to go through the model."""
    batch_size: int
    bytes_total: int
    """Features of all readouts on disk."""
    bytes_left: int
    """Features still to be written."""


def pass_of(
    backbone: Backbone,
    identity: Mapping[str, Any],
    dataset: str,
    split_name: str,
    split: Split,
    geometry: Geometry | RandomView,
) -> Pass:
    """Return the pass over one split at one geometry, without any readout yet.

    Args:
        backbone: the model.
        identity: what `model_identity` says of the model.
        dataset: name of the dataset.
        split_name: name of the split.
        split: the split itself.
        geometry: as requested; ``"patch"`` is replaced by the model's patch size.
    """
    if isinstance(geometry, Geometry):
        geometry = geometry.on_grid(backbone.card.patch_size)
    decisive = pass_identity(identity, dataset, split_name, split, geometry)
    return Pass(dataset, split_name, split, geometry, (), decisive, pass_key(decisive))


def merge(passes: Iterable[Pass]) -> tuple[Pass, ...]:
    """Return one pass for each key, with the readouts of all that share it."""
    merged: dict[str, Pass] = {}
    for single in passes:
        known = merged.get(single.key)
        readouts = single.readouts if known is None else known.readouts + single.readouts
        merged[single.key] = replace(single, readouts=tuple(dict.fromkeys(readouts)))
    return tuple(merged.values())


def column_of(readout: Readout, card: BackboneCard, geometry: Geometry | RandomView) -> Column:
    """Return how a canonical readout is stored: patch grids in half the bytes, all else in float32.

    Raises:
        ConfigError: a patch grid of images whose sizes vary.
    """
    name = str(readout).replace("[", "-").replace("]", "").replace(":", "-")
    dtype = "float16" if readout.kind == "patches" else "float32"
    return Column(name, row_shape(readout, card, geometry), dtype)


def price_of(pass_: Pass, backbone: Backbone, stored: StoredPass | None, context: Context) -> PassPrice:
    """Price a pass by what is stored of it already."""
    size = (
        stored.batch_size if stored else choose_batch_size(backbone, pass_.readouts, pass_.geometry, context)
    )
    images = len(pass_.split)
    every = list(range(-(-images // size)))
    left: dict[int, list[Readout]] = {}
    total = missing = 0
    for readout in pass_.readouts:
        column = column_of(readout, backbone.card, pass_.geometry)
        row_bytes = math.prod(column.row) * np.dtype(column.dtype).itemsize
        total += images * row_bytes
        for batch in stored.pending(column) if stored else every:
            left.setdefault(batch, []).append(readout)
            missing += _count(batch, size, images) * row_bytes
    return PassPrice(
        dataset=pass_.dataset,
        split=pass_.split_name,
        geometry=pass_.geometry,
        readouts=tuple(map(str, pass_.readouts)),
        images=images,
        images_left=sum(_count(batch, size, images) for batch in left),
        forward_passes=sum(len(by_norm(readouts)) for readouts in left.values()),
        batch_size=size,
        bytes_total=total,
        bytes_left=missing,
    )


def seconds_per_image(
    pass_: Pass, backbone: Backbone, batch_size: int, context: Context, batches: int = 2
) -> float:
    """Measure a few batches of real images, after one to warm up; nothing is stored.

    Workers decode while the model computes, so the slower of the two counts; without workers both do.
    """
    decoder = Decoder(pass_.split, pass_.geometry, min(batch_size, len(pass_.split)))
    decoding = computing = images = 0.0
    for turn in range(batches + 1):
        started = time.perf_counter()
        decoded = decoder[turn % len(decoder)]
        between = time.perf_counter()
        if decoded.images is not None:
            for values in forward(backbone, decoded.images, pass_.readouts, context).values():
                values.cpu()
        if turn:
            decoding += between - started
            computing += time.perf_counter() - between
            images += _count(turn % len(decoder), decoder.batch_size, len(pass_.split))
    if context.num_workers == 0:
        return (decoding + computing) / images
    return max(decoding / context.num_workers, computing) / images


def _count(batch: int, size: int, images: int) -> int:
    return min(size, images - batch * size)
