"""Samples from the scores of items that were computed one by one."""

from collections.abc import Mapping

import numpy as np

from ssleval.core.vocabulary import Samples


def samples_of(rows: Mapping[str, Mapping[str, float]]) -> Samples:
    """Return one row for every item, by its id; all have the same columns, and there is at least one."""
    columns = next(iter(rows.values()))
    return Samples(list(rows), {name: np.array([row[name] for row in rows.values()]) for name in columns})
