"""The classes of a dataset among those of another one, which a head was fitted on."""

import numpy as np
from jaxtyping import Int

from ssleval.core import DatasetCard
from ssleval.errors import DataError


def class_places(card: DatasetCard, fitted: DatasetCard) -> Int[np.ndarray, " c"]:
    """Return which outputs of a head of ``fitted`` stand for the classes of ``card``, in their order.

    Classes go by name, or by the number of an output.

    Raises:
        DataError: the head has no such class.
    """
    known = {name: place for place, name in enumerate(fitted.class_names)}
    # V2 numbers its folders by ImageNet's label; all others call them by WordNet id.
    known |= {str(place): place for place in range(fitted.num_classes)}
    strange = [name for name in card.class_names if name not in known]
    if strange:
        raise DataError(
            f"{card.name}: {strange[0]!r} is none of the {fitted.num_classes} classes of {fitted.name}, "
            "which the head was fitted on"
        )
    return np.array([known[name] for name in card.class_names], dtype=np.int64)
