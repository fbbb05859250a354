"""Decoded images that are kept for those who need them again."""

from collections.abc import Iterator, Sequence

from ssleval.core import Context, Geometry, RandomView, Split
from ssleval.features.decode import Decoded, Decoder, decoded_batches


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
