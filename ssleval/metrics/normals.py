"""Angles between predicted and measured surface normals, image by image; scores are means over images."""

import numpy as np
from jaxtyping import Float

THRESHOLDS = (11.25, 22.5, 30.0)
"""Degrees."""
ERRORS = (*(f"within@{limit:g}" for limit in THRESHOLDS), "rmse")
"""The values that `angular_errors` returns, in order."""


def angular_errors(
    predicted: Float[np.ndarray, "H W 3"], target: Float[np.ndarray, "H W 3"]
) -> tuple[float, ...]:
    """Return the `ERRORS` of one image; NaN where no pixel has a known normal.

    Vectors are of length 1; pixels whose target is 0 count nowhere. ``within@`` are the fractions of pixels
    whose angle is below so many degrees, ``rmse`` is the root of the mean square of angles in degrees.

    Source:
        Fouhey et al. 2013; as in ``evaluate_surface_norm`` of probe3d (El Banani et al. 2024).
    """
    known = target.any(axis=2)
    if not known.any():
        return (float("nan"),) * len(ERRORS)
    ours, true = predicted[known].astype(np.float64), target[known].astype(np.float64)
    # The arc cosine loses half of the digits near 0.
    angle = np.degrees(
        2 * np.arctan2(np.linalg.norm(ours - true, axis=1), np.linalg.norm(ours + true, axis=1))
    )
    within = (float((angle < limit).mean()) for limit in THRESHOLDS)
    return (*within, float(np.sqrt((angle**2).mean())))
