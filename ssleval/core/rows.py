"""Samples from the scores of items that were computed one by one."""

from collections.abc import Mapping

import numpy as np

from ssleval.core.vocabulary import Samples


def samples_of(rows: Mapping[str, Mapping[str, float]], cluster: str = "") -> Samples:
    """Return one row for every item, by its id; all have the same columns, and there is at least one.

    ``cluster`` is the column of `Samples.cluster`.
    """
    columns = {name: np.array([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
    return Samples(list(rows), columns, cluster)
