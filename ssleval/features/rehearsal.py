"""A stand-in for extracted features and for the model, with which parts of a task are run to price it."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ssleval.core import FeatureRequest, FeatureTable
from ssleval.core.backbone import Backbone, Features, Similarity
from ssleval.features.passes import column_of
from ssleval.features.readouts import canonical

_STEP = 7
"""Numbers from the beginning of one made-up row to that of the next."""
_TEXT_SECONDS = 1.0
"""How long texts are really embedded; those after are counted."""


class Rehearsal:
    """Features of any number of images, made up in little memory, and the model itself, watched."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = Watched(backbone)

    def load(self, request: FeatureRequest) -> FeatureTable:
        """Return normal numbers of the shapes and types that the features of a request have."""
        split, card = request.dataset.split(request.split), self.backbone.card
        geometry = request.geometry or card.native_geometry()
        columns = {
            name: column_of(canonical(name, self.backbone), card, geometry) for name in request.readouts
        }
        arrays = {name: made_up(len(split), column.row, column.dtype) for name, column in columns.items()}
        return FeatureTable(split.ids, split.targets, arrays, np.arange(len(split)))


class Watched(Backbone):
    """A model that counts what goes through it; of many texts it embeds some and adds up the rest."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone.card, num_blocks=backbone.num_blocks)
        self.inner = backbone
        self.images = self.forwards = self.texts = 0
        self.text_seconds = self.skipped_seconds = 0.0
        self.to(backbone.mean.device).eval()

    def extract(self, images: Float[Tensor, "b 3 H W"], blocks: Sequence[int], *, norm: bool) -> Features:
        """Count, and return the model's own."""
        self._count(images)
        return self.inner.extract(images, blocks, norm=norm)

    def attention(self, images: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b heads h w"]:
        """Count, and return the model's own."""
        self._count(images)
        return self.inner.attention(images)

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


def made_up(count: int, row: tuple[int, ...], dtype: str) -> Float[np.ndarray, "n ..."]:
    """Return ``count`` rows of normal numbers; rows overlap in memory, so that even millions need little."""
    size = math.prod(row)
    stream = np.random.default_rng(0).standard_normal(size + _STEP * count, np.float32).astype(dtype)
    inner = [stream.itemsize * math.prod(row[axis + 1 :]) for axis in range(len(row))]
    strides = (stream.itemsize * _STEP, *inner)
    return np.lib.stride_tricks.as_strided(stream, (count, *row), strides, writeable=False)
