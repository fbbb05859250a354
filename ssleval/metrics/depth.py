"""Errors of depth maps in metres, image by image; scores are means over images."""

import numpy as np
from jaxtyping import Float

ERRORS = ("rmse", "abs_rel", "log10", "rmse_log", "silog", "sq_rel", "delta1", "delta2", "delta3")
"""The values that `depth_errors` returns, in order."""


def depth_errors(
    predicted: Float[np.ndarray, "H W"], target: Float[np.ndarray, "H W"], *, nearest: float, farthest: float
) -> tuple[float, ...]:
    """Return the `ERRORS` of one image; NaN where no pixel has a known depth.

    Pixels count if the target lies strictly between ``nearest`` and ``farthest`` metres. ``rmse`` and
    ``sq_rel`` are in metres, ``log10`` in decades, ``rmse_log`` in natural logarithms, ``silog`` in
    hundredths of them. ``delta1..3`` are the fractions of pixels off by a factor below 1.25, 1.25^2 and
    1.25^3.

    Source:
        Eigen et al. 2014, sec. 4.3; agrees with ``metrics`` of the Monocular-Depth-Estimation-Toolbox.
    """
    known = (target > nearest) & (target < farthest)
    if not known.any():
        return (float("nan"),) * len(ERRORS)
    ours, true = predicted[known].astype(np.float64), target[known].astype(np.float64)
    gap, log = ours - true, np.log(ours) - np.log(true)
    factor = np.maximum(ours / true, true / ours)
    return (
        float(np.sqrt((gap**2).mean())),
        float((np.abs(gap) / true).mean()),
        float(np.abs(log).mean() / np.log(10)),
        float(np.sqrt((log**2).mean())),
        float(100 * log.std()),
        float((gap**2 / true).mean()),
        *(float((factor < 1.25**power).mean()) for power in (1, 2, 3)),
    )
