"""Features of a model that is being trained: images are kept decoded, features in memory, nothing on disk."""

from collections.abc import Iterable
from contextlib import ExitStack

from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.features.decode import KeptImages
from ssleval.features.extract import Consumer, choose_batch_size
from ssleval.features.filling import Filling
from ssleval.features.memorypass import AnyPass, MemoryPass
from ssleval.features.passes import Pass
from ssleval.features.shard import Shard
from ssleval.features.source import FeatureSource


class MemorySource(FeatureSource):
    """Features of one backbone under one context, as `FeatureSource` gives them, kept while this object is.

    One process extracts them, by the same code and in the same batches: they are equal to the bit.
    """

    def __init__(self, backbone: Backbone, context: Context, images: KeptImages) -> None:
        super().__init__(backbone, context, images)
        self.images = images
        self.kept: dict[str, MemoryPass] = {}
        """What is extracted, by key of the pass."""

    def cost(self, passes: Iterable[Pass]) -> dict[str, float]:  # noqa: ARG002
        """Return nothing: a model in training costs the same at every step."""
        return {}

    def _filling(self, pass_: Pass) -> Filling:
        return _MemoryFilling(self, pass_)


class _MemoryFilling(Filling):
    def __init__(self, source: MemorySource, pass_: Pass) -> None:
        super().__init__(source.backbone, pass_, source.context)
        self._source = source

    def open(self) -> AnyPass | None:
        """Return what there is of the pass."""
        return self._source.kept.get(self.pass_.key)

    def begin(self, shard: Shard, locks: ExitStack) -> None:  # noqa: ARG002
        """Make room where there is none yet: nobody else writes this memory."""
        kept, pass_ = self._source.kept, self.pass_
        if pass_.key not in kept:
            size = choose_batch_size(self.backbone, pass_.readouts, pass_.geometry, self.context)
            kept[pass_.key] = MemoryPass(len(pass_.split), size)
        images = self._source.images.batches
        self.consumer = Consumer(self.backbone, pass_, kept[pass_.key], self.context, images)
