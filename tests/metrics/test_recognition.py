import numpy as np
import pytest

from ssleval.core import Samples
from ssleval.metrics.recognition import GAP, GAP_MINUS, TOP1, gap, outcomes


def test_scores_are_those_of_a_ranking_by_hand() -> None:
    truth = np.array([4, -1, 2, 7])
    predicted, confidence = np.array([4, 4, 3, 7]), np.array([3.0, 2.0, 1.0, 0.0])
    samples = Samples(list("abcd"), outcomes(predicted, confidence, truth))
    assert gap(predicted, confidence, truth) == GAP.score(samples) == pytest.approx((1 / 1 + 2 / 4) / 3)
    assert GAP_MINUS.score(samples) == pytest.approx((1 / 1 + 2 / 3) / 3)
    assert TOP1.score(samples) == pytest.approx(2 / 3)
