"""How much a score varies over repeated draws, as one contribution per image."""

import numpy as np
from jaxtyping import Bool, Float, Int


def deviation_contributions(
    correct: Bool[np.ndarray, "n tries"] | Float[np.ndarray, "n tries"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return contributions whose mean is the standard deviation of the score over tries (``ddof=1``).

    The score of a try is the mean of ``correct``, or of contributions to a score, within each group, averaged
    over groups: one group for accuracy, classes for mean per-class accuracy. A contribution is the deviation
    plus the image's first-order influence on it, so their mean has the interval of the delta method.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shares = len(correct) / (len(sizes) * sizes[group])
    weighed = shares[:, None] * correct
    scores = weighed.mean(axis=0)
    deviation = float(scores.std(ddof=1))
    if deviation == 0:
        return np.zeros(len(correct))
    slopes = (scores - scores.mean()) / ((correct.shape[1] - 1) * deviation)
    return deviation + (weighed - scores) @ slopes
