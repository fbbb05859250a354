"""Outcomes of classification, item by item."""

import numpy as np
from jaxtyping import Bool, Int

from ssleval.errors import ContractError


def top_k_correct(
    predicted: Int[np.ndarray, "n c"], target: Int[np.ndarray, " n"], k: int
) -> Bool[np.ndarray, " n"]:
    """Return whether the target is among the first ``k`` classes of ``predicted``, best first.

    If there are fewer than ``k`` columns, all of them count.

    Raises:
        ContractError: ``k`` is not positive.
    """
    if k < 1:
        raise ContractError(f"top-{k}: k must be at least 1")
    return (predicted[:, :k] == target[:, None]).any(axis=1)
