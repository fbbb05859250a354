"""Features of a model that is being trained: images are kept decoded, features in memory, nothing on disk."""

from collections.abc import Iterable, Iterator, Sequence

from ssleval.core import Context, Geometry, RandomView, Split
from ssleval.core.backbone import Backbone
from ssleval.features.decode import Decoded, Decoder, decoded_batches
from ssleval.features.extract import Extracted, choose_batch_size, extract
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

    def _open(self, pass_: Pass) -> AnyPass | None:
        return self._passes.get(pass_.key)

    def _fill(self, pass_: Pass, shard: Shard) -> None:
        if pass_.key not in self._passes:
            size = choose_batch_size(self.backbone, pass_.readouts, pass_.geometry, self.context)
            self._passes[pass_.key] = MemoryPass(len(pass_.split), size)
        stored, decode = self._passes[pass_.key], self._images.batches
        done = extract(self.backbone, pass_, stored, self.context, shard, decode)
        self.counts[pass_.key] = done + self.counts.get(pass_.key, Extracted())
