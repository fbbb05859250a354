"""Features of a model that is being trained: images are kept decoded, features in memory, nothing on disk."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from ssleval.core import Context, Geometry, RandomView, Split
from ssleval.core.backbone import Backbone
from ssleval.features.decode import Decoded, Decoder, decoded_batches
from ssleval.features.extract import Consumer, choose_batch_size
from ssleval.features.filling import Filling
from ssleval.features.memorypass import AnyPass, MemoryPass
from ssleval.features.passes import Pass
from ssleval.features.shard import Shard
from ssleval.features.source import FeatureSource


class KeptImages:
    """Batches of decoded images, up to ``limit`` bytes; those beyond are decoded each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: dict[tuple[int, Geometry | RandomView, int, frozenset[int]], dict[int, Decoded]] = {}
        # So that no other split takes the id of one.
        self._splits: dict[int, Split] = {}

    def batches(self, decoder: Decoder, batches: Sequence[int], context: Context) -> Iterator[Decoded]:
        """Yield ``batches`` in that order, as `decoded_batches` does; those that are kept are not decoded."""
        split = decoder.split
        self._splits[id(split)] = split
        key = (id(split), decoder.geometry, decoder.batch_size, decoder.known_corrupt)
        kept = self._kept.setdefault(key, {})
        left = [batch for batch in batches if batch not in kept]
        fresh = iter(decoded_batches(decoder, left, context) if left else ())
        for batch in batches:
            decoded = kept[batch] if batch in kept else next(fresh)
            if batch not in kept:
                self._keep(kept, decoded)
            yield decoded

    def _keep(self, kept: dict[int, Decoded], decoded: Decoded) -> None:
        images = decoded.images
        size = 0 if images is None else images.nbytes
        if self.size + size > self.limit:
            return
        if images is not None and images.is_shared():
            # Memory shared with a worker holds an open file for every tensor.
            decoded = decoded._replace(images=images.clone())
        kept[decoded.batch] = decoded
        self.size += size


class MemorySource(FeatureSource):
    """Features of one backbone under one context, as `FeatureSource` gives them, kept while this object is.

    One process extracts them, by the same code and in the same batches: they are equal to the bit.
    """

    def __init__(self, backbone: Backbone, context: Context, images: KeptImages) -> None:
        super().__init__(backbone, context)
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
