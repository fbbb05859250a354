"""Errors on corrupted images, each corruption counted by how hard it is for AlexNet."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from jaxtyping import Float

from ssleval.core import Samples, Statistic
from ssleval.core.corruptions import CORRUPTIONS

_ERRORS = (
    0.886428,
    0.894468,
    0.922640,
    0.819880,
    0.826268,
    0.785948,
    0.798360,
    0.866816,
    0.826572,
    0.819324,
    0.564592,
    0.853204,
    0.646056,
    0.717840,
    0.606500,
)
ALEXNET_ERRORS: Mapping[str, float] = dict(zip(CORRUPTIONS, _ERRORS, strict=True))
"""AlexNet's top-1 error on every corruption of ImageNet-C, the mean over its five severities.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, and their ``ImageNet-C/test.py``.
"""


def mean_corruption_error_of(wrong: str) -> Statistic:
    """Return mCE as a fraction: 1.0 is AlexNet's, papers print it times 100.

    ``wrong [n 15 5]`` says of every image whether the model erred on it under each corruption, in the
    order of `ALEXNET_ERRORS`, at each severity. One image, in all its variants, is what is resampled.

    Source:
        Hendrycks and Dietterich 2019, arXiv:1903.12261, sec. 4.1: CE of a corruption is the sum of the
        model's errors over severities by the sum of AlexNet's, mCE the mean of CE over corruptions.
    """
    return partial(_mean_corruption_error, wrong=wrong)


def _mean_corruption_error(
    samples: Samples, weights: Float[np.ndarray, "r n"], *, wrong: str
) -> Float[np.ndarray, " r"]:
    each = samples[wrong].mean(axis=2, dtype=np.float64)
    errors = weights @ each / weights.sum(axis=1, keepdims=True)
    return (errors / np.array([*ALEXNET_ERRORS.values()])).mean(axis=1)
