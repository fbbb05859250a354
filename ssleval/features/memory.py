"""Features of a model that is being trained: images are kept decoded, features in memory, nothing on disk."""

from collections.abc import Iterable
from contextlib import ExitStack

from ssleval.core import Context
from ssleval.core.backbone import Backbone
from ssleval.features.extract import Consumer, choose_batch_size
from ssleval.features.filling import Filling
from ssleval.features.kept import KeptImages
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
        self._images = images
        self._passes: dict[str, MemoryPass] = {}

    def cost(self, passes: Iterable[Pass]) -> dict[str, float]:  # noqa: ARG002
        """Return nothing: a model in training costs the same at every step."""
        return {}

    def _filling(self, pass_: Pass) -> Filling:
        return _MemoryFilling(self.backbone, pass_, self.context, self._passes, self._images)


class _MemoryFilling(Filling):
    """One pass of one model that is kept in ``passes``, by key."""

    def __init__(
        self,
        backbone: Backbone,
        pass_: Pass,
        context: Context,
        passes: dict[str, MemoryPass],
        images: KeptImages,
    ) -> None:
        super().__init__(backbone, pass_, context)
        self._passes, self._images = passes, images

    def open(self) -> AnyPass | None:
        """Return what there is of the pass."""
        return self._passes.get(self.pass_.key)

    def begin(self, shard: Shard, locks: ExitStack) -> None:  # noqa: ARG002
        """Make room where there is none yet: nobody else writes this memory."""
        if self.pass_.key not in self._passes:
            size = choose_batch_size(self.backbone, self.pass_.readouts, self.pass_.geometry, self.context)
            self._passes[self.pass_.key] = MemoryPass(len(self.pass_.split), size)
        stored = self._passes[self.pass_.key]
        self.consumer = Consumer(self.backbone, self.pass_, stored, self.context, self._images.batches)
