import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from ssleval.heads.dense.ridge import Moments, Ridge


@pytest.mark.parametrize("strength", [1e-4, 0.5])
def test_a_fit_from_chunks_is_scikit_learn_s(strength: float) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((90, 6)) * [1, 5, 1, 1, 1, 0.1] + 3, random.standard_normal((90, 2)) + 7
    moments = Moments.empty(6, 2)
    for rows in np.split(np.arange(90), [10, 70]):
        moments.add(x[rows].astype(np.float32), y[rows])
    alpha = strength * x.var(axis=0).mean() * 90
    expected = Reference(alpha=alpha).fit(x.astype(np.float32).astype(float), y)
    np.testing.assert_allclose(Ridge.fit(moments, strength).predict(x), expected.predict(x), rtol=1e-5)


def test_inputs_that_never_change_predict_the_mean() -> None:
    moments = Moments.empty(2, 1)
    moments.add(np.ones((4, 2)), np.arange(4.0)[:, None])
    assert Ridge.fit(moments, 1e-3).predict(np.ones((1, 2))) == pytest.approx(1.5)
