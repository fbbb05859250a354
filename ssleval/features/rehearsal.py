"""A stand-in for extracted features and for the model, with which parts of a task are run to price it."""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ssleval.core import FeatureRequest, FeatureTable, Readout, Split
from ssleval.core.backbone import Backbone, Features, Similarity
from ssleval.features.passes import column_of
from ssleval.features.readouts import canonical

_STEP = 7
"""Numbers from the beginning of one made-up row to that of the next."""
_FEW = 1 << 24
"""Numbers that are drawn one by one: 64 MB."""
_TEXT_SECONDS = 1.0
"""How long texts are really embedded; those after are counted."""


class Rehearsal:
    """Features of any images, those that are stored or made up in little memory, and the model, watched."""

    def __init__(self, backbone: Backbone, stored: Callable[[FeatureRequest], FeatureTable | None]) -> None:
        self.backbone = Watched(backbone)
        self._stored = stored

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return features of the shapes and types that a request has.

        Where none are stored they are random, and of few labelled images have classes, which solvers feel.
        """
        if (table := self._stored(request)) is not None:
            return _part(table, request.dataset.split(request.split))
        split, card = request.dataset.split(request.split), self.backbone.card
        geometry = request.geometry or card.native_geometry()
        arrays: dict[Readout, Float[np.ndarray, "n ..."]] = {}
        labels = split.targets
        for readout in request.readouts:
            column = column_of(canonical(readout, self.backbone), self.backbone, geometry)
            few = len(column.row) == 1 and len(split) * column.row[0] <= _FEW
            if few and labels is not None and labels.ndim == 1:
                arrays[readout] = _classes(labels, column.row[0])
            else:
                arrays[readout] = made_up(len(split), column.row, column.dtype)
        return FeatureTable(split.ids, split.targets, arrays, np.arange(len(split)))


class Watched(Backbone):
    """A model that counts what goes through it; of many texts it embeds some and adds up the rest."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone.card, num_blocks=backbone.num_blocks)
        self.inner = backbone
        self.images = self.forwards = self.texts = 0
        self.text_seconds = self.skipped_seconds = 0.0
        self.to(backbone.mean.device).eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watched":
        """Return a copy, as a task trains one, whose images count here."""
        copied = Watched(deepcopy(self.inner, memo))
        copied._count = self._count
        return copied

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Count, and return the model's own."""
        self._count(images)
        return self.inner.extract(images, blocks, norm=norm)

    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Count, and return the model's own."""
        self._count(images)
        return self.inner.attention(images)

    def keys(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b h w d"]:
        """Count, and return the model's own."""
        self._count(images)
        return self.inner.keys(images)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "n p"]:
        """Return the model's own, or vectors of their shape once enough were timed."""
        if self.text_seconds > _TEXT_SECONDS:
            self.skipped_seconds += self.text_seconds / self.texts * len(texts)
            width = self.card.pooled_dim or self.card.embed_dim
            return torch.ones(len(texts), width, device=self.mean.device)
        started = time.perf_counter()
        embedded = self.inner.encode_text(texts)
        self.text_seconds += time.perf_counter() - started
        self.texts += len(texts)
        return embedded

    def similarity(self) -> Similarity:
        """Return the model's own."""
        return self.inner.similarity()

    def _count(self, images: Tensor) -> None:
        self.images += len(images)
        self.forwards += 1


def _part(table: FeatureTable, split: Split) -> FeatureTable:
    if len(table.ids) == len(split):
        return table
    places = {name: place for place, name in enumerate(table.ids)}
    rows = [places[name] for name in split.ids]
    arrays = {readout: array[rows] for readout, array in table.arrays.items()}
    return FeatureTable(split.ids, split.targets, arrays, np.arange(len(rows)))


def _classes(labels: Shaped[np.ndarray, " n"], width: int) -> Float[np.ndarray, "n p"]:
    """Return clouds around a point for each label, of a spectrum that falls as fast as that of features."""
    random = np.random.default_rng(0)
    points = random.standard_normal((int(labels.max(initial=0)) + 1, width), np.float32)
    rows = random.standard_normal((len(labels), width), np.float32) + points[labels]
    return rows * np.arange(1, width + 1, dtype=np.float32) ** -1.5


def made_up(count: int, row: tuple[int, ...], dtype: str) -> Float[np.ndarray, "n ..."]:
    """Return ``count`` rows of normal numbers; rows overlap in memory, so that even millions need little."""
    size = math.prod(row)
    stream = np.random.default_rng(0).standard_normal(size + _STEP * count, np.float32).astype(dtype)
    inner = [stream.itemsize * math.prod(row[axis + 1 :]) for axis in range(len(row))]
    strides = (stream.itemsize * _STEP, *inner)
    return np.lib.stride_tricks.as_strided(stream, (count, *row), strides, writeable=False)
