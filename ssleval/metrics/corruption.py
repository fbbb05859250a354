"""Mean corruption error (mCE): errors on corrupted images, relative to those of AlexNet."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from ssleval.core import Samples
from ssleval.core.corruptions import CORRUPTIONS
from ssleval.metrics.stats import Scores, Weights, statistic

_ERRORS = (
    0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324,
    0.564592, 0.853204, 0.646056, 0.717840, 0.606500,
)  # fmt: skip
ALEXNET_ERRORS: Mapping[str, float] = dict(zip(CORRUPTIONS, _ERRORS, strict=True))
"""AlexNet's top-1 error on every corruption of ImageNet-C, the mean over its five severities.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, and their ``ImageNet-C/test.py``.
"""
WORST = sum(1 / error for error in _ERRORS) / len(_ERRORS)
"""The mCE of a model that is always wrong."""


@statistic
def mean_corruption_error_of(samples: Samples, weights: Weights, wrong: str) -> Scores:
    """Return the statistic mCE as a fraction: 1.0 is AlexNet's; papers print 100 times that.

    ``wrong [n 15 5]`` is whether the model errs on each image, by corruption in the order of `ALEXNET_ERRORS`
    and by severity.

    Source:
        Hendrycks and Dietterich 2019, arXiv:1903.12261, sec. 4.1: CE is the sum of the model's errors over
        severities divided by that of AlexNet, and mCE the mean of CE over corruptions.
    """
    by_corruption = samples[wrong].mean(axis=2, dtype=np.float64)
    errors = weights @ by_corruption / weights.sum(axis=1, keepdims=True)
    return (errors / np.array([*ALEXNET_ERRORS.values()])).mean(axis=1)


def image_errors(wrong: Shaped[np.ndarray, "n 15 5"]) -> Float[np.ndarray, " n"]:
    """Return what each image contributes: their mean is mCE."""
    return (wrong.mean(axis=2, dtype=np.float64) / np.array(_ERRORS)).mean(axis=1)
