"""From scores to classes, also those of another dataset than the one that a head was fitted on."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from ssleval.core import DatasetCard, FeatureTable
from ssleval.errors import DataError

Predict: TypeAlias = Callable[[FeatureTable], Int[np.ndarray, " n"]]
"""Gives the class of every row of a table."""


def largest(
    scores: Callable[[FeatureTable], Float[np.ndarray, "n c"]], places: Int[np.ndarray, " c"] | None = None
) -> Predict:
    """Return what predicts the class of the largest score, of equals the first.

    With ``places`` those outputs alone compete, and classes are numbered in their order.
    """
    if places is None:
        return lambda table: scores(table).argmax(axis=1)
    return lambda table: scores(table)[:, places].argmax(axis=1)


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
