"""Outcomes of recognition, where a query may show none of the known classes at all."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from ssleval.core import Metric, Samples
from ssleval.metrics.micro_ap import micro_average_precision_of
from ssleval.metrics.stats import mean_of

GAP = Metric("gap", micro_average_precision_of("confidence", "right", "known"))
"""Global average precision: over all queries in one ranking by confidence."""
GAP_MINUS = Metric("gap_minus", micro_average_precision_of("confidence_known", "right", "known"))
"""The same over the queries that show a known class."""
TOP1 = Metric("top1", mean_of("top1"))
"""The part of these that is right."""


def outcomes(
    predicted: Int[np.ndarray, " m"], confidence: Float[np.ndarray, " m"], truth: Int[np.ndarray, " m"]
) -> dict[str, Shaped[np.ndarray, "m ..."]]:
    """Return the columns of these metrics; a truth below 0 is no known class."""
    known = truth >= 0
    right = known & (predicted == truth)
    return {
        "predicted": predicted,
        "confidence": confidence[:, None],
        "confidence_known": np.where(known, confidence, np.nan)[:, None],
        "right": right[:, None],
        "known": known,
        "top1": np.where(known, right.astype(np.float64), np.nan),
    }


def gap(
    predicted: Int[np.ndarray, " m"], confidence: Float[np.ndarray, " m"], truth: Int[np.ndarray, " m"]
) -> float:
    """Return the global average precision."""
    return GAP.score(Samples([""] * len(truth), outcomes(predicted, confidence, truth)))
