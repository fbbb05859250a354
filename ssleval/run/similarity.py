"""How alike models see one set of images: every pair of them, from stored features."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from ssleval.core import FeatureRequest
from ssleval.errors import ConfigError, DataError
from ssleval.features import FeatureSource
from ssleval.heads.knn import nearest_neighbours
from ssleval.metrics.similarity import Gram, cka, mutual_knn
from ssleval.results.similarity import Pair, Similarities


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    weights_sha256: str
    gram: Gram
    nearest: Int[np.ndarray, "n w"]


def similarities(
    sources: Sequence[Callable[[], FeatureSource]], name: str, request: FeatureRequest, k: int = 10
) -> Similarities:
    """Return the similarities of all models; ``sources`` load them one after another.

    Raises:
        ConfigError: fewer than two models, or fewer images than neighbours.
        DataError: models could not decode the same images.
    """
    if len(sources) < 2:
        raise ConfigError(f"similarity of {len(sources)} model; name two or more")
    split = request.dataset.split(request.split)
    if not 1 <= k < len(split) - 1:
        raise ConfigError(f"{k} nearest neighbours of {len(split)} images; ask for 1 to {len(split) - 2}")
    (readout,) = request.readouts
    seen: list[_Seen] = []
    precision = ""
    for load in sources:
        source = load()
        precision = source.context.precision
        source.prepare([request])
        table = source.load(request)
        if len(table.ids) != len(split):
            raise DataError(f"{name}: {len(split) - len(table.ids)} images cannot be decoded; remove them")
        vectors, card = table[readout], source.backbone.card
        seen.append(_Seen(card.name, source.backbone.weights_sha256, Gram(vectors), _nearest(vectors, k + 1)))
    pairs = [
        Pair(
            one,
            two,
            astuple(cka(first.gram, second.gram)),
            astuple(mutual_knn(first.nearest, second.nearest)),
        )
        for (one, first), (two, second) in combinations(enumerate(seen), 2)
    ]
    return Similarities(
        name, request.split, split.fingerprint, str(readout), len(split), k, [one.name for one in seen],
        [one.weights_sha256 for one in seen], pairs, precision,
    )  # fmt: skip


def _nearest(vectors: Float[np.ndarray, "n d"], width: int) -> Int[np.ndarray, "n w"]:
    """Return the nearest others of every image by cosine."""
    found = nearest_neighbours(vectors, vectors, k=width + 1)[1].numpy()
    own = found == np.arange(len(found))[:, None]
    # Of images that are alike, others may come before the image itself, which then may be missing.
    own[:, -1] |= ~own.any(axis=1)
    return found[~own].reshape(len(found), width)
